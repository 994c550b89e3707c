"""Ops that users teach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from prunekit.backend_torch import register_op
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core import custom_ops
from prunekit.core.analysis import analyse
from prunekit.core.errors import InputError
from prunekit.core.verification import verify

BACKEND = TorchBackend()


@torch.library.custom_op("prunekit_tests::swish", mutates_args=())
def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


@torch.library.custom_op("prunekit_tests::spread", mutates_args=())
def spread(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, 1)


@torch.library.custom_op("prunekit_tests::rownorm", mutates_args=())
def rownorm(x: torch.Tensor) -> torch.Tensor:
    return torch.layer_norm(x, x.shape[-1:])


for op in (swish, spread, rownorm):
    op.register_fake(torch.empty_like)


class Net(nn.Module):
    def __init__(self, across: str = "spread") -> None:
        super().__init__()
        self.across = across
        self.one, self.two, self.fc = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        across = getattr(torch.ops.prunekit_tests, self.across)
        return self.fc(across(self.two(swish(self.one(x)))))


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(custom_ops, "_TAUGHT", {})
    yield


def test_unknown_ops_freeze_what_touches_them() -> None:
    analysis = analyse(BACKEND, Net(), torch.randn(3, 6))
    assert not analysis.groups
    assert any("unknown operation prunekit_tests.swish" in f.reason for f in analysis.coupling.frozen)


def test_taught_ops_are_cut() -> None:
    torch.manual_seed(0)
    register_op("prunekit_tests::swish", "elementwise")
    register_op("prunekit_tests::spread", "softmax", attrs=lambda shapes: {"axis": len(shapes[0]) - 1})
    analysis = analyse(BACKEND, Net(), torch.randn(3, 6))
    assert [(g.name, g.size, g.neutral) for g in analysis.groups] == [("one", 16, True), ("two", 12, False)]
    found = verify(BACKEND, Net(), torch.randn(3, 6))
    assert found.status == "non-neutral exact", found.message


def test_taught_norms_are_masked() -> None:
    torch.manual_seed(0)
    register_op("prunekit_tests::swish", "elementwise")
    register_op("prunekit_tests::rownorm", "layer_norm", attrs=lambda shapes: {"axes": (len(shapes[0]) - 1,)})
    found = verify(BACKEND, Net("rownorm"), torch.randn(3, 6))
    assert found.status == "non-neutral exact" and found.groups == 2, found.message


class Renormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.renorm(self.one(x), 2, 1, 0.1))  # each column by itself


@pytest.mark.parametrize("name", ["aten::renorm", "aten.renorm.default", "renorm"])
def test_ops_of_pytorch_itself_are_taught(name: str) -> None:
    example = torch.randn(3, 6)
    frozen = analyse(BACKEND, Renormed(), example).coupling.frozen
    assert any("unknown operation aten.renorm.default" in f.reason for f in frozen)
    register_op(name, "elementwise")
    found = verify(BACKEND, Renormed(), example)
    assert found.status == "exact" and found.groups == 1, found.message


def doubled(x):  # type: ignore[no-untyped-def]  # MindSpore reads no types here
    return x * 2


def test_taught_ops_are_cut_in_mindspore() -> None:
    pytest.importorskip("mindspore")
    from mindspore import Tensor, ops
    from mindspore import nn as mnn

    from prunekit.backend_mindspore.backend import MindSporeBackend

    class Cells(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = mnn.Dense(6, 16), mnn.Dense(16, 4)
            self.double = ops.Custom(doubled, lambda x: x, lambda x: x, func_type="pyfunc")

        def construct(self, x: Tensor) -> Tensor:
            return self.two(self.double(self.one(x)))

    backend = MindSporeBackend()
    example = backend.example((3, 6))
    assert not analyse(backend, Cells(), example).groups
    register_op("doubled", "elementwise")
    assert [(g.name, g.size) for g in analyse(backend, Cells(), example).groups] == [("one", 16)]
    found = verify(backend, Cells(), example)
    assert found.status == "exact", found.message


def test_what_cannot_be_taught() -> None:
    with pytest.raises(InputError, match="kind must be one that core.graph describes, got 'element'; did you mean"):
        register_op("prunekit_tests::swish", "element")
    missing = r"needs the attributes \('axis',\), got \['axis'\] missing"
    with pytest.raises(InputError, match=missing):
        register_op("prunekit_tests::swish", "softmax")
    register_op("prunekit_tests::swish", "softmax", attrs=lambda shapes: {})
    with pytest.raises(InputError, match=missing):
        analyse(BACKEND, Net(), torch.randn(3, 6))
    register_op("prunekit_tests::swish", "attention", attrs={"scaled": False})
    with pytest.raises(InputError, match="kind 'attention' takes at least 3 tensors, got a call with 1; give"):
        analyse(BACKEND, Net(), torch.randn(3, 6))
    with pytest.raises(InputError, match=r"kind 'scatter' needs the attributes \('axis',\)"):
        register_op("prunekit_tests::swish", "scatter")
    for name in ("prunekit_tests.swish", "mylib.layers.swish.default", "a..b"):
        with pytest.raises(InputError, match=f"must be named as its framework does, got '{name}'; write 'mylib::"):
            register_op(name, "elementwise")

"""What ``verify`` says of networks whose outputs are no plain numbers, and of how networks are run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _frameworks import BOTH
from torch import nn

from prunekit.core.backend import Backend
from prunekit.core.errors import InputError
from prunekit.core.registry import get_backend
from prunekit.core.verification import verify


class Two(nn.Module):
    """Two layers, whose result is made into outputs."""

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        super().__init__()
        self.one, self.two, self.finish = nn.Linear(6, 16), nn.Linear(16, 8), finish

    def forward(self, x: torch.Tensor) -> Any:
        return self.finish(self.two(torch.relu(self.one(x))))


def build(framework: str, finish: Callable[[Any], Any]) -> tuple[Backend, Any, Any]:
    backend = get_backend(framework)
    torch.manual_seed(0)
    example = backend.example((5, 6))
    if framework == "torch":
        return backend, Two(finish), example
    import mindspore as ms
    from mindspore import nn as mnn
    from mindspore import ops

    class MsTwo(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = mnn.Dense(6, 16), mnn.Dense(16, 8)

        def construct(self, x: ms.Tensor) -> Any:
            return finish(self.two(ops.relu(self.one(x))))

    return backend, MsTwo(), example


def with_nan(y):  # type: ignore[no-untyped-def]  # MindSpore reads no types here
    return y, (y - y) / (y - y)


def without_numbers(y):  # type: ignore[no-untyped-def]
    return y > 0


def softmax_between(backend: Backend) -> tuple[Backend, Any, Any]:
    import mindspore as ms
    from mindspore import nn as mnn
    from mindspore import ops

    class Net(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = mnn.Dense(6, 16), mnn.Dense(16, 8)

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            return self.two(ops.softmax(self.one(x), -1))

    return backend, Net(), backend.example((5, 6))


@pytest.mark.parametrize("framework", BOTH)
def test_outputs_that_are_no_numbers_do_not_agree(framework: str) -> None:
    found = verify(*build(framework, with_nan))
    assert found.status == "failed" and "differ by nan" in found.message


@pytest.mark.parametrize("framework", BOTH)
def test_outputs_without_numbers_tell_nothing(framework: str) -> None:
    found = verify(*build(framework, without_numbers))
    assert found.status == "failed" and "the check is blind" in found.message


def test_a_cut_may_change_how_many_things_are_found() -> None:
    found = verify(*build("torch", lambda y: y[y > 0.1]))
    assert found.status == "exact", found.message


def test_a_mode_that_a_framework_lacks_is_named() -> None:
    network = build("torch", with_nan)
    with pytest.raises(InputError, match="torch has, got 'graph'"):
        verify(*network, modes=["graph"])
    with pytest.raises(InputError, match="torch runs networks in one way alone, got the mode 'graph'"):
        network[0].in_mode("graph")


def test_modes_of_mindspore() -> None:
    ms = pytest.importorskip("mindspore")
    network = build("mindspore", with_nan)
    for modes in (["pynative"], ["graph"], ["graph", "pynative"]):
        found = verify(*network, seeds=1, modes=modes)
        assert [f"nan in {mode} mode" in found.message for mode in ("pynative", "graph")] == [
            mode in modes for mode in ("pynative", "graph")
        ]
    with pytest.raises(InputError, match="must run in one mode at least, got none"):
        verify(*network, modes=[])
    before = ms.get_context("mode")
    with pytest.raises(InputError, match=r"must be one of \['pynative', 'graph'\], got 'Graph'"):
        network[0].in_mode("Graph").__enter__()
    assert ms.get_context("mode") == before


def test_whatever_mode_is_set_a_mask_leaves_channels_out_of_sums() -> None:
    pytest.importorskip("mindspore")
    backend = get_backend("mindspore")
    for mode in backend.modes:
        with backend.in_mode(mode):
            found = verify(*softmax_between(backend), seeds=1)
        assert found.status == "non-neutral exact", found.message

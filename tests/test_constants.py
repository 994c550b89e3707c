"""Numbers in the user's own code: set to widths, made right by ties, or named where channels must stay."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _frameworks import BOTH
from torch import nn

from prunekit.core.analysis import Analysis, analyse, dry_run
from prunekit.core.backend import Backend
from prunekit.core.constants import solved
from prunekit.core.errors import CutError
from prunekit.core.inspection import Inspection
from prunekit.core.plan import PruningPlan
from prunekit.core.registry import get_backend
from prunekit.core.verification import random_plan, relative_error, verify


class Attention(nn.Module):
    """As most vision transformers write it: the width is read off the input, the heads off the module."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class Tokens(nn.Module):
    """Tokens, two blocks of attention, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.one, self.two = nn.Linear(8, 24), Attention(24, 6), Attention(24, 6)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = x + self.one(x)
        return self.fc((x + self.two(x)).mean(1))


def rows(x: Any) -> Any:
    """Code outside of any module."""
    return x.reshape((-1, 16))  # 16: the number that stands in the way


class Numbered(nn.Module):
    """A width of its own, kept as an attribute; one that is written into its code; one that stands elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 12
        self.conv, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 10, 3, padding=1)
        self.hidden, self.fc = nn.Linear(10, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x)).reshape(-1, self.channels, 6, 6)
        x = torch.relu(self.second(x)).mean((2, 3)).reshape(-1, 10)
        x = torch.relu(self.hidden(x))
        return self.fc(rows(x))


class Checked(nn.Module):
    """A width that code checks once all is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Linear(8, 12), nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.one(x))
        y = self.fc(torch.relu(self.two(hidden)))
        if hidden.shape[-1] != 12:
            raise ValueError("a width is checked")
        return y


def mindspore_networks() -> dict[str, Any]:
    import mindspore as ms
    from mindspore import nn as mnn
    from mindspore import ops

    class MsAttention(mnn.Cell):
        def __init__(self, width: int, num_heads: int) -> None:
            super().__init__()
            self.num_heads = num_heads
            self.scale = (width // num_heads) ** -0.5
            self.qkv, self.proj = mnn.Dense(width, 3 * width), mnn.Dense(width, width)

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            b, n, c = x.shape
            qkv = self.qkv(x).reshape((b, n, 3, self.num_heads, c // self.num_heads)).transpose((2, 0, 3, 1, 4))
            q, k, v = qkv[0], qkv[1], qkv[2]
            weights = ops.softmax(ops.matmul(q, k.transpose((0, 1, 3, 2))) * self.scale, -1)
            return self.proj(ops.matmul(weights, v).transpose((0, 2, 1, 3)).reshape((b, n, c)))

    class MsTokens(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.one, self.two = mnn.Dense(8, 24), MsAttention(24, 6), MsAttention(24, 6)
            self.fc = mnn.Dense(24, 5)

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            x = self.embed(x)
            x = x + self.one(x)
            return self.fc((x + self.two(x)).mean(1))

    class MsNumbered(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.channels = 12
            self.conv = mnn.Conv2d(3, 12, 3, has_bias=True)
            self.second = mnn.Conv2d(12, 10, 3, has_bias=True)
            self.hidden, self.fc = mnn.Dense(10, 16), mnn.Dense(16, 5)

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            x = ops.relu(self.conv(x)).reshape((-1, self.channels, 6, 6))
            x = ops.relu(self.second(x)).mean((2, 3)).reshape((-1, 10))
            x = ops.relu(self.hidden(x))
            return self.fc(rows(x))

    class MsChecked(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.fc = mnn.Dense(8, 12), mnn.Dense(12, 10), mnn.Dense(10, 5)

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            hidden = ops.relu(self.one(x))
            y = self.fc(ops.relu(self.two(hidden)))
            if hidden.shape[-1] != 12:
                raise ValueError("a width is checked")
            return y

    return {"tokens": MsTokens, "numbered": MsNumbered, "checked": MsChecked}


SHAPES = {"tokens": (2, 7, 8), "numbered": (3, 3, 6, 6)}
CHECKED = (2, 7, 8)


def build(backend: Backend, name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    torches = {"tokens": Tokens, "numbered": Numbered, "checked": Checked}
    networks = mindspore_networks() if backend.name == "mindspore" else torches
    return networks[name](), backend.example(SHAPES.get(name, CHECKED))


def analysed(backend: Backend, name: str) -> Analysis:
    model, example = build(backend, name)
    return analyse(backend, model, example)


@pytest.mark.parametrize("framework", BOTH)
def test_heads_are_cut_with_the_width_that_code_takes_for_them(framework: str) -> None:
    backend = get_backend(framework)
    analysis = analysed(backend, "tokens")
    assert [(g.name, g.size) for g in analysis.groups] == [("embed", 6)]
    plan = random_plan(analysis)
    small = backend.apply(analysis, plan)
    assert small.one.num_heads == small.two.num_heads == 4 and analysis.model.one.num_heads == 6
    with backend.masked(analysis, plan):
        expected = backend.outputs(analysis.model, analysis.example)[0]
    assert relative_error(backend.outputs(small, analysis.example)[0], expected) < 1e-5
    more = backend.example((5, 11, 8))
    assert backend.outputs(small, more)[0].shape == (5, 5)
    found = {(s.how, s.what) for s in solved(analysis.coupling)}
    assert ("attribute", "num_heads") in found and any(how == "tie" for how, _ in found)


@pytest.mark.parametrize("framework", BOTH)
def test_what_can_be_set_follows_and_the_rest_freezes_with_its_line(framework: str) -> None:
    backend = get_backend(framework)
    analysis = analysed(backend, "numbered")
    assert {g.name: g.size for g in analysis.groups} == {"conv": 12, "second": 10}
    plan = PruningPlan.of(analysis.coupling, {"conv": range(5), "second": range(3, 10)})
    assert backend.apply(analysis, plan).channels == 5
    seen = Inspection.of(analysis)
    stands = "a number in the code stands in the way"
    assert [(c.how, c.what) for c in seen.constants] == [("attribute", "channels"), ("rewritten", "10")]
    assert "attribute: channels" in str(seen) and "rewritten: 10 (" in str(seen)
    (stays,) = [row for row in seen.frozen if row.name == "hidden"]
    assert stays.reason.startswith(stands)
    line = Path(__file__).read_text().splitlines()[int(stays.where.rpartition(":")[2]) - 1]
    assert "the number that stands in the way" in line or (framework == "mindspore" and "rows(x)" in line)


@pytest.mark.parametrize("framework", BOTH)
def test_rewritten_code_can_be_cut_again(framework: str) -> None:
    backend = get_backend(framework)
    model, example = build(backend, "numbered")
    for left in (7, 4):
        analysis = analyse(backend, model, example)
        assert ("rewritten", "10") in {(c.how, c.what) for c in solved(analysis.coupling)}
        plan = PruningPlan.of(analysis.coupling, {"second": range(left)})
        with backend.masked(analysis, plan):
            expected = backend.outputs(model, example)[0]
        model = backend.apply(analysis, plan)
        assert relative_error(backend.outputs(model, example)[0], expected) < 1e-5
        assert backend.outputs(model, backend.example((5, 3, 6, 6)))[0].shape == (5, 5)
    assert type(model).__name__ in ("Numbered", "MsNumbered") and "self.channels" in inspect.getsource(
        type(model).forward if framework == "torch" else type(model).construct
    )


class Known(pickle.Unpickler):
    """Unpickles what this file pickled."""

    def find_class(self, module: str, name: str) -> Any:
        if not module.startswith(("torch", "collections", "copyreg", "prunekit", __name__)):
            raise pickle.UnpicklingError(f"only what was pickled here is read, got {module}.{name}")
        return super().find_class(module, name)


def test_rewritten_modules_are_pickled_as_their_own_class_and_the_places_in_it() -> None:
    backend = get_backend("torch")
    analysis = analysed(backend, "numbered")
    small = backend.apply(analysis, random_plan(analysis))
    again = Known(io.BytesIO(pickle.dumps(small))).load()
    x = torch.ones(2, 3, 6, 6)
    for other in (again, nn.DataParallel(small)):
        torch.testing.assert_close(other(x), small(x))
    assert type(again) is type(small) and isinstance(small, Numbered)


@pytest.mark.parametrize("framework", BOTH)
def test_a_cut_that_a_number_does_not_allow_is_refused_with_its_line(framework: str) -> None:
    backend = get_backend(framework)
    model, example = build(backend, "numbered")
    analysis = analyse(backend, model, example, probe=False)
    plan = PruningPlan.of(analysis.coupling, {"second": range(4)})
    with pytest.raises(CutError, match=r"but in the model \(.*test_constants.py:\d+\).*ignore that layer") as caught:
        backend.apply(analysis, plan)
    line = Path(__file__).read_text().splitlines()[int(re.findall(r"py:(\d+)\)", str(caught.value))[0]) - 1]
    assert "-1, 10" in line


@pytest.mark.parametrize("framework", BOTH)
def test_a_width_that_is_checked_at_the_end_stays(framework: str) -> None:
    backend = get_backend(framework)
    analysis = analysed(backend, "checked")
    assert "one" not in {g.name for g in analysis.groups}
    assert any("the cut model fails" in f.reason or "a width is checked" in f.reason for f in analysis.coupling.frozen)
    for group in analysis.groups:
        plan = PruningPlan.of(analysis.coupling, {group.name: range(group.size // 2)})
        assert backend.outputs(backend.apply(analysis, plan), analysis.example)[0].shape == (2, 7, 5)


@pytest.mark.parametrize("name", SHAPES)
def test_numbers_follow_in_a_network_that_is_cut_in_place(name: str, tmp_path: Path) -> None:
    pytest.importorskip("mindspore")
    from prunekit.backend_mindspore import UniPruner

    backend = get_backend("mindspore")
    net, example = build(backend, name)
    analysis = analyse(backend, net, example)
    plan = random_plan(analysis)
    small = backend.apply(analysis, plan)
    settings = {"exp_name": name, "input_size": list(SHAPES[name]), "output_path": str(tmp_path), "rank": 0}
    UniPruner(settings, formats=()).prune_by_mask(net, plan.mask(analysis.coupling))
    assert backend.integers(net) == backend.integers(small)
    np.testing.assert_array_equal(backend.outputs(net, example)[0], backend.outputs(small, example)[0])


@pytest.mark.parametrize("framework", BOTH)
@pytest.mark.parametrize("name", SHAPES)
def test_cut_networks_are_copied_saved_and_loaded(framework: str, name: str, tmp_path: Path) -> None:
    backend = get_backend(framework)
    analysis = analysed(backend, name)
    small = backend.apply(analysis, random_plan(analysis))
    expected = backend.outputs(small, analysis.example)[0]
    backend.save(small, tmp_path)
    again = backend.load(build(backend, name)[0], tmp_path)
    for other in (backend.clone(small), again, *([copy.deepcopy(small)] if framework == "torch" else [])):
        np.testing.assert_array_equal(backend.outputs(other, analysis.example)[0], expected)


@pytest.mark.parametrize("framework", BOTH)
@pytest.mark.parametrize("name", SHAPES)
def test_the_law_can_be_checked_by_anybody(framework: str, name: str) -> None:
    backend = get_backend(framework)
    model, example = build(backend, name)
    before = {k: v.copy() for k, v in backend.get_state(model).items()}
    found = verify(backend, model, example, name="mine")
    assert found.status == "exact" and found.holds and found.error is not None and found.error < 1e-5
    assert found.groups and 0.2 < found.lost < 0.7 and found.constants and found.modes == backend.modes
    assert all(np.array_equal(v, before[k]) for k, v in backend.get_state(model).items())


class Plain(nn.Module):
    """Convolutions, and between them what a test asks for."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.one, self.two, self.between = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), between
        if between == "a hook":
            self.one.register_forward_hook(lambda module, inputs, output: output.view(-1, 8, 6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.one(x))
        if self.between == "a size":
            x = x.view(x.shape[0], 8, 6, 6)
        elif self.between == "a number":
            x = x / x.shape[1]
        elif self.between == "another way":
            x = x + 1 if x.shape[1] != 8 else torch.relu(x)
        return torch.flatten(self.two(x), 1)


@pytest.mark.parametrize("between", ["nothing", "a hook", "a size", "a number", "another way"])
def test_networks_whose_ops_have_no_sizes_are_spared_the_trial(between: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr("prunekit.core.analysis.dry_run", lambda *given: tried.append(dry_run(*given)) or tried[-1])
    backend, example = get_backend("torch"), torch.randn(1, 3, 8, 8)
    analysis = analyse(backend, Plain(between).eval(), example)
    assert bool(tried) == (between != "nothing")
    assert between != "nothing" or len(analysis.groups) == 1

"""Reading MindIR: code between layers is cut exactly or frozen by name, and nothing of the network changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
import mindspore as ms
from mindspore import Tensor, nn, ops
from nets_mindspore import Mixed, conv, randomise

from prunekit.backend_mindspore import _mindir, _running
from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.backend_mindspore.cut import adopt
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.errors import TraceError
from prunekit.core.testing import random_plan, relative_error
from prunekit.core.verification import verify

BACKEND = MindSporeBackend()


def image(seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).normal(size=(2, 3, 6, 6)).astype(np.float32))


class Body(nn.Cell):
    """Code between two convolutions; kinds differ in :meth:`body`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 12, 3)
        self.last = conv(12, 5, 1)

    def construct(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.first(x)))


class Halves(Body):
    def body(self, x: Tensor) -> Tensor:
        left, right = ops.chunk(x, 2, 1)
        return ops.cat((right, left * ops.sigmoid(right)), 1)


class Shuffle(Body):
    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.reshape((n, 3, c // 3, h, w)).swapaxes(1, 2).reshape((n, c, h, w))


class Gate(Body):
    def body(self, x: Tensor) -> Tensor:
        return x * ops.softmax(x.mean((2, 3)), -1)[:, :, None, None] * 2.0


class LastAxis(Body):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((12,))
        self.wide = nn.Dense(12, 20)
        self.narrow = nn.Dense(20, 12)

    def body(self, x: Tensor) -> Tensor:
        y = self.narrow(ops.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))))
        return x + y.permute(0, 3, 1, 2)


class Groups(Body):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(3, 12)
        self.slope = nn.PReLU(12)
        self.up = nn.Conv2dTranspose(12, 12, 2, 2, has_bias=True)
        self.depthwise = conv(12, 12, 3, group=12)

    def body(self, x: Tensor) -> Tensor:
        return self.depthwise(self.up(self.slope(self.norm(x))))


class Positions(Body):
    """Parameters in a tuple, and a primitive that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = ms.ParameterTuple([ms.Parameter(np.ones((1, 12, 1, 1), np.float32), name=f"t.{k}") for k in "ab"])
        self.length = ops.LpNorm(axis=(2, 3), keep_dims=True)

    def body(self, x: Tensor) -> Tensor:
        x = x + self.tables[0]
        return x / (1 + self.length(x)) * self.tables[1]


class Standardised(nn.Conv2d):
    """A variance divides by a count, and the mean is computed twice."""

    def construct(self, x: Tensor) -> Tensor:
        w = self.weight
        mean = w.mean((1, 2, 3), keep_dims=True)
        w = (w - mean) / ops.sqrt(w.var((1, 2, 3), keepdims=True) + 1e-5)
        return self.conv2d(x, w)


class Weights(Body):
    def __init__(self) -> None:
        super().__init__()
        self.one = Standardised(12, 12, 1, has_bias=False, weight_init="normal")
        self.two = nn.SequentialCell(nn.ReLU(), Standardised(12, 12, 1, has_bias=False, weight_init="normal"))

    def body(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x))


def absorbed(x: Tensor) -> Tensor:
    x = x.reshape((x.shape[0] * 12, -1))  # takes any width, and gives another shape
    return ops.relu(x).reshape((-1, 12, 6, 6))


class Absorbs(Body):
    def body(self, x: Tensor) -> Tensor:
        return absorbed(x)


class Inner(nn.Cell):
    def construct(self, x: Tensor) -> Tensor:
        return ops.exp(-x.reshape((2, -1, 36))).reshape(x.shape)  # inner


class Twins(Body):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Inner(), nn.SequentialCell(Inner(), nn.ReLU())

    def body(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))  # body


class Centred(Body):
    """Weights worked out from others, which are not zero where those are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = conv(12, 12, 3)

    def body(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        weight = weight - weight.mean((1, 2, 3), keep_dims=True)
        return ops.conv2d(x, weight, self.layer.bias, pad_mode="pad", padding=1)


class Literal(Body):
    def body(self, x: Tensor) -> Tensor:
        return ops.cat((x[:, 5:], x[:, :5] * 2), 1)


class LiteralView(Body):
    def body(self, x: Tensor) -> Tensor:
        return x.reshape((2, 12, 36)).reshape((2, 12, 6, 6))


class ByWidth(Body):
    def body(self, x: Tensor) -> Tensor:
        return x / x.shape[1] ** 0.5


class Strongest(Body):
    def body(self, x: Tensor) -> Tensor:
        return x * x.argmax(1).astype(ms.float32)[:, None]


class Ramp(Body):
    def body(self, x: Tensor) -> Tensor:
        return x * ops.arange(x.shape[1]).astype(ms.float32).reshape((1, -1, 1, 1))


def look(net: nn.Cell) -> Analysis:
    return analyse(BACKEND, randomise(net).set_train(False), image())


def check(analysis: Analysis) -> None:
    for seed in range(2):
        plan = random_plan(analysis, seed=seed)
        found = BACKEND.predict(BACKEND.apply(analysis, plan), image(1))
        with BACKEND.masked(analysis, plan):
            expected = BACKEND.predict(analysis.model, image(1))
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("kind", [Halves, Shuffle, LastAxis, Groups, Twins, Positions, Weights, Literal, Centred])
def test_code_between_layers_is_cut_exactly(kind: type[Body]) -> None:
    analysis = look(kind())
    assert any(m.name == "first.weight" for g in analysis.groups for m in g.members)
    check(analysis)


@pytest.mark.parametrize("kind", [LiteralView, ByWidth, Strongest, Ramp, Absorbs])
def test_what_cannot_be_cut_is_frozen_by_name(kind: type[Body]) -> None:
    analysis = look(kind())
    assert "first" in {f.name for f in analysis.coupling.frozen}
    if analysis.groups:
        check(analysis)


def test_parameters_in_a_tuple_are_cut_in_place() -> None:
    analysis = look(Positions())
    net = analysis.model
    adopt(net, BACKEND.apply(analysis, random_plan(analysis, keep=0.5)))
    assert {p.shape for p in net.tables} == {p.shape for p in net._params.values()} == {(1, 6, 1, 1)}
    assert BACKEND.predict(net, image()).shape == (2, 5, 6, 6)


@pytest.mark.parametrize("kind", [LiteralView, Absorbs, Positions])
def test_without_ops_as_they_run_networks_are_cut_too(kind: type[Body], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_running, "Dispatch", None)
    analysis = look(kind())
    assert kind is Positions or "first" in {f.name for f in analysis.coupling.frozen}
    if analysis.groups:
        check(analysis)


@pytest.mark.skipif(_running.Dispatch is None, reason="this MindSpore tells of no ops as they run")
def test_ops_have_their_own_cell_and_line_where_instances_share_code() -> None:
    graph = BACKEND.trace(Twins(), image())
    source = Path(__file__).read_text().splitlines()

    def places(raw: str) -> list[tuple[str, str]]:
        found = [(op.scope, op.where.rpartition(":")[2]) for op in graph.ops if op.raw == raw]
        return [(scope, source[int(line) - 1].partition("# ")[2] if line.isdigit() else "") for scope, line in found]

    assert places("Exp") == [("one", "inner"), ("two.0", "inner")]
    assert places("Reshape") == [("one", "inner"), ("two.0", "inner")]
    assert places("ReLU") == [("two.1", "")]  # the line that calls a sequence is no place in it


@pytest.mark.skipif(_running.Dispatch is None, reason="this MindSpore tells of no ops as they run")
def test_every_op_is_found_where_the_compiler_orders_them_anew() -> None:
    graph = BACKEND.trace(Weights(), image())
    assert all("step" in op.attrs for op in graph.ops)
    for op in graph.ops:
        (owner, *others) = {graph.tensors[t].name.rpartition(".")[0] for t in op.inputs if graph.tensors[t].name} or [
            ""
        ]
        assert not others and owner in (op.scope, "")


@pytest.mark.skipif(_running.Dispatch is None, reason="this MindSpore tells of no ops as they run")
def test_the_first_op_with_another_shape_is_named() -> None:
    (stays,) = [f for f in look(Absorbs()).coupling.frozen if f.name == "first"]
    assert "expected shape" in stays.reason
    assert "takes any width" in Path(__file__).read_text().splitlines()[int(stays.where.rpartition(":")[2]) - 1]


def test_statistics_over_channels_are_masked_op_by_op_and_refused_when_compiled() -> None:
    analysis = look(Gate())
    check(analysis)
    plan = random_plan(analysis)
    message = "a compiled network cannot leave channels out of Softmax"
    with BACKEND.in_mode("graph"), pytest.raises(Exception, match=message), BACKEND.masked(analysis, plan):
        pass


def test_a_trace_leaves_no_mark() -> None:
    net = Mixed()
    net.set_train(True)
    net.norm_a.set_train(False)
    before = [cell.training for _, cell in net.cells_and_names()]
    names = [p.name for p in net.get_parameters()]
    mode = ms.get_context("mode")
    BACKEND.trace(net, Tensor(np.zeros((2, 3, 16, 16), np.float32)))
    assert [cell.training for _, cell in net.cells_and_names()] == before
    assert [p.name for p in net.get_parameters()] == names and ms.get_context("mode") == mode
    assert not any(cell.compile_cache for _, cell in net.cells_and_names())


def test_an_exported_file_stands_in_for_private_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    net, example = randomise(Mixed()).set_train(False), Tensor(np.zeros((2, 3, 16, 16), np.float32))
    expected = BACKEND.trace(net, example)
    monkeypatch.setattr(_mindir, "_executor", lambda: None)
    found = BACKEND.trace(net, example)
    assert [(op.kind, op.scope, op.operands) for op in found.ops] == [
        (op.kind, op.scope, op.operands) for op in expected.ops
    ]
    assert [t.shape for t in found.tensors] == [t.shape for t in expected.tensors]


def test_a_wrong_example_is_an_error_with_its_shape() -> None:
    wrong: Any = Tensor(np.zeros((2, 4, 16, 16), np.float32))
    with pytest.raises(TraceError, match=r"must compile for the example \(shapes \[\(2, 4, 16, 16\)\]\)"):
        BACKEND.trace(Mixed(), wrong)


def test_a_network_that_does_not_compile_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = verify(BACKEND, nn.SequentialCell(conv(3, 8, 3), conv(9, 4, 1)), image())
    assert (found.status, found.error, found.holds) == ("refused", None, False)
    assert "must compile for the example" in found.message
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_repeat_the_frameworks_advice(capfd: pytest.CaptureFixture[str]) -> None:
    BACKEND.trace(Mixed(), Tensor(np.zeros((2, 3, 16, 16), np.float32)))
    assert "pynative_synchronize" not in "".join(capfd.readouterr())


def test_one_cut_may_be_run_in_all_modes_and_the_rest_in_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    in_mode = BACKEND.in_mode
    monkeypatch.setattr(BACKEND, "in_mode", lambda mode: (ran.append(mode), in_mode(mode))[1])
    found = verify(BACKEND, randomise(Halves()), image(), mode_seeds=1)
    assert found.status == "exact" and ran == [*["pynative"] * 3, "graph", *["pynative"] * 4]

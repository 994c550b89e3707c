"""Cost: exact against hand counts, brute force and networks that were really cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import Mixed
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.cost import METRICS, Cost, conventions
from prunekit.core.coupling.couple import couple
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.graph import Graph, Op, Tensor
from prunekit.core.plan import PruningPlan


class Little:
    """Writes a graph by hand."""

    def __init__(self, *inputs: tuple[int, ...]) -> None:
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self.inputs = tuple(self.tensor(shape, "input") for shape in inputs)

    def tensor(self, shape: tuple[int, ...], role: str = "activation", name: str = "") -> int:
        self.tensors.append(Tensor(len(self.tensors), shape, role, name))  # type: ignore[arg-type]
        return len(self.tensors) - 1

    def parameter(self, name: str, *shape: int) -> int:
        return self.tensor(shape, "parameter", name)

    def op(self, kind: str, inputs: list[int], shape: tuple[int, ...], operands: str = "", **rest: object) -> int:
        raw = str(rest.pop("raw", ""))
        out = self.tensor(shape)
        self.ops.append(
            Op(kind, tuple(inputs), (out,), tuple(operands.split()), rest, scope=f"op{len(self.ops)}", raw=raw)
        )
        return out

    def graph(self, *outputs: int, train_ops: tuple[Op, ...] = ()) -> Graph:
        names = tuple(t.name for t in self.tensors if t.role == "parameter")
        return Graph(tuple(self.tensors), tuple(self.ops), self.inputs, outputs, train_ops, names=names)


def two_convs(batch: int = 1) -> Graph:
    net = Little((batch, 3, 8, 8))
    first, bias = net.parameter("a.weight", 6, 3, 3, 3), net.parameter("a.bias", 6)
    second = net.parameter("b.weight", 5, 6, 1, 1)
    x = net.op(
        "conv",
        [net.inputs[0], first, bias],
        (batch, 6, 8, 8),
        "input weight bias",
        groups=1,
        transposed=False,
        spatial=2,
    )
    x = net.op("elementwise", [x], (batch, 6, 8, 8), "input", raw="relu")
    x = net.op("conv", [x, second], (batch, 5, 8, 8), "input weight", groups=1, transposed=False, spatial=2)
    return net.graph(x)


def test_hand_count_of_two_convs() -> None:
    cost = Cost(couple(two_convs()))
    for w in (6, 4, 1):
        figures = {m: int(v[0]) for m, v in cost.of([w], METRICS).items()}
        assert figures["params"] == w * 27 + w + 5 * w
        assert figures["macs"] == 64 * (27 * w + 5 * w)
        assert figures["flops"] == 2 * figures["macs"] + 64 * w + 64 * w  # bias, relu
        assert figures["memory"] == 4 * 64 * (w + w + 5)
        read = 64 * 3 + 27 * w + w + 64 * w + 64 * w + 5 * w
        assert figures["bandwidth"] == 4 * (read + 64 * (w + w + 5))


def test_figures_are_of_one_sample() -> None:
    one, many = Cost(couple(two_convs())), Cost(couple(two_convs(batch=7)))
    for metric in ("params", "macs", "flops", "memory", "bandwidth"):
        assert one.full((metric,)) == many.full((metric,))
    assert Cost(couple(two_convs(batch=7)), batch=1).full(("macs",))["macs"] == 7 * one.full(("macs",))["macs"]


@pytest.mark.parametrize("batch", [2, 3])
def test_a_batch_in_one_axis_with_channels_counts_once(batch: int) -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 1), nn.Linear(5, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.fc(torch.relu(x.reshape(-1, 5))).reshape(x.shape[0], -1, 7).sum(1)

    def cost(n: int) -> Cost:
        return Cost(analyse(TorchBackend(), Rows(), torch.zeros(n, 3, 1, 5)).coupling)

    assert cost(batch).of([[6], [5]], METRICS)["macs"].tolist() == [(3 + 7) * 5 * 6, (3 + 7) * 5 * 5]
    for metric in METRICS:
        assert (
            cost(batch).of([[6], [5]], (metric,))[metric].tolist()[1:] == cost(1).of([[5]], (metric,))[metric].tolist()
        )


def test_products() -> None:
    net = Little((2, 4, 10, 8))
    x = net.inputs[0]
    scores = net.op("matmul", [x, net.op("permute", [x], (2, 4, 8, 10), "input", perm=(0, 1, 3, 2))], (2, 4, 10, 10))
    out = net.op("attention", [x, x, x], (2, 4, 10, 8), "query key value", scaled=True)
    contracted = net.op("einsum", [x, x], (2, 4, 10, 10), "input input", equation="...qd,...kd->...qk")
    cost = Cost(couple(net.graph(scores, out, contracted)))
    product = 4 * 10 * 10 * 8
    assert cost.full(("macs",))["macs"] == product + 2 * product + product
    assert cost.full(("flops",))["flops"] == 8 * product + 5 * 4 * 10 * 10  # softmax inside of attention


def test_transposed_conv_counts_input_positions() -> None:
    net = Little((1, 3, 5, 5))
    weight = net.parameter("up.weight", 3, 7, 2, 2)
    x = net.op("conv", [net.inputs[0], weight], (1, 7, 10, 10), "input weight", groups=1, transposed=True, spatial=2)
    assert Cost(couple(net.graph(x))).full(("macs",))["macs"] == 3 * 7 * 4 * 25


def test_training_ops_cost_only_parameters() -> None:
    net = Little((1, 3, 4, 4))
    weight, extra = net.parameter("a.weight", 5, 3, 1, 1), net.parameter("aux.weight", 2, 3, 1, 1)
    x = net.op("conv", [net.inputs[0], weight], (1, 5, 4, 4), "input weight", groups=1, transposed=False, spatial=2)
    y = net.op("conv", [net.inputs[0], extra], (1, 2, 4, 4), "input weight", groups=1, transposed=False, spatial=2)
    train = (net.ops.pop(),)
    cost = Cost(couple(net.graph(x, y, train_ops=train)))
    assert cost.full(("params", "macs")) == {"params": 15 + 6, "macs": 16 * 15}


@pytest.fixture(scope="module")
def mixed() -> Analysis:
    return analyse(TorchBackend(), Mixed().eval(), torch.zeros(2, 3, 12, 12))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("convention", list(conventions()))
def test_polynomials_agree_with_cut_networks(mixed: Analysis, seed: int, convention: str) -> None:
    rng = np.random.default_rng(seed)
    kept = {g.name: sorted(rng.permutation(g.size)[: rng.integers(1, g.size + 1)]) for g in mixed.groups}
    plan = PruningPlan.of(mixed.coupling, kept)
    small = mixed.backend.apply(mixed, plan)
    predicted = Cost(mixed.coupling, convention).of(plan.widths(mixed.coupling), METRICS)
    traced = Cost(couple(mixed.backend.trace(small, mixed.example)), convention).full()
    assert {m: int(v[0]) for m, v in predicted.items()} == traced
    if convention == "prunekit":
        assert traced["params"] == sum(p.numel() for p in small.parameters())


def test_population_equals_one_by_one(mixed: Analysis) -> None:
    cost = Cost(mixed.coupling)
    rng = np.random.default_rng(0)
    widths = rng.integers(1, mixed.coupling.widths + 1, size=(50, len(mixed.groups)))
    together = cost.of(widths, METRICS)
    for k, row in enumerate(widths):
        assert {m: int(v[k]) for m, v in together.items()} == {m: int(v[0]) for m, v in cost.of(row, METRICS).items()}


def test_rows_add_up(mixed: Analysis) -> None:
    cost = Cost(mixed.coupling)
    widths = mixed.coupling.widths // 2
    rows = cost.per_layer(widths, METRICS)
    for metric, total in cost.of(widths, METRICS).items():
        assert sum(row.figures[metric] for row in rows) == total[0]
    named = {row.layer: row.figures for row in rows}
    assert named["hidden"]["params"] == (24 * 4 // 2 + 1) * 10
    assert list(named)[:2] == ["stem.0", "stem.1"]


def test_bad_input(mixed: Analysis) -> None:
    cost = Cost(mixed.coupling)
    with pytest.raises(ConfigError, match="did you mean 'macs'"):
        cost.of(mixed.coupling.widths, ("mac",))
    with pytest.raises(InputError, match="must have shape"):
        cost.of([1, 2])
    with pytest.raises(InputError, match="integers"):
        cost.of(mixed.coupling.widths * 0.5)
    with pytest.raises(InputError, match="between 0 and"):
        cost.of(mixed.coupling.widths + 1)
    with pytest.raises(ConfigError, match="did you mean 'eagleeye'"):
        Cost(mixed.coupling, "eagle-eye")


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4), st.lists(st.integers(1, 9), min_size=4, max_size=4),
)  # fmt: skip
def test_chain_of_linears(sizes: list[int], cut: list[int]) -> None:
    modules = [nn.Linear(a, b) for a, b in zip([3, *sizes], [*sizes, 2], strict=True)]
    coupling = couple(TorchBackend().trace(nn.Sequential(*modules), torch.zeros(1, 3)))
    widths = [min(c, g.size) for c, g in zip(cut, coupling.groups, strict=False)]
    index = {g.name: w for g, w in zip(coupling.groups, widths, strict=True)}
    real = [3, *(index.get(str(k), size) for k, size in enumerate(sizes)), 2]
    figures = Cost(coupling).of(np.array(widths, dtype=np.int64))
    pairs = list(zip(real[:-1], real[1:], strict=True))
    assert figures["params"][0] == sum(a * b + b for a, b in pairs)
    assert figures["macs"][0] == sum(a * b for a, b in pairs)


def test_flops_of_other_ops() -> None:
    net = nn.Sequential(nn.BatchNorm2d(4), nn.MaxPool2d(3, 2), nn.PReLU(4), nn.Upsample(scale_factor=2), nn.Softmax(1))
    cost = Cost(couple(TorchBackend().trace(net.eval(), torch.zeros(1, 4, 9, 9))))
    pooled, resized = 4 * 4 * 4, 4 * 8 * 8
    assert cost.full(("flops",))["flops"] == 2 * 4 * 81 + 9 * pooled + pooled + resized + 5 * resized

"""Optimizers in MindSpore: those of the recipe, of users, of the unpruned network, and what is carried over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("prunekit.backend_mindspore")

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.experimental import optim as new_optim

from prunekit.backend_mindspore._optimizers import AdamW, check_optimizer, rates_of
from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.backend_mindspore.optimizer import transfer_optimizer
from prunekit.backend_mindspore.state import get_state, set_state
from prunekit.backend_mindspore.train import build_optimizer, fit
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.errors import InputError
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe


class Small(nn.Cell):
    """A convolution, a batch norm and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 3, pad_mode="pad", padding=1, has_bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.fc = nn.Dense(12, 10)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc(ops.relu(self.bn(self.conv(x))).mean((2, 3)))


Batches = list[tuple[np.ndarray, np.ndarray]]
RECIPE = Recipe(lr=0.05, weight_decay=0.0)


@pytest.fixture(params=["pynative", "graph"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    yield request.param
    ms.set_context(mode=before)


@pytest.fixture(scope="module")
def data() -> Batches:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(8, 1, 6, 6)).astype(np.float32), rng.integers(0, 10, 8)) for _ in range(3)]


@pytest.fixture(scope="module")
def pruned(data: Batches) -> tuple[Small, Analysis, PruningPlan, nn.Cell]:
    """A network, and what half of its channels make; tests train either."""
    backend, net = MindSporeBackend(), Small()
    analysis = analyse(backend, net, Tensor(data[0][0][:2]))
    plan = PruningPlan.of(analysis.coupling, {g.name: range(1, g.size, 2) for g in analysis.groups})
    return net, analysis, plan, backend.apply(analysis, plan)


@pytest.fixture
def net() -> Small:
    return Small()


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_adamw_is_that_of_torch(mode: str) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    weights = [Parameter(Tensor(v.copy()), name=n) for n, v in zip("wb", start, strict=True)]
    others = [torch.nn.Parameter(torch.tensor(v)) for v in start]
    kinds = [{"params": [0], "weight_decay": 0.1}, {"params": [1], "weight_decay": 0.0}]
    mine = AdamW([{**k, "params": [weights[i] for i in k["params"]]} for k in kinds], 0.1, (0.9, 0.99))
    other = torch.optim.AdamW(
        [{**k, "params": [others[i] for i in k["params"]]} for k in kinds], 0.1, betas=(0.9, 0.99)
    )
    for _ in range(4):
        slopes = [rng.normal(size=v.shape).astype(np.float32) for v in start]
        mine(tuple(Tensor(s) for s in slopes))
        for p, s in zip(others, slopes, strict=True):
            p.grad = torch.tensor(s)
        other.step()
    for p, q in zip(weights, others, strict=True):
        np.testing.assert_allclose(p.asnumpy(), q.detach().numpy(), atol=1e-6)


# ---- losses and optimizers of the user's own ----


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    wanted = ops.one_hot(targets, 10)
    return ops.relu(1 - (2 * wanted - 1) * outputs).mean()


@pytest.mark.parametrize(
    "mode, kind",
    [("pynative", "nn"), ("pynative", "groups"), ("graph", "groups"), ("graph", "experimental")],
    indirect=["mode"],
)
def test_a_loss_and_an_optimizer_of_the_users_own(mode: str, kind: str, net: Small, data: Batches) -> None:
    first, *rest = net.trainable_params()
    groups = [{"params": [first], "lr": 3.0}, {"params": rest, "lr": 5.0}]
    optimizer = {
        "nn": lambda: nn.Adam(net.trainable_params(), 7.0),
        "groups": lambda: nn.Momentum(groups, 7.0, 0.9),
        "experimental": lambda: new_optim.SGD(groups, 7.0),
    }[kind]()
    before = get_state(net)
    fit(net, data, Recipe(lr=1e-3), loss=margin, optimizer=optimizer, show=False)
    rates = rates_of(optimizer)
    assert len(rates) == (1 if kind == "nn" else 2) and all(float(r) < 1e-3 for r in rates)
    moved = [np.abs(v - before[n]).max() for n, v in get_state(net).items()]
    assert 0 < max(moved[:1]) < 0.1 and get_state(net)["fc.weight"].shape == (10, 12)
    # once more with the same optimizer, after weights were written
    set_state(net, before)
    fit(net, data, Recipe(lr=1e-3), loss=margin, optimizer=optimizer, show=False)
    assert not same(before, get_state(net))


def test_weight_decay_may_leave_vectors_alone(net: Small) -> None:
    optimizer = build_optimizer(net, Recipe(decay_norms=False, weight_decay=0.1))
    decays = {p.ndim: float(d) for p, d in zip(optimizer.parameters, optimizer.weight_decay, strict=True)}
    assert len(optimizer.parameters) == 5 and decays == {4: pytest.approx(0.1), 2: pytest.approx(0.1), 1: 0.0}
    everything = build_optimizer(net, Recipe(weight_decay=0.1))
    assert len(everything.parameters) == 5 and all(float(d) > 0 for d in everything.weight_decay)
    for p in net.get_parameters():
        p.requires_grad = False
    with pytest.raises(InputError, match="requires_grad=True"):
        build_optimizer(net, Recipe())


def test_an_optimizer_from_before_pruning_is_refused(mode: str, pruned: Any, data: Batches) -> None:
    net, _, _, small = pruned
    optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
    before = get_state(small)
    with pytest.raises(InputError, match="of the model that is trained, got one of another model"):
        fit(small, data, RECIPE, optimizer=optimizer, show=False)
    assert same(before, get_state(small))


def test_an_optimizer_from_before_a_cut_in_place_is_refused(net: Small, data: Batches) -> None:
    optimizer = nn.Momentum(net.trainable_params(), 0.1, 0.9)
    check_optimizer(optimizer, net)
    # some parameters are the same objects still
    net.conv.weight = Parameter(Tensor(np.ones((6, 1, 3, 3), np.float32)), name=net.conv.weight.name)
    with pytest.raises(InputError, match=r"got a former 'conv\.weight' of shape \(12, 1, 3, 3\) \(1 of 5\)"):
        check_optimizer(optimizer, net)
    with pytest.raises(InputError, match="must be one of mindspore.nn or mindspore.experimental.optim, got SGD"):
        fit(net, data, RECIPE, optimizer=torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1))
    with pytest.raises(InputError, match="got a schedule of its own"):
        fit(net, data, RECIPE, optimizer=nn.SGD(net.trainable_params(), [0.1, 0.2]), show=False)


def test_an_optimizer_that_lost_its_weights_is_refused(net: Small, data: Batches) -> None:
    optimizer = nn.SGD(net.trainable_params(), 0.1)
    fit(net, data, RECIPE, optimizer=optimizer, show=False)
    for p in net.trainable_params():
        p.set_data(Tensor(p.asnumpy()))  # as load_param_into_net does
    with pytest.raises(InputError, match="an optimizer must move the model"):
        fit(net, data, RECIPE, optimizer=optimizer, show=False)
    fit(net, data, RECIPE, optimizer=nn.SGD(net.trainable_params(), 0.1), show=False)


@pytest.mark.parametrize(
    "mode, make, keys",
    [
        ("pynative", lambda g: nn.SGD(g, 0.1, 0.9, nesterov=True), ["accum"]),
        ("graph", lambda g: nn.Momentum(g, 0.1, 0.9), ["moments"]),
        ("pynative", lambda g: AdamW(g, 1e-3, (0.9, 0.999)), ["moment1", "moment2"]),
        ("graph", lambda g: new_optim.SGD(g, 0.1, 0.9), ["accum"]),
    ],
    indirect=["mode"],
)
def test_momenta_are_sliced_like_the_weights(mode: str, make: Any, keys: list[str], pruned: Any, data: Batches) -> None:
    net, analysis, plan, small = pruned
    stem, rest = net.trainable_params()[:1], net.trainable_params()[1:]
    optimizer = make([{"params": stem, "lr": 0.5}, {"params": rest, "weight_decay": 0.1}])
    fit(net, data, RECIPE, optimizer=optimizer, show=False)
    moved = transfer_optimizer(optimizer, net, small, analysis, plan)
    assert type(moved) is type(optimizer) and len(rates_of(moved)) == 2
    assert [p.name for p in moved.parameters] == [p.name for p in optimizer.parameters]
    cuts = analysis.coupling.cuts(plan)
    names = [n for n in get_state(net) if "running" not in n]
    for key in keys:
        for name, old, new in zip(names, getattr(optimizer, key), getattr(moved, key), strict=True):
            expected = old.asnumpy()
            for axis, kept in cuts.get(name, {}).items():
                expected = expected.take(kept, axis)
            assert expected.any() and np.array_equal(new.asnumpy(), expected)
    dense, before = get_state(net), get_state(small)
    fit(small, data, RECIPE, optimizer=moved, show=False)
    assert same(dense, get_state(net)) and not same(before, get_state(small))


def test_what_cannot_be_carried_over(pruned: Any) -> None:
    net, analysis, plan, small = pruned
    with pytest.raises(InputError, match="must be one of the model's, got a parameter of shape"):
        transfer_optimizer(nn.SGD(small.trainable_params(), 0.1), net, small, analysis, plan)
    optimizer = nn.SGD(net.trainable_params(), 0.1)
    with pytest.raises(InputError, match=r"the model cut by the plan, got 'conv.weight' of shape \(12, 1, 3, 3\)"):
        transfer_optimizer(optimizer, net, net, analysis, plan)
    with pytest.raises(InputError, match="start a new optimizer for the pruned network"):
        transfer_optimizer(nn.AdaFactor(net.trainable_params()), net, small, analysis, plan)

"""The two frameworks held together on networks that nobody designed: one random description, a network in each."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, seed, settings

pytest.importorskip("mindspore")

import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
import _steps
import _steps_mindspore
import mindspore as ms
from _designs import SIDE, Design, designs, without_dead_ends
from _twins import Twins, check_budget, check_costs, check_groups, check_plan, worst
from nets import randomise

from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.cost import METRICS
from prunekit.core.testing import random_plan

TORCH, MINDSPORE = TorchBackend(), MindSporeBackend()
# what is never read MindSpore's compiler leaves out: no trace knows its layers, and the channels that they read stay
DESIGNS = designs(_steps_mindspore.KINDS).map(without_dead_ends)
# compiling a network takes a second: no time to look for a smaller one that fails as well
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "phases": (Phase.explicit, Phase.generate)}

DIFFERENT = {
    "activated": {"flops", "memory", "bandwidth"},  # MindSpore writes a leaky relu out as two ops
    "linear": {"flops", "memory", "bandwidth"},  # MindSpore writes an exact gelu out as five ops
    "pooled": {"memory", "bandwidth"},  # MindSpore's pools pad by an op of its own, counted as part of the pool
}
"""Metrics that legitimately differ, for networks with a step of some kind."""


@pytest.fixture(autouse=True, scope="module")
def few_collections() -> Iterator[None]:
    """What two frameworks have loaded is not looked through again whenever one of them collects garbage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def build(design: Design) -> Twins:
    torch.manual_seed(0)
    model, net = randomise(_steps.Net(design)).eval(), _steps_mindspore.Net(design).set_train(False)
    MINDSPORE.set_state(net, TORCH.get_state(model))
    images = np.random.default_rng(1).normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    return Twins(analyse(TORCH, model, torch.as_tensor(images)), analyse(MINDSPORE, net, ms.Tensor(images)), images)


def check_law(pair: Twins, keep: float, mode: str = "pynative") -> None:
    """Cut equals masked, in each framework; the masked network is run op by op, the cut one in the given mode."""
    for analysis in pair.both:
        backend = analysis.backend
        plan = random_plan(analysis, keep, seed=2)
        small = backend.apply(analysis, plan, check=False)
        with backend.masked(analysis, plan):
            expected = backend.outputs(analysis.model, analysis.example)
        with backend.in_mode(mode) if mode in backend.modes else nullcontext():
            assert worst(backend.outputs(small, analysis.example), expected) < 1e-5, backend.name


def metrics(design: Design) -> list[str]:
    """Metrics that must be the same in both frameworks."""
    steps = list(zip(design.steps, design.reads, strict=True))
    # the compiler does once what the code does twice with one tensor
    if any(name == "shared" and a == b for (name, *_), (a, b) in steps):
        return ["params"]
    other = set().union(*(DIFFERENT.get(name, ()) for (name, *_), _ in steps))
    return [m for m in METRICS if m not in other]


def check_twins(design: Design) -> None:
    pair = build(design)
    assert worst(*reversed(pair.outputs(pair.models))) < 1e-4
    check_groups(pair)
    check_costs(pair, metrics(design))
    check_law(pair, 0.6)
    check_budget(pair)
    check_plan(pair)


@given(DESIGNS)
# rows × channels make one axis, whose length varies: work for a batch was not divided by its size
@example(Design(12, (("tokens", 0, 0, 8), ("conv", 0, 0, 9)), ("classes",)))
# the bias of a layer whose weights are worked out: the masked network was refused
@example(Design(12, (("standardised", 0, 0, 8), ("conv", 0, 0, 9)), ("classes",)))
# two names of one parameter, of which MindSpore knows the first
@example(Design(8, (("tied", 0, 0, 6), ("batch_norm", 0, 0, 9)), ("classes", "maps")))
@settings(max_examples=15, **SETTINGS)
def test_random_networks_are_the_same_in_both_frameworks(design: Design) -> None:
    check_twins(design)


@pytest.mark.parametrize("name", ["self_attention", "squeeze_excite", "shuffle"])
def test_compiled_networks_keep_the_law(name: str) -> None:
    design = Design(12, ((name, 0, 0, 8), ("conv", 0, 0, 9), ("layer_norm", 0, 0, 9)), ("classes", "flat"))
    check_law(build(design), 0.6, "graph")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_random_networks_are_the_same_in_both_frameworks(part: int) -> None:
    seed(part)(settings(max_examples=50, **SETTINGS)(given(DESIGNS)(check_twins)))()


@pytest.mark.slow
@given(DESIGNS)
@settings(max_examples=50, **SETTINGS)
def test_many_compiled_networks_keep_the_law(design: Design) -> None:
    check_law(build(design), 0.6, "graph")

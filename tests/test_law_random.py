"""The law on networks that nobody designed: random graphs of layers and of code between them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from _designs import SIDE, Design, designs
from _steps import KINDS, Net
from hypothesis import HealthCheck, example, given, settings
from nets import randomise, tensors
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.plan import PruningPlan
from prunekit.core.testing import random_plan, relative_error

BACKEND = TorchBackend()


DESIGNS = designs(KINDS)


def build(design: Design) -> nn.Module:
    torch.manual_seed(0)
    return randomise(Net(design)).double().eval()


def outputs(model: nn.Module, example: torch.Tensor) -> list[torch.Tensor]:
    return tensors(list(model(example).values()))


def equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return len(found) == len(expected) and all(
        relative_error(f.detach(), e.detach()) < 1e-9 for f, e in zip(found, expected, strict=True)
    )


def check_cut(analysis: Analysis, plan: PruningPlan) -> nn.Module:
    small: nn.Module = BACKEND.apply(analysis, plan)
    with torch.inference_mode():
        found = outputs(small, analysis.example)
        with BACKEND.masked(analysis, plan):
            expected = outputs(analysis.model, analysis.example)
        assert equal(found, expected)
        assert all(len(t) == 3 for t in outputs(small, torch.randn(3, 3, SIDE, SIDE).double()))
    return small


def check_training(small: nn.Module) -> None:
    small.train()
    sum(t.square().mean() for t in outputs(small, torch.randn(3, 3, SIDE, SIDE).double())).backward()
    assert small.stem.weight.grad is not None
    assert all(p.grad.isfinite().all() for p in small.parameters() if p.grad is not None)
    small.zero_grad()
    small.eval()


def check_stored(analysis: Analysis, plan: PruningPlan, design: Design) -> None:
    """A plan read from its file cuts an equal network alike."""
    with tempfile.TemporaryDirectory() as folder:
        again = PruningPlan.load(plan.save(Path(folder) / "plan.json"))
    twin = analyse(BACKEND, build(design), analysis.example)
    with torch.inference_mode():
        found = outputs(BACKEND.apply(twin, again), analysis.example)
        expected = outputs(BACKEND.apply(analysis, plan, check=False), analysis.example)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


def check_law(design: Design) -> None:
    torch.manual_seed(1)
    analysis = analyse(BACKEND, build(design), torch.randn(2, 3, SIDE, SIDE).double())
    for seed, keep in enumerate((0.7, 0.4)):
        plan = random_plan(analysis, keep, seed)
        small = check_cut(analysis, plan)
    check_training(small)
    check_stored(analysis, plan, design)


@given(DESIGNS)
# a softmax leaves dropped channels other than zero, and weights worked out from others are not zero there
@example(Design(4, (("in_heads", 0, 0, 4), ("standardised", 0, 0, 4)), ("maps",), False))
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_networks_keep_the_law(design: Design) -> None:
    check_law(design)


@pytest.mark.slow
@given(DESIGNS)
@settings(max_examples=300, derandomize=False, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_random_networks_keep_the_law(design: Design) -> None:
    check_law(design)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_step_alone_keeps_the_law(name: str) -> None:
    for stem, n in ((12, 8), (8, 8), (9, 6)):
        check_law(Design(stem, (("conv", 0, 0, n), (name, 0, 1, n), ("batch_norm", 0, 0, n)), ("classes", "flat")))

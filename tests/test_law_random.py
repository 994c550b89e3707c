"""The law on networks that nobody designed: random graphs of layers and of code between them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from _steps import KINDS, SIDE
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nets import randomise, tensors
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.plan import PruningPlan
from prunekit.core.testing import random_plan, relative_error

BACKEND = TorchBackend()


@dataclass(frozen=True)
class Design:
    """What to build: the width of the stem, steps ``(kind, x, y, width)``, and how it ends."""

    stem: int
    steps: tuple[tuple[str, int, int, int], ...]
    heads: tuple[str, ...]
    auxiliary: bool = field(default=False)


class Net(nn.Module):
    """A random network; each step reads two of the tensors made before it, the latest first."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.design = design
        self.stem = nn.Conv2d(3, design.stem, 3, padding=1)
        widths = [design.stem]
        self.steps = nn.ModuleList()
        for name, x, y, n in design.steps:
            self.steps.append(KINDS[name](widths[-1 - x % len(widths)], widths[-1 - y % len(widths)], n))
            widths.append(self.steps[-1].out)
        self.maps = nn.Conv2d(widths[-1], 3, 1)
        self.classes = nn.Linear(widths[-1], 5)
        self.flat = nn.Linear(widths[-1] * SIDE * SIDE, 5)
        self.auxiliary = nn.Linear(widths[len(widths) // 2], 5) if design.auxiliary else None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        made = [self.stem(x)]
        for step, (_, a, b, _) in zip(self.steps, self.design.steps, strict=True):
            made.append(step(made[-1 - a % len(made)], made[-1 - b % len(made)]))
        last = made[-1]
        result = {}
        if "maps" in self.design.heads:
            result["maps"] = self.maps(last)
        if "classes" in self.design.heads:
            result["classes"] = self.classes(last.mean((2, 3)))
        if "flat" in self.design.heads:
            result["flat"] = self.flat(last.flatten(1))
        if self.auxiliary is not None and self.training:
            result["auxiliary"] = self.auxiliary(made[len(made) // 2].mean((2, 3)))
        return result


WIDTHS = st.sampled_from([4, 6, 8, 9, 12])
STEPS = st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 2), st.integers(0, 3), WIDTHS)
DESIGNS = st.builds(
    Design,
    stem=WIDTHS,
    steps=st.lists(STEPS, min_size=2, max_size=7).map(tuple),
    heads=st.sets(st.sampled_from(["maps", "classes", "flat"]), min_size=1).map(lambda s: tuple(sorted(s))),
    auxiliary=st.booleans(),
)


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

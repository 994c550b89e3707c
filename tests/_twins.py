"""What holds between a network in PyTorch and its twin in MindSpore."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
import torch

from prunekit.core.analysis import Analysis
from prunekit.core.budget import Budget
from prunekit.core.cost import METRICS, Cost
from prunekit.core.errors import PrunekitError
from prunekit.core.plan import PruningPlan
from prunekit.core.prune import score_model, select
from prunekit.core.testing import random_plan, relative_error


class Twins(NamedTuple):
    """A network in both frameworks, with one set of weights."""

    torch: Analysis
    mindspore: Analysis
    images: np.ndarray

    @property
    def both(self) -> tuple[Analysis, Analysis]:
        return self.torch, self.mindspore

    @property
    def models(self) -> tuple[Any, Any]:
        return self.torch.model, self.mindspore.model

    def outputs(self, models: tuple[Any, Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What two models, one of each framework, give on the images."""
        mine = self.torch.backend.outputs(models[0], torch.as_tensor(self.images))
        return mine, self.mindspore.backend.outputs(models[1], ms.Tensor(self.images))


def worst(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Largest relative error over several outputs."""
    return max(relative_error(f, e) for f, e in zip(found, expected, strict=True))


def members(analysis: Analysis) -> dict[str, Any]:
    """The groups by name: size, and every member with its indices."""
    return {
        g.name: (g.size, sorted((m.name, m.axis, m.role, m.indices.tolist()) for m in g.members))
        for g in analysis.groups
    }


def check_groups(pair: Twins) -> None:
    left, right = map(members, pair.both)
    assert list(left) == list(right)
    assert left == right
    frozen = [[(f.name, f.size, f.members) for f in a.coupling.frozen] for a in pair.both]
    assert frozen[0] == frozen[1]


def check_costs(pair: Twins, metrics: Sequence[str] = METRICS) -> None:
    groups = pair.torch.coupling.widths
    widths = np.random.default_rng(0).integers(1, groups + 1, size=(20, len(groups)))
    left, right = (Cost(a.coupling).of(widths, metrics) for a in pair.both)
    assert {m: v.tolist() for m, v in left.items()} == {m: v.tolist() for m, v in right.items()}


def check_budget(pair: Twins) -> None:
    """One budget gives one plan, or cannot be met in either framework."""
    plans = [_outcome(lambda a=a: select(a, Budget.of(macs=0.5), score_model(a, "l2")).kept) for a in pair.both]
    assert plans[0] == plans[1]


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except PrunekitError as error:
        return type(error)


def check_plan(pair: Twins, seed: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A plan made in one framework, written down and read again, cuts both networks to the same outputs.

    Returns:
        What the whole network and the cut one give.
    """
    plan = random_plan(pair.torch, seed=seed)
    again = PruningPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    mine, theirs = pair.outputs(tuple(a.backend.apply(a, again) for a in pair.both))
    assert worst(theirs, mine) < 1e-4
    return pair.outputs(pair.models)[0], mine

"""Which channels stay, given scores and a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core._names import nearest
from prunekit.core.analysis import Analysis
from prunekit.core.budget import Budget, alignment, least_width, unit_step
from prunekit.core.cost import Cost
from prunekit.core.coupling.groups import Coupling
from prunekit.core.errors import ConfigError, InputError, NothingToPruneError
from prunekit.core.plan import PruningPlan

__all__ = ["SCOPES", "check_prunable", "select"]

SCOPES = ("global", "layer")

IntArray = NDArray[np.int64]

_FIGURES = ("params", "macs", "flops")
_MEASUREMENTS = 10  # of latency, besides those of the whole and of the smallest network


def select(
    analysis: Analysis,
    budget: Budget,
    scores: Mapping[str, ArrayLike],
    *,
    scope: str = "global",
    align: str | int | None = None,
    min_channels: int = 1,
) -> PruningPlan:
    """The plan that keeps the best-scored channels within a budget.

    ``"global"`` removes aligned blocks of the lowest mean score over the whole network until the
    budget is met, then puts back what still fits. ``"layer"`` keeps the same share of every group.
    The budget is never exceeded by more than its tolerance; only a ``ratio`` by layer is rounded for
    each group by itself, to the nearest width that ``align`` and ``min_channels`` allow.

    Args:
        analysis: The model and its groups.
        budget: What may be kept.
        scores: Importance by group name, ``(size,)`` each, comparable between groups if ``scope``
            is ``"global"``.
        scope: ``"global"`` or ``"layer"``.
        align: Alignment profile or number; see :func:`prunekit.core.budget.alignment`.
        min_channels: Fewest channels a group keeps.

    Returns:
        The plan. ``plan.achieved`` holds ``[before, after]`` of parameters, MACs and FLOPs (and of
        latency in seconds, where that is the budget), the budget, and under ``"widths"`` the full,
        requested (before alignment) and kept number of channels of each group.

    Raises:
        BudgetError: The budget cannot be reached; the message says the least that can.
        ConfigError: ``scope``, ``align`` or ``min_channels`` is wrong.
        InputError: The scores are not those of the network's groups.
        NothingToPruneError: No channel may be cut.
    """
    if scope not in SCOPES:
        raise ConfigError(f"scope must be a known name, got {scope!r}; {nearest(str(scope), SCOPES)}")
    coupling = analysis.coupling
    check_prunable(coupling)
    ranked = _Ranking.of(coupling, scores)
    make = _Prefixes if scope == "global" else _Shares
    steps = np.array([unit_step(g, alignment(align)) for g in coupling.groups], dtype=np.int64)
    free = make(coupling, ranked, np.ones_like(steps), min_channels)
    family = make(coupling, ranked, steps, min_channels)
    meter = _Meter(analysis, budget, ranked)
    widths = meter.best(family)
    requested = meter.best(free) if (steps > 1).any() and budget.metric != "latency" else widths
    return PruningPlan.of(coupling, ranked.kept(widths), achieved=meter.report(widths, requested))


def check_prunable(coupling: Coupling) -> None:
    """Make sure that there is something to cut.

    Raises:
        NothingToPruneError: There is not; the message lists every frozen group and its reason.
    """
    if coupling.groups:
        return
    lines = [f"  {g.name} ({g.size}): {g.reason}" + (f" [{g.where}]" if g.where else "") for g in coupling.frozen]
    reasons = "\n".join(lines) or "  the model has no layer with channels"
    raise NothingToPruneError(
        f"a network must have channels that may be cut, got none:\n{reasons}\n"
        "change what freezes them (ignore=, attention=), or prune another model"
    )


@dataclass(frozen=True)
class _Ranking:
    """Channels of each group from the least to the most important, and their scores in that order."""

    coupling: Coupling
    order: tuple[IntArray, ...]
    scores: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(cls, coupling: Coupling, scores: Mapping[str, ArrayLike]) -> _Ranking:
        order, values = [], []
        for group in coupling.groups:
            if group.name not in scores:
                raise InputError(f"scores must name every group, got none for {group.name!r}; score the same model")
            raw = np.asarray(scores[group.name], dtype=np.float64)
            if raw.shape != (group.size,) or not np.isfinite(raw).all():
                raise InputError(f"scores of {group.name!r} must be {group.size} finite numbers, got shape {raw.shape}")
            order.append(np.argsort(raw, kind="stable"))
            values.append(raw[order[-1]])
        return cls(coupling, tuple(order), tuple(values))

    def kept(self, widths: IntArray) -> dict[str, list[int]]:
        """The best channels of each group, as many as it keeps."""
        return {
            g.name: sorted(int(i) for i in order[g.size - int(w) :])
            for g, order, w in zip(self.coupling.groups, self.order, widths, strict=True)
        }


class _Prefixes:
    """Networks by how many blocks have gone, the least important block of all groups first."""

    def __init__(self, coupling: Coupling, ranked: _Ranking, steps: IntArray, min_channels: int) -> None:
        self.full = coupling.widths
        groups, sizes, means = [], [], []
        for position, (group, step) in enumerate(zip(coupling.groups, steps.tolist(), strict=True)):
            least = least_width(group, step, min_channels)
            # the first block only brings the width down to a multiple
            widths = [group.size, *range((group.size - 1) // step * step, least - 1, -step)]
            gone = group.size - np.array(widths, dtype=np.int64)
            total = np.concatenate([[0.0], np.cumsum(ranked.scores[position])])
            blocks = np.diff(gone)
            groups.append(np.full(len(blocks), position))
            sizes.append(blocks)
            # scores rise within a group, but means of unequal blocks may not by a rounding error
            means.append(np.maximum.accumulate(np.diff(total[gone]) / np.maximum(blocks, 1)))
        order = np.argsort(np.concatenate(means), kind="stable")
        self.groups = np.concatenate(groups)[order]
        self.sizes = np.concatenate(sizes)[order]
        self.count = len(order)

    def widths(self, gone: int) -> IntArray:
        """Group widths once ``gone`` blocks are gone."""
        lost = np.bincount(self.groups[:gone], weights=self.sizes[:gone], minlength=len(self.full))
        return np.asarray(self.full - lost.astype(np.int64))

    def refill(self, gone: int, within: Callable[[IntArray], NDArray[np.bool_]]) -> IntArray:
        """Put back the most important blocks that still fit, last out first in."""
        widths = self.widths(gone)
        stacks: dict[int, list[int]] = {}
        for block in range(gone):
            stacks.setdefault(int(self.groups[block]), []).append(block)
        while stacks:
            tops = sorted((stack[-1] for stack in stacks.values()), reverse=True)
            tries = np.repeat(widths[None], len(tops), axis=0)
            tries[np.arange(len(tops)), self.groups[tops]] += self.sizes[tops]
            fits = within(tries)
            for block, fit in zip(tops, fits, strict=True):
                if not fit:  # costs only rise from here: this group is done
                    del stacks[int(self.groups[block])]
            if not fits.any():
                break
            chosen = int(np.flatnonzero(fits)[0])
            widths = tries[chosen]
            stack = stacks[int(self.groups[tops[chosen]])]
            stack.pop()
            if not stack:
                del stacks[int(self.groups[tops[chosen]])]
        return widths


class _Shares:
    """Networks by the share that every group keeps, in steps that change one width or more."""

    def __init__(self, coupling: Coupling, ranked: _Ranking, steps: IntArray, min_channels: int) -> None:
        self.full = coupling.widths
        self.steps = steps
        pairs = zip(coupling.groups, steps.tolist(), strict=True)
        self.least = np.array([least_width(g, step, min_channels) for g, step in pairs], dtype=np.int64)
        # a width changes where share × size / step crosses a half
        halves = [
            (np.arange(size // step + 1) + 0.5) * step / size for size, step in zip(self.full, steps, strict=True)
        ]
        edges = np.unique(np.concatenate([*halves, [1.0]]))
        edges = edges[edges <= 1.0]
        inside = (edges[:-1] + edges[1:]) / 2
        self.shares = np.unique(np.concatenate([edges, inside, [0.0]]))[::-1]
        self.count = len(self.shares) - 1

    def widths(self, gone: int) -> IntArray:
        """Group widths at the ``gone``-th largest share."""
        return self.at(float(self.shares[gone]))

    def at(self, share: float) -> IntArray:
        """Group widths that keep a share: the nearest multiple of the step, at least the minimum."""
        near = np.rint(np.round(share * self.full, 9) / self.steps).astype(np.int64) * self.steps
        whole = np.where(share >= 1, self.full, np.minimum(near, self.full))
        return np.asarray(np.maximum(whole, self.least))


class _Meter:
    """What networks cost in the budget's figure, and the largest one within it."""

    def __init__(self, analysis: Analysis, budget: Budget, ranked: _Ranking) -> None:
        self.analysis = analysis
        self.budget = budget
        self.ranked = ranked
        self.cost = Cost(analysis.coupling)
        self.measured: dict[bytes, float] = {}
        self.full = float(self.figures(analysis.coupling.widths[None])[0])

    def figures(self, widths: IntArray) -> NDArray[np.float64]:
        """The budget's figure of each network, ``(n,)`` for widths ``(n, G)``."""
        if self.budget.metric == "latency":
            return np.array([self._latency(row) for row in widths])
        if self.budget.metric == "ratio":
            return np.asarray(widths.sum(axis=1), dtype=np.float64)
        return self.cost.of(widths, (self.budget.metric,))[self.budget.metric].astype(np.float64)

    def best(self, family: _Prefixes | _Shares) -> IntArray:
        """The largest network of a family within budget.

        Raises:
            BudgetError: Not even the smallest is.
        """
        if isinstance(family, _Shares) and self.budget.metric == "ratio":
            return family.at(self.budget.value)
        if self._within(family.widths(0)[None])[0]:
            return family.widths(0)
        smallest = family.widths(family.count)
        if not self._within(smallest[None])[0]:
            raise self.budget.unreachable(self.full, float(self.figures(smallest[None])[0]))
        low, high = 0, family.count  # high is within budget, low is not
        rounds = 0
        while high - low > 1 and (self.budget.metric != "latency" or rounds < _MEASUREMENTS):
            middle = (low + high) // 2
            low, high = (low, middle) if self._within(family.widths(middle)[None])[0] else (middle, high)
            rounds += 1
        if isinstance(family, _Prefixes) and self.budget.metric != "latency":
            return family.refill(high, self._within)
        return family.widths(high)

    def _within(self, widths: IntArray) -> NDArray[np.bool_]:
        # the slack absorbs the rounding of share × full, not a whole operation
        return np.asarray(self.figures(widths) <= self.budget.limit(self.full) * (1 + 1e-12))

    def _latency(self, widths: IntArray) -> float:
        key = widths.tobytes()
        if key not in self.measured:
            backend, analysis = self.analysis.backend, self.analysis
            model = analysis.model
            if (widths != analysis.coupling.widths).any():
                plan = PruningPlan.of(analysis.coupling, self.ranked.kept(widths))
                model = backend.apply(analysis, plan, check=False)
            self.measured[key] = backend.latency(model, analysis.example).median
        return self.measured[key]

    def report(self, widths: IntArray, requested: IntArray) -> dict[str, Any]:
        """Figures before and after, the budget, and all widths: plain data."""
        coupling = self.analysis.coupling
        both = np.stack([coupling.widths, widths])
        figures: dict[str, Any] = {m: [int(v) for v in row] for m, row in self.cost.of(both, _FIGURES).items()}
        if self.budget.metric == "latency":
            figures["latency"] = [float(v) for v in self.figures(both)]
        if self.budget.metric == "ratio":
            figures["ratio"] = [1.0, float(widths.sum() / coupling.widths.sum())]
        budget = {"metric": self.budget.metric, "value": self.budget.value, "tolerance": self.budget.tolerance}
        table = {
            g.name: {"full": g.size, "requested": int(r), "kept": int(w)}
            for g, r, w in zip(coupling.groups, requested, widths, strict=True)
        }
        return {**figures, "budget": budget, "widths": table}

"""UniPruning: soft pruning of channel groups by one criterion for the whole network.

The channels of a layer are sorted by importance and cut into consecutive groups of
``pruning_step``; a group's importance is the median of its channels'. The relative criterion of a
group is the highest median of its layer over its own median. The groups with the largest criterion
in the whole network go first, until the network is small enough. Every ``frequency`` epochs the
chosen channels are set to zero and may grow again; those of the last step are cut out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms._uni_config import UniPruningConfig, parse_config
from prunekit.core.backend import State
from prunekit.core.cost import Cost
from prunekit.core.coupling.groups import ChannelGroup, Coupling
from prunekit.core.errors import BudgetError, NothingToPruneError, PlanError
from prunekit.core.importance import score
from prunekit.core.plan import PruningPlan

if TYPE_CHECKING:
    from prunekit.algorithms.uni_schedule import UniSchedule
    from prunekit.core.analysis import Analysis

__all__ = [
    "Selection",
    "UniPruning",
    "UniPruningConfig",
    "ZeroingStep",
    "check_mask",
    "zero_makers",
]

_EPSILON = 1e-5  # keeps the criterion finite for channels that are all zero; part of the published figures
_CHUNK = 256  # widths are costed this many at a time

logger = logging.getLogger("prunekit.uni_pruning")

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ZeroingStep:
    """One group of channels that the criterion took.

    Attributes:
        group: Name of the channel group.
        index: Position of the taken channels in the group's order of importance, counted in steps.
        channels: The taken channels (units of the group).
        ratio: The relative criterion.
        size: Size of the network once it and all before it are gone.
    """

    group: str
    index: int
    channels: tuple[int, ...]
    ratio: float
    size: int


@dataclass(frozen=True)
class Selection:
    """What one UniPruning step chose.

    Attributes:
        plan: The channels that stay.
        steps: The groups that go, in the order in which they were taken.
        full: Size of the whole network.
        target: Size to reach.
        size: Size reached.
    """

    plan: PruningPlan
    steps: tuple[ZeroingStep, ...]
    full: int
    target: float
    size: int

    @property
    def kept(self) -> float:
        """Share of the size that stays, in [0, 1]."""
        return self.size / self.full

    @property
    def pruned(self) -> float:
        """Share of the size that goes, in [0, 1]."""
        return 1.0 - self.kept

    def __str__(self) -> str:
        wanted = self.target / self.full
        return (
            f"keeps {self.kept:.2%} and prunes {self.pruned:.2%} of {self.full:,} parameters "
            f"(target: keep {wanted:.2%}, prune {1 - wanted:.2%}), {len(self.steps)} groups of channels zeroed"
        )


class UniPruning:
    """The selection rule of UniPruning.

    Args:
        config: A :class:`UniPruningConfig`, a dict of its keys, or any object that has them as
            attributes.

    Raises:
        ConfigError: A key is unknown, or a value is of a wrong type or out of range.
    """

    name = "uni_pruning"
    Settings = UniPruningConfig

    def __init__(self, config: UniPruningConfig | Mapping[str, Any] | object | None = None) -> None:
        self.config = parse_config(config)
        self._cost: Cost | None = None

    def least_size(self, coupling: Coupling) -> int:
        """The smallest size that the step and the lower threshold allow.

        Raises:
            NothingToPruneError: No group of the network may be cut.
        """
        if not coupling.groups:
            frozen = "; ".join(f"{g.name}: {g.reason}" for g in coupling.frozen[:6]) or "no layer has channels"
            raise NothingToPruneError(f"a network must have channels that may be cut, got none ({frozen})")
        least = [group.size - sum(self._step_sizes(group)) for group in coupling.groups]
        return int(self._sizes(coupling, np.array([least], dtype=np.int64))[0])

    def check_reachable(self, coupling: Coupling) -> None:
        """Make sure, before any training, that the target can be reached.

        Raises:
            BudgetError: It cannot; the message says the least that can.
            NothingToPruneError: No group of the network may be cut.
        """
        least = self.least_size(coupling)
        full = int(self._sizes(coupling, coupling.widths)[0])
        config = self.config
        if least > config.kept_share * full:
            share = least / full
            value = share if config.target_mode == "keep" else 1 - share
            raise BudgetError(
                f"target_sparsity must be reachable, got {config.target_sparsity} (keep {config.kept_share:.2%}, "
                f"prune {1 - config.kept_share:.2%} of {full:,}); the least that can be reached is {least:,} "
                f"(keep {share:.2%}, prune {1 - share:.2%}, target_sparsity={value:.4f}) with "
                f"pruning_step={config.pruning_step} and filter_lower_threshold={config.filter_lower_threshold}; "
                "ask for less, or lower these two"
            )

    def select(self, coupling: Coupling, state: State) -> PruningPlan:
        """The plan that the network's present weights give.

        Raises:
            BudgetError: The target cannot be reached.
            InputError: A weight is not finite, or the state is not that of the network.
        """
        return self.choose(coupling, state).plan

    def choose(self, coupling: Coupling, state: State) -> Selection:
        """:meth:`select`, with the order in which the groups were taken and the sizes."""
        self.check_reachable(coupling)
        candidates = self._candidates(coupling, state)
        # within a layer the criterion falls with the index, so one stable sort is the whole greedy search
        order = np.argsort([-c.ratio for c in candidates], kind="stable")
        taken = [candidates[i] for i in order]
        full, target, sizes = self._sizes_until_target(coupling, taken)
        steps = tuple(
            ZeroingStep(coupling.groups[c.group].name, c.index, tuple(int(u) for u in c.units), c.ratio, size)
            for c, size in zip(taken, sizes, strict=False)
        )
        gone: dict[str, list[int]] = {}
        for step in steps:
            gone.setdefault(step.group, []).extend(step.channels)
        kept = {g.name: np.setdiff1d(np.arange(g.size), gone.get(g.name, [])).tolist() for g in coupling.groups}
        reached = sizes[-1] if sizes else full
        plan = PruningPlan.of(coupling, kept, achieved={"size": [full, reached]})
        return Selection(plan, steps, full, target, reached)

    def schedule(self, analysis: Analysis) -> UniSchedule:
        """What a training of ``analysis.model`` calls at the borders of its epochs: a callback of ``fit``.

        The masks of its steps are written, and no weights.

        Raises:
            BudgetError: The target cannot be reached.
            NothingToPruneError: No group of the network may be cut.
            OutputError: The output folder cannot be written.
        """
        from prunekit.algorithms.uni_schedule import UniSchedule  # it builds on this module

        schedule = UniSchedule(self, ".safetensors")
        schedule.bind(analysis, lambda path: None)
        return schedule

    def _candidates(self, coupling: Coupling, state: State) -> list[_Candidate]:
        """Every set of channels that may go, layer by layer, the least important first."""
        criterion = "l2_gamma" if self.config.use_gamma else "l2"
        scores = score(coupling, criterion, state, normalize="none")
        found: list[_Candidate] = []
        for position, group in enumerate(coupling.groups):
            lengths = self._step_sizes(group)
            if not lengths:
                continue
            importance = scores[group.name]
            order = np.argsort(importance, kind="stable")
            medians = _medians(importance[order], self._unit_step(group))
            ends = np.cumsum([0, *lengths])
            for index, (start, end) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
                ratio = float(medians[-1] / (medians[index] + _EPSILON))
                found.append(_Candidate(position, index, np.sort(order[start:end]), ratio))
        return found

    def _unit_step(self, group: ChannelGroup) -> int:
        """Units of a group that make up ``pruning_step`` channels, or the least multiple of it."""
        step = self.config.pruning_step
        return step // math.gcd(step, _channels_per_unit(group))

    def _step_sizes(self, group: ChannelGroup) -> list[int]:
        """Sizes of the parts of a group that may go, the least important first.

        A remainder comes first, so that what is left is a whole number of steps.
        """
        step = self._unit_step(group)
        most = group.size - math.ceil(self.config.filter_lower_threshold / _channels_per_unit(group))
        count, remainder = divmod(group.size, step)
        parts = ([remainder] if remainder else []) + [step] * count
        allowed = np.cumsum(parts[:-1]) <= most
        return parts[: int(allowed.sum())]

    def _sizes(self, coupling: Coupling, widths: IntArray) -> IntArray:
        """Parameters with the statistics of batch norms, ``(n,)`` for widths ``(n, G)`` or ``(G,)``."""
        if self._cost is None or self._cost.coupling is not coupling:
            self._cost = Cost(coupling, "unipruning")
        return self._cost.of(widths, ("params",))["params"]

    def _sizes_until_target(self, coupling: Coupling, taken: list[_Candidate]) -> tuple[int, float, list[int]]:
        """Full size, target, and the size after each step up to the first that reaches the target."""
        full = int(self._sizes(coupling, coupling.widths)[0])
        target = self.config.kept_share * full
        sizes: list[int] = []
        widths = coupling.widths.copy()
        for start in range(0, len(taken), _CHUNK):
            if (sizes[-1] if sizes else full) <= target:
                break
            part = taken[start : start + _CHUNK]
            losses = np.zeros((len(part), len(widths)), dtype=np.int64)
            losses[np.arange(len(part)), [c.group for c in part]] = [len(c.units) for c in part]
            table = widths - np.cumsum(losses, axis=0)
            found = self._sizes(coupling, table)
            reached = np.flatnonzero(found <= target)
            sizes.extend(int(s) for s in (found[: reached[0] + 1] if len(reached) else found))
            widths = table[-1]
        return full, target, sizes


@dataclass(frozen=True)
class _Candidate:
    group: int
    index: int
    units: IntArray
    ratio: float


def _medians(ordered: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Median of each run of ``step`` values; a remainder makes a first run of its own."""
    rest = len(ordered) % step
    runs = np.median(ordered[rest:].reshape(-1, step), axis=1)
    return np.concatenate([[np.median(ordered[:rest])], runs]) if rest else runs


def zero_makers(coupling: Coupling, plan: PruningPlan, state: State) -> None:
    """Set the weights that make the dropped channels to zero, in place in ``state``, and nothing else.

    Norms and the layers that read the channels stay, so that a gradient can bring the channels back.
    """
    for group in coupling.groups:
        gone = np.setdiff1d(np.arange(group.size), plan.kept.get(group.name, np.arange(group.size)))
        for member in group.producers:
            rows = np.moveaxis(state[member.name], member.axis, 0)  # a view
            rows[member.indices[gone].ravel()] = 0


def check_mask(data: Any) -> dict[str, list[int]]:
    """A pruning mask as read from JSON: layer → output channels that go.

    Raises:
        PlanError: It is something else.
    """
    if not isinstance(data, Mapping):
        raise PlanError(f"a mask must map layer names to lists of channels, got {type(data).__name__}; is it a plan?")
    result: dict[str, list[int]] = {}
    for layer, channels in data.items():
        if isinstance(channels, np.ndarray):
            channels = channels.tolist()
        good = isinstance(layer, str) and isinstance(channels, list | tuple)
        if not good or any(isinstance(c, bool) or not isinstance(c, int | np.integer) for c in channels):
            raise PlanError(
                f"a mask must map layer names to lists of channel indices, got {layer!r}: {str(channels)[:60]}; "
                "is it a plan, or another program's file?"
            )
        result[layer] = [int(c) for c in channels]
    return result


def _channels_per_unit(group: ChannelGroup) -> int:
    """Output channels of a layer that live or die with one unit (more than one under grouped layers)."""
    return min((int(m.indices.shape[1]) for m in group.producers), default=1)

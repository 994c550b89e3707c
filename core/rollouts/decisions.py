"""The decisions of an automatic channel pruning: which groups, in which order, and which widths are allowed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core.convs import conv_macs
from prunekit.core.cost import Cost
from prunekit.core.coupling.groups import Coupling
from prunekit.core.errors import BudgetError, NothingToPruneError
from prunekit.core.graph import Graph, Op
from prunekit.core.order import run_order
from prunekit.core.rollouts.wall import ActionWall, lower_bound

__all__ = ["TOLERANCE", "Decisions"]

TOLERANCE = 0.01
"""How far below the budget a network may stay, as a share of the budget."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SLACK = 1e-9
_TRIES = 4096
_REACHES = (1, 2, 4, 8)


@dataclass(frozen=True)
class _Conv:
    """A conv: its multiply-accumulates, and what share of its inputs and outputs belongs to which group."""

    macs: int
    inputs: dict[int, float]
    outputs: dict[int, float]
    single: bool
    numbers: tuple[int, int, int, int, int]
    """Outputs, inputs, height, width, stride."""


class Decisions:
    """One decision for each channel group that a conv reads, in the order of the graph.

    As in PocketFlow the last conv keeps its inputs: a group that no other conv reads stays whole, and so does one
    that no conv reads at all. Grouped and depthwise convs decide nothing and follow.

    Args:
        coupling: The network.
        preserve_ratio: Share of the multiply-accumulates of the convs to keep.
        align: Numbers of channels kept are multiples of this (4 for ``cp_quadruple``), or all of a group.

    Raises:
        BudgetError: The share cannot be reached.
        NothingToPruneError: There is nothing to decide.
    """

    def __init__(self, coupling: Coupling, preserve_ratio: float, align: int = 1) -> None:
        self.coupling = coupling
        self.preserve_ratio = preserve_ratio
        self._cost = Cost(coupling, "pocketflow")
        self._convs = _convs(coupling)
        self.groups = np.array(_decided(self._convs), dtype=np.int64)
        """Position of each decision's group, ``(D,)``."""
        if not len(self.groups):
            raise NothingToPruneError(
                "automatic channel pruning needs channels that a conv before the last one reads, got none; use "
                "prune_option: uniform, or another method"
            )
        self.sizes: IntArray = coupling.widths[self.groups]
        """Channels of each decision, ``(D,)``."""
        self.options = [_options(coupling, int(g), align) for g in self.groups]
        """Numbers of channels that each decision may keep, ascending."""
        self.full = int(self._cost.full(("macs",))["macs"])
        """Multiply-accumulates of the unpruned convs."""
        self.target = preserve_ratio * self.full
        """Multiply-accumulates to keep."""
        self._check_range()
        self.lbound = self._lbound()
        """The least action: PocketFlow's, or less where the channels that must stay cost too much for it."""
        self.least: IntArray = self.rounded(np.full(len(self), self.lbound))
        """Channels that an undecided group counts with, ``(D,)``."""
        self._even = self._to_budget(self._at(self.rounded(np.full(len(self), np.sqrt(preserve_ratio)))))
        self._check_even()

    def __len__(self) -> int:
        return len(self.groups)

    def rounded(self, shares: ArrayLike) -> IntArray:
        """The allowed numbers of channels nearest to shares, ``(…, D)``."""
        wanted = np.asarray(shares, dtype=np.float64) * self.sizes
        columns = [options[_nearest(options, wanted[..., d])] for d, options in enumerate(self.options)]
        return np.stack(columns, axis=-1)

    def widths(self, kept: ArrayLike) -> IntArray:
        """Channels per group, ``(n, G)`` or ``(G,)``, from those per decision, ``(n, D)`` or ``(D,)``."""
        table = np.asarray(kept, dtype=np.int64)
        result: IntArray = np.broadcast_to(self.coupling.widths, (*table.shape[:-1], len(self.coupling.widths))).copy()
        result[..., self.groups] = table
        return result

    def macs(self, kept: ArrayLike) -> IntArray:
        """Exact multiply-accumulates of the convs, ``(n,)``, from channels per decision, ``(n, D)`` or ``(D,)``."""
        return self._cost.of(self.widths(kept), ("macs",))["macs"]

    def near(self, macs: float) -> bool:
        """Whether a network is within the budget and uses it up."""
        return (1 - TOLERANCE) * self.target <= macs <= self.target + _SLACK * self.full

    def choose(self, decision: int, share: float, floor: float, wall: float) -> int:
        """The allowed number of channels nearest to a share: below the wall, and above the floor if one is."""
        options, size = self.options[decision], int(self.sizes[decision])
        inside = options[options <= wall * size + _SLACK * size]
        if not len(inside):
            return int(self.least[decision])
        above = inside[inside >= floor * size - _SLACK * size]
        # where no number lies between floor and wall, what is left over goes to other groups at the end
        return int(above[_nearest(above, share * size)]) if len(above) else int(inside[-1])

    def wall(self) -> ActionWall:
        """A new wall, before any decision."""
        place = {int(g): d for d, g in enumerate(self.groups)}
        reads: list[list[tuple[int, float]]] = [[] for _ in self.groups]
        writes: list[list[tuple[int, float]]] = [[] for _ in self.groups]
        for layer, conv in enumerate(self._convs):
            for shares, places in ((conv.inputs, reads), (conv.outputs, writes)):
                for group, weight in shares.items():
                    if group in place:
                        places[place[group]].append((layer, weight))
        flops = [conv.macs for conv in self._convs]
        least = self.least / self.sizes
        return ActionWall(flops, reads, writes, budget=self.target, least=least, tolerance=TOLERANCE)

    @cached_property
    def features(self) -> FloatArray:
        """What is known of each decision's first reader, ``(D, 7)`` in [0, 1].

        Its position, its outputs, inputs, height, width and stride, and its multiply-accumulates.
        """
        rows = []
        for decision, group in enumerate(self.groups):
            conv = next(conv for conv in self._convs if conv.single and int(group) in conv.inputs)
            rows.append([decision, *conv.numbers, conv.macs])
        table: FloatArray = np.array(rows, dtype=np.float64)
        table /= np.maximum(table.max(axis=0), 1)
        return table

    def fit(self, kept: ArrayLike) -> IntArray:
        """Numbers of channels changed as little as brings the network within the budget and uses it up within 1%.

        Args:
            kept: Channels per decision, ``(D,)``.

        Returns:
            Channels per decision, ``(D,)``, for which :meth:`near` holds.
        """
        at = self._to_budget(self._at(kept))
        found = at if self.near(int(self._cost_at(at[None])[0])) else self._even
        result: IntArray = self._kept(found[None])[0]
        return result

    def _at(self, kept: ArrayLike) -> IntArray:
        """Position of each number of channels among the allowed ones, ``(D,)``."""
        pairs = zip(self.options, np.asarray(kept, dtype=np.float64), strict=True)
        return np.array([_nearest(options, k) for options, k in pairs], dtype=np.int64)

    def _kept(self, at: IntArray) -> IntArray:
        return np.stack([options[at[:, d]] for d, options in enumerate(self.options)], axis=1)

    def _cost_at(self, at: IntArray) -> IntArray:
        return self.macs(self._kept(at))

    def _to_budget(self, at: IntArray) -> IntArray:
        """The positions nearby whose cost is within the budget and, where that can be found, uses it up."""
        cost = int(self._cost_at(at[None])[0])
        one = np.eye(len(self), dtype=np.int64)
        while cost > self.target + _SLACK * self.full:
            at, cost = self._lowered(at, one)
        pairs = (one[:, None] - one[None, :]).reshape(-1, len(self))
        while not self.near(cost):
            better = self._raised(at, cost, one) or self._raised(at, cost, pairs)
            if better is None:
                return self._scattered(at)
            at, cost = better
        return at

    def _scattered(self, at: IntArray) -> IntArray:
        """The nearest of many positions around that uses up the budget: small networks have few sums."""
        rng = np.random.default_rng(0)
        last = np.array([len(options) - 1 for options in self.options])
        for reach in _REACHES:
            tried = np.clip(at + rng.integers(-reach, reach + 1, size=(_TRIES, len(self))), 0, last)
            costs = self._cost_at(tried)
            near = tried[(costs >= (1 - TOLERANCE) * self.target) & (costs <= self.target + _SLACK * self.full)]
            if len(near):
                best: IntArray = near[np.argmin(np.abs(near - at).sum(axis=1))]
                return best
        return at

    def _lowered(self, at: IntArray, one: IntArray) -> tuple[IntArray, int]:
        """One number of channels less, of the group that comes nearest to the budget, or saves most."""
        tried = at - one[at > 0]
        costs = self._cost_at(tried)
        inside = costs <= self.target + _SLACK * self.full
        best = int(np.argmax(np.where(inside, costs, -1))) if inside.any() else int(np.argmin(costs))
        return tried[best], int(costs[best])

    def _raised(self, at: IntArray, cost: int, moves: IntArray) -> tuple[IntArray, int] | None:
        """The move that uses up most of what is left of the budget, if one does."""
        tried = at + moves
        last = np.array([len(o) - 1 for o in self.options])
        tried = tried[((tried >= 0) & (tried <= last)).all(axis=1)]
        if not len(tried):
            return None
        costs = self._cost_at(tried)
        costs = np.where(costs <= self.target + _SLACK * self.full, costs, -1)
        best = int(np.argmax(costs))
        return (tried[best], int(costs[best])) if costs[best] > cost else None

    def _lbound(self) -> float:
        bound = min(lower_bound(self.preserve_ratio), 1.0)
        while bound > _SLACK and self.macs(self.rounded(np.full(len(self), bound)))[0] > self.target:
            bound *= 0.9
        return bound

    def _check_range(self) -> None:
        least = int(self.macs([o[0] for o in self.options])[0])
        if self.target < least:
            share = np.ceil(1e4 * least / self.full) / 1e4
            raise BudgetError(
                f"cp_preserve_ratio must lie in the reachable range [{share:g}, 1], got {self.preserve_ratio:g} "
                f"({round(self.target):,} of {self.full:,} multiply-accumulates of the convs; the least is {least:,}); "
                f"use {share:g} or more"
            )

    def _check_even(self) -> None:
        reached = int(self._cost_at(self._even[None])[0])
        if not self.near(reached):
            step = min(int(np.diff(options).max(initial=1)) for options in self.options)
            raise BudgetError(
                f"cp_preserve_ratio must be reachable within {TOLERANCE:.0%} by whole channels, got "
                f"{self.preserve_ratio:g}, where the nearest found is {reached / self.full:.4f}; use "
                f"{np.ceil(1e4 * reached / self.full) / 1e4:g}" + (", or cp_quadruple: false" if step > 1 else "")
            )


def _nearest(options: IntArray, wanted: ArrayLike) -> IntArray:
    """Position of the option nearest to each number; of two, the smaller."""
    gaps = np.abs(options - np.asarray(wanted)[..., None])
    at: IntArray = np.argmin(np.round(gaps, 9), axis=-1).astype(np.int64)
    return at


def _options(coupling: Coupling, group: int, align: int) -> IntArray:
    size = coupling.groups[group].size
    options: IntArray = np.unique(np.append(np.arange(align, size + 1, align), size)).astype(np.int64)
    return options


def _decided(convs: list[_Conv]) -> list[int]:
    """Groups that a conv of its own reads, the last such conv left out, by their first reader."""
    readers = [conv for conv in convs if conv.single]
    return list(dict.fromkeys(group for conv in readers[:-1] for group in conv.inputs))


def _convs(coupling: Coupling) -> list[_Conv]:
    graph = coupling.graph
    ops = [graph.ops[position] for position in run_order(graph)]
    return [_conv(coupling, op) for op in ops if op.kind == "conv" and op.operand("weight") is not None]


def _conv(coupling: Coupling, op: Op) -> _Conv:
    graph, weight = coupling.graph, int(op.operand("weight") or 0)
    shape = graph.tensors[weight].shape
    inputs, outputs = (0, 1) if op.attrs.get("transposed") else (1, 0)
    groups = int(op.attrs.get("groups", 1))
    return _Conv(
        conv_macs(graph, op),
        _shares(coupling, weight, inputs),
        _shares(coupling, weight, outputs),
        groups == 1,
        (shape[outputs], shape[inputs] * groups, *_place(graph, op), max(op.attrs.get("stride") or (1,))),
    )


def _place(graph: Graph, op: Op) -> tuple[int, int]:
    """Height and width of what a conv reads."""
    shape = graph.tensors[op.inputs[0]].shape
    spatial = shape[len(shape) - int(op.attrs.get("spatial", 2)) :]
    return int(spatial[0]), int(np.prod(spatial[1:], dtype=np.int64))


def _shares(coupling: Coupling, tensor: int, axis: int) -> dict[int, float]:
    """Which groups an axis of a weight consists of, and what share each is of it."""
    axes = coupling.forms.axes.get(tensor)
    if axes is None:
        return {}
    parts = coupling.forms.slope[axes[axis]] * coupling.widths
    length = coupling.graph.tensors[tensor].shape[axis]
    return {int(g): float(parts[g]) / length for g in np.flatnonzero(parts)}

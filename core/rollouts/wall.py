"""The action wall of PocketFlow's automatic channel pruning: no decision may use up what later ones need.

He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, and PocketFlow
(Wu et al., 2018), whose wall this is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ActionWall", "Limits", "Places", "lower_bound"]

FloatArray = NDArray[np.float64]

Places = Sequence[Sequence[tuple[int, float]]]
"""For each decision the layers of which it sets a share, and how much of that share it makes up: 1 for all of it."""

_INPUTS, _OUTPUTS = 0, 1


def lower_bound(preserve_ratio: float) -> float:
    """The least share that an action may keep of a layer.

    Example:
        >>> round(lower_bound(0.5), 4)
        0.2641
    """
    return 1.5 * math.log10(preserve_ratio + 1)


@dataclass(frozen=True)
class Limits:
    """What is known before a decision.

    Attributes:
        other_flops: Cost of the network, should this decision keep nothing, and those not yet made their least.
        this_flops: What is added to it, should this decision keep all.
        recommended_action: The most that may be kept; above 1 where the budget allows more than there is.
        floor: The least that may be kept if the budget shall be used up at all; 0 or below where anything may.
    """

    other_flops: float
    this_flops: float
    recommended_action: float
    floor: float

    def clip(self, action: float) -> float:
        """The nearest action within the limits; what is beyond the wall loses, whatever the floor says."""
        return min(max(action, self.floor, 0.0), self.recommended_action, 1.0)


class _Shares:
    """Shares of inputs and outputs that layers keep, ``(L, 2)``, and those that decisions keep, ``(D,)``."""

    def __init__(self, flops: FloatArray, reads: Places, writes: Places, shares: FloatArray) -> None:
        self.flops = flops
        self.table: FloatArray = np.ones((len(flops), 2))
        self._of: FloatArray = np.ones(len(shares))
        self._places = [
            [(layer, _INPUTS, weight) for layer, weight in read]
            + [(layer, _OUTPUTS, weight) for layer, weight in write]
            for read, write in zip(reads, writes, strict=True)
        ]
        for decision, share in enumerate(shares.tolist()):
            self.keep(decision, share)

    def keep(self, decision: int, share: float) -> None:
        for layer, side, weight in self._places[decision]:
            if weight == 1:  # several may set the same whole side: the last one counts
                self.table[layer, side] = share
            else:
                self.table[layer, side] += weight * (share - self._of[decision])
        self._of[decision] = share

    def terms(self, decision: int) -> tuple[float, float, float]:
        """The cost as a polynomial of one decision's share: its constant, its slope and its square's factor."""
        slope: dict[int, list[float]] = {}
        for layer, side, weight in self._places[decision]:
            slope.setdefault(layer, [0.0, 0.0])[side] += weight
        other = this = square = 0.0
        for layer, flops in enumerate(self.flops.tolist()):
            a, b = self.table[layer].tolist()
            if layer not in slope:
                other += flops * a * b
                continue
            read, written = slope[layer]
            a = 0.0 if read == 1 else a - read * float(self._of[decision])
            b = 0.0 if written == 1 else b - written * float(self._of[decision])
            other += flops * a * b
            this += flops * (read * b + a * written)
            square += flops * read * written
        return other, this, square

    def total(self) -> float:
        return float((self.flops * self.table.prod(axis=1)).sum())


class ActionWall:
    """Bounds the share that each decision may keep, given those made before.

    A layer costs its FLOPs × the share of inputs × the share of outputs that it keeps. A decision sets the input
    shares of the layers that read it and the output shares of those that write it. Decisions that are not made
    yet count with their least for the wall, and with all for the floor.

    Args:
        flops: FLOPs of each unpruned layer, ``(L,)``.
        reads: For each decision the layers whose inputs it sets.
        writes: For each decision the layers whose outputs it sets.
        budget: FLOPs that the whole network may cost.
        least: Share that each decision keeps at least, ``(D,)`` or one for all.
        tolerance: Share of the budget that need not be used up.
    """

    def __init__(
        self,
        flops: ArrayLike,
        reads: Places,
        writes: Places,
        *,
        budget: float,
        least: ArrayLike,
        tolerance: float = 0.01,
    ) -> None:
        values = np.asarray(flops, dtype=np.float64)
        self.budget = float(budget)
        self.least: FloatArray = np.broadcast_to(np.asarray(least, dtype=np.float64), (len(reads),)).copy()
        self._goal = (1 - tolerance) * self.budget
        self._low = _Shares(values, reads, writes, self.least)
        self._high = _Shares(values, reads, writes, np.ones(len(reads)))

    @classmethod
    def of_fathers(cls, flops: Sequence[float], fathers: Sequence[int | None], preserve_ratio: float) -> ActionWall:
        """The wall of PocketFlow: decision ``i`` sets conv ``i``'s inputs and the outputs of its father.

        The first and the last conv keep all their inputs. The outputs of the last one's father nevertheless count
        with the least until the last decision, which keeps all of them.

        Args:
            flops: FLOPs of each conv.
            fathers: Position of the conv that each reads alone, or None.
            preserve_ratio: Share of the FLOPs to keep.
        """
        reads = [[(i, 1.0)] if 0 < i < len(flops) - 1 else [] for i in range(len(flops))]
        writes = [[(f, 1.0)] if f is not None else [] for f in fathers]
        budget = preserve_ratio * sum(flops)
        return cls(flops, reads, writes, budget=budget, least=lower_bound(preserve_ratio))

    @property
    def strategy(self) -> FloatArray:
        """Shares of inputs and outputs that each layer keeps as things stand, ``(L, 2)``."""
        return self._low.table.copy()

    @property
    def flops(self) -> float:
        """Cost of the network, should the decisions that are not made yet keep their least."""
        return self._low.total()

    @property
    def reducible(self) -> float:
        """FLOPs that the decisions not made yet can still take away."""
        return self._high.total() - self._low.total()

    def limits(self, decision: int) -> Limits:
        """What a decision may keep."""
        other, this, square = self._low.terms(decision)
        low = _root(self._goal, *self._high.terms(decision), none=0.0)
        return Limits(other, this + square, _root(self.budget, other, this, square, none=math.inf), low)

    def cost(self, decision: int, action: float) -> float:
        """FLOPs of the network once a decision keeps a share (PocketFlow's ``max_reduced_flops``)."""
        other, this, square = self._low.terms(decision)
        return other + this * action + square * action * action

    def keep(self, decision: int, share: float) -> None:
        """Make a decision."""
        self._low.keep(decision, share)
        self._high.keep(decision, share)


def _root(goal: float, other: float, this: float, square: float, *, none: float) -> float:
    """Where ``other + this·x + square·x²`` reaches a goal; ``none`` where it does not depend on ``x``."""
    left = goal - other
    if square == 0:
        return left / this if this > 0 else none
    return (math.sqrt(max(this * this + 4 * square * left, 0.0)) - this) / (2 * square)

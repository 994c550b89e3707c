"""The vectors that a search may take: ids of channel scales whose network costs what it may."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.core.cost import Cost
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import SCALES, ChannelScaleEncoding, metapruning_genes
from prunekit.core.errors import BudgetError, ConfigError
from prunekit.core.pruning_net import PruningNetSpec
from prunekit.core.shift import shift_to_budget

__all__ = ["Space", "Taken", "genes_of"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_LAST = len(SCALES) - 1
_ROUNDS = 64  # of uniform draws, before draws are moved to the budget
_BULK = 1024  # vectors drawn and costed at a time
_SHIFTS = 16
_SHIFTED = 256
_TRIES = 16  # rounds in which children are drawn again
_FEW = 8  # children drawn in a round for each that is wanted


class Taken:
    """Vectors that were proposed already.

    Networks are told apart by their bytes, so vectors must be canonical.
    """

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def fresh(self, vectors: IntArray) -> IntArray:
        """Those that were not, each once, in their order."""
        rows = {row.tobytes(): number for number, row in reversed(list(enumerate(vectors)))}
        return vectors[sorted(number for key, number in rows.items() if key not in self._keys)]

    def add(self, vectors: IntArray) -> None:
        """They are proposed from now on."""
        self._keys.update(row.tobytes() for row in vectors)


class Space:
    """Canonical vectors whose network costs from ``low`` to ``high``.

    Args:
        coupling: The network that candidates are cut from.
        model: Its name: for those of the published vectors, ids mean what they mean there.
        flops_range: Limits of the cost: shares up to 1, or numbers.
        convention: ``macs`` or ``metapruning``.
    """

    def __init__(self, coupling: Coupling, model: str, flops_range: Sequence[float], convention: str) -> None:
        self.genes = genes_of(coupling, model)
        self.encoding = ChannelScaleEncoding(coupling, self.genes)
        self._macs = Cost(coupling)
        self._flops = Cost(coupling, "metapruning-resnet" if model.startswith("resnet") else "metapruning")
        self._own = convention == "metapruning"
        self._full = self._macs.full(("macs",))["macs"]
        self._choices = self.encoding.choices
        self._count = int(self._choices.max(initial=-1)) + 1
        whole = int(self.costs(np.full((1, self.encoding.length), _LAST))[0])
        self._range = tuple(flops_range)
        self.low, self.high = (limit * whole if flops_range[1] <= 1 else limit for limit in flops_range)
        self._whole = whole

    def costs(self, vectors: IntArray) -> IntArray:
        """What the budget limits, ``(n,)`` for vectors ``(n, length)``."""
        cost, metric = (self._flops, "flops") if self._own else (self._macs, "macs")
        return cost.of(self.encoding.widths(vectors), (metric,))[metric]

    def figures(self, vectors: IntArray) -> list[dict[str, float]]:
        """``macs``, their share ``ratio``, and ``flops`` as MetaPruning counts, of each vector."""
        widths = self.encoding.widths(vectors)
        macs = self._macs.of(widths, ("macs",))["macs"].tolist()
        flops = self._flops.of(widths, ("flops",))["flops"].tolist()
        return [{"macs": m, "ratio": m / self._full, "flops": f} for m, f in zip(macs, flops, strict=True)]

    def within(self, vectors: IntArray) -> NDArray[np.bool_]:
        """Which vectors meet the budget, ``(n,)``."""
        costs = self.costs(vectors).astype(np.float64)
        near: NDArray[np.bool_] = (costs >= self.low * (1 - 1e-12)) & (costs <= self.high * (1 + 1e-12))
        return near

    def check(self, count: int) -> None:
        """Make sure that there are so many networks within the budget.

        Raises:
            BudgetError: There are not; the message says what can be reached.
        """
        ends = np.repeat(np.array([[0], [_LAST]]), self.encoding.length, axis=1)
        least, most = (int(cost) for cost in self.costs(ends))
        asked = f"flops_range=[{self._range[0]:g}, {self._range[1]:g}]"
        if self.low > most or self.high < least:
            low, high = (f"{end:,} ({end / self._whole:.4f})" for end in (least, most))
            raise BudgetError(
                f"{asked} must hold a network that the {len(SCALES)} scales give, which cost from {low} to {high} of "
                f"{self._whole:,} {self._unit}, got none; use a range between these"
            )
        found = self.draw(count, np.random.default_rng(0), Taken())
        if len(found) < count:
            raise BudgetError(
                f"a search needs as many distinct networks as population={count} says, got {len(found)} of "
                f"{asked} ({self.low:,.0f} to {self.high:,.0f} {self._unit}); the scales reach {least:,} to {most:,}: "
                f"use a wider range"
                + (f", or population={len(found)} and fewer mutations and crossovers" if found else "")
            )

    def uniform(self, count: int, rng: np.random.Generator) -> IntArray:
        """Vectors whose ids are drawn uniformly, whatever they cost; ids that must agree are drawn as one."""
        return rng.integers(len(SCALES), size=(count, self._count))[:, self._choices]

    def draw(self, count: int, rng: np.random.Generator, taken: Taken) -> list[IntArray]:
        """Random vectors within the budget that are new.

        Uniform draws that miss the budget are drawn again. Where that gives too few after some ten thousand, all ids
        of each further vector are moved by one amount until it meets the budget.

        Args:
            count: How many are wanted.
            rng: Draws.
            taken: What is not new.

        Returns:
            As many, or fewer where there are not so many to be found.
        """
        found: list[IntArray] = []
        for _ in range(_ROUNDS if count else 0):
            found += self._new(self.uniform(_BULK, rng), count - len(found), taken)
            if len(found) == count:
                return found
        for _ in range(_SHIFTS if count else 0):
            found += self._new(self._moved(_SHIFTED, rng), count - len(found), taken)
            if len(found) == count:
                break
        return found

    def mutate(
        self, parents: IntArray, count: int, chance: float, rng: np.random.Generator, taken: Taken
    ) -> list[IntArray]:
        """Vectors within the budget that are new: parents with some ids drawn anew."""

        def children(n: int) -> IntArray:
            one = parents[rng.integers(len(parents), size=n)]
            hit = (rng.random((n, self._count)) < chance)[:, self._choices]
            return np.where(hit, self.uniform(n, rng), one)

        return self._bred(children, count, taken)

    def cross(self, parents: IntArray, count: int, rng: np.random.Generator, taken: Taken) -> list[IntArray]:
        """Vectors within the budget that are new: each id of either of two parents."""

        def children(n: int) -> IntArray:
            one, other = (parents[rng.integers(len(parents), size=n)] for _ in range(2))
            return np.where((rng.random((n, self._count)) < 0.5)[:, self._choices], one, other)

        return self._bred(children, count, taken)

    @property
    def _unit(self) -> str:
        return "FLOPs in MetaPruning's count" if self._own else "MACs"

    def _bred(self, children: Callable[[int], IntArray], count: int, taken: Taken) -> list[IntArray]:
        found: list[IntArray] = []
        for _ in range(_TRIES if count else 0):
            new = self._new(children(_FEW * count), count - len(found), taken)
            found += new
            if len(found) == count or not new:  # of so many children none was new: hardly any is left
                break
        return found

    def _new(self, vectors: IntArray, most: int, taken: Taken) -> list[IntArray]:
        """The first so many of vectors, in canonical form, that are within the budget and were not taken."""
        fresh = taken.fresh(self.encoding.canonical(vectors))
        chosen = fresh[self.within(fresh)][:most]
        taken.add(chosen)
        return list(chosen)

    def _moved(self, count: int, rng: np.random.Generator) -> IntArray:
        """Uniform draws, all ids of each moved by one amount to a cost of the upper part of the range, or near it."""

        def whole(values: FloatArray) -> IntArray:
            return np.rint(values).astype(np.int64)[:, self._choices]

        values = rng.uniform(0, _LAST, (count, self._count))
        goal = rng.uniform(max(self.low, 0.8 * self.high), self.high, count)
        return whole(shift_to_budget(values, 0, _LAST, lambda v: self.costs(whole(v)), goal))


def genes_of(coupling: Coupling, model: str) -> list[list[str]]:
    """Layers that share each id of a vector: as published where they are, else one id for each group of channels."""
    try:
        return metapruning_genes(model)
    except ConfigError:
        return [[coupling.groups[position].name] for position in PruningNetSpec.of(coupling).free]

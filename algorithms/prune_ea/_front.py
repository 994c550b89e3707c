"""The Pareto front over all models so far, and the hypervolume that it dominates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.core.candidates import Candidate

__all__ = ["Front", "hypervolume"]

FloatArray = NDArray[np.float64]


def hypervolume(values: FloatArray) -> float:
    """Share of the unit cube that is worse than some of the points ``(n, objectives)``: the reference is (1, …, 1).

    Example:
        >>> hypervolume(np.array([[0.5, 0.5], [0.25, 0.75]]))
        0.3125
    """
    from pymoo.indicators.hv import HV

    return float(HV(ref_point=np.ones(values.shape[1]))(values))


class Front:
    """Models that no other model beats in one objective without being beaten by it in another.

    It is that of all models that were ever added, so that its hypervolume never falls. Of models that are worth
    exactly the same, the first is kept.

    Attributes:
        candidates: The models, in the order in which they were added.
        values: What they are worth, ``(n, objectives)``.
    """

    def __init__(self, objectives: int) -> None:
        """Begin without models."""
        self.candidates: list[Candidate] = []
        self.values: FloatArray = np.empty((0, objectives))

    def add(self, candidates: Sequence[Candidate], values: FloatArray) -> None:
        """Take in models, and drop those that are beaten now."""
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

        both, table = [*self.candidates, *candidates], np.concatenate([self.values, values])
        best = NonDominatedSorting().do(table, only_non_dominated_front=True)
        _, first = np.unique(table[best], axis=0, return_index=True)
        kept = np.sort(best[first])
        self.candidates, self.values = [both[k] for k in kept], table[kept]

    def by_cost(self, name: str = "macs") -> list[Candidate]:
        """The models from the cheapest to the most expensive one."""
        return sorted(self.candidates, key=lambda c: (c.figures[name], c.index))

"""NSGA-III over encodings: asked for a generation, told what it is worth.

Deb and Jain, "An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based Nondominated Sorting
Approach, Part I", IEEE Transactions on Evolutionary Computation, 2014.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.prune_ea._variation import Bits, Variation

__all__ = ["Evolution", "directions"]

FloatArray = NDArray[np.float64]


def directions(objectives: int, most: int) -> FloatArray:
    """Reference directions on the unit simplex, evenly spaced (Das and Dennis, 1998), ``(n, objectives)``.

    Args:
        objectives: Number of objectives.
        most: The largest grid with no more points than this is taken.
    """
    from pymoo.util.ref_dirs import get_reference_directions

    parts = 1
    while math.comb(parts + objectives, objectives - 1) <= most:
        parts += 1
    found: FloatArray = get_reference_directions("das-dennis", objectives, n_partitions=parts)
    return found


class Evolution:
    """The algorithm of pymoo. It draws from a generator of its own, and depends on seed and objectives alone.

    Args:
        variation: Breeds encodings.
        first: Number of random models that it begins with.
        size: Number of individuals in all later generations.
        objectives: Number of objectives.
        seed: Of all that is drawn.
    """

    def __init__(self, variation: Variation, first: int, size: int, objectives: int, seed: int) -> None:
        from pymoo.algorithms.moo.nsga3 import NSGA3
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination

        drawn = variation.first(first, np.random.default_rng([seed, 0]))
        self._algorithm = NSGA3(
            directions(objectives, size), pop_size=size, sampling=drawn, mating=variation, eliminate_duplicates=False,
            output=None,
        )  # fmt: skip
        problem = Problem(n_var=drawn.shape[1], n_obj=objectives, xl=0, xu=1)
        self._algorithm.setup(problem, termination=NoTermination(), seed=seed)
        self._asked: Any = None

    def ask(self) -> Bits:
        """The encodings of the next generation, ``(n, length)``; none where no new ones are found."""
        self._asked = self._algorithm.ask()
        if self._asked is None or len(self._asked) == 0:
            return np.empty((0, 0), dtype=np.bool_)
        return np.array([individual.X for individual in self._asked])

    def tell(self, values: FloatArray) -> None:
        """What the encodings asked for are worth: objectives to be minimised, ``(n, objectives)``."""
        for individual, row in zip(self._asked, values, strict=True):
            individual.F = row
        with warnings.catch_warnings():  # pymoo turns warnings off while it normalises, for the whole process
            self._algorithm.tell(infills=self._asked)

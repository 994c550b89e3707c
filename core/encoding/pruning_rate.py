"""The pruning rates of EagleEye (Li et al., "EagleEye", 2020): one share to remove per group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding.base import IntArray, Rank, WidthEncoding, groups_of
from prunekit.core.plan import PruningPlan

__all__ = ["PruningRateEncoding"]


class PruningRateEncoding(WidthEncoding):
    """One rate in [0, 1) per group: of ``n`` channels, ``n − int(rate · n)`` stay.

    This is the only place where a number says what is *removed*, because that is what strategy
    files of EagleEye hold.

    Args:
        coupling: The network that candidates are cut from.
        rank: Scores per group; EagleEye removes the channels of lowest L1 norm.
        layers: Group or layer name of each rate, in order; by default every group. Groups that are
            not named keep everything.

    Raises:
        PlanError: A name means no group, or two names the same.
    """

    def __init__(self, coupling: Coupling, rank: Rank | None = None, *, layers: Sequence[str] | None = None) -> None:
        super().__init__(coupling, rank)
        self._groups = groups_of(coupling, layers)
        self.length = len(self._groups)

    def widths(self, vectors: ArrayLike) -> IntArray:
        """Channels kept per group, ``(n, G)``, of a population ``(n, length)``."""
        rates = self._table(vectors, 0.0, float(np.nextafter(1.0, 0.0)))
        result = np.repeat(self.coupling.widths[None], len(rates), axis=0)
        sizes = self.coupling.widths[self._groups]
        # a rate next to 1 times n may round to n itself
        result[:, self._groups] = np.maximum(sizes - (rates * sizes).astype(np.int64), 1)
        return result

    def encode(self, plan: PruningPlan) -> NDArray[np.float64]:
        """The smallest rate, to the last digit, that removes as many channels as the plan does."""
        plan.check(self.coupling)
        sizes = self.coupling.widths[self._groups]
        gone = sizes - plan.widths(self.coupling)[self._groups]
        rates: NDArray[np.float64] = gone / sizes
        # gone / size × size may fall just short of gone
        short = (rates * sizes).astype(np.int64) < gone
        rates[short] = np.nextafter(rates[short], 1.0)
        return self._checked(plan, rates)

"""The strategies that a search may take: vectors of rates whose network costs what it should."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.cost import Cost
from prunekit.core.encoding import PruningRateEncoding
from prunekit.core.errors import BudgetError
from prunekit.core.shift import shift_to_budget

__all__ = ["Draws", "Space"]

FloatArray = NDArray[np.float64]

_BULK = 4096  # vectors drawn and costed at a time
_ROUNDS = 256  # of these, before draws are shifted to the budget
_SHIFTED = 512  # vectors shifted at a time
_SHIFTS = 32


@dataclass(frozen=True)
class Draws:
    """Distinct candidates.

    Attributes:
        vectors: Rates, ``(n, length)``, in the order in which they were drawn.
        drawn: How many vectors were looked at.
        shifted: How many of the candidates were moved to the budget, because uniform draws so seldom meet it.
    """

    vectors: FloatArray
    drawn: int
    shifted: int


class Space:
    """Vectors of rates in ``[low, high]`` that keep a share of the MACs.

    Args:
        encoding: What a vector means.
        low: Least rate.
        high: Largest.
        target: Share of the MACs of conv and linear to keep.
        tolerance: How far a candidate's share may be off.
    """

    def __init__(self, encoding: PruningRateEncoding, low: float, high: float, target: float, tolerance: float) -> None:
        self.encoding, self.low, self.high = encoding, low, high
        self.target, self.tolerance = target, tolerance
        self._cost = Cost(encoding.coupling, "eagleeye")
        self._full = self._cost.full(("macs",))["macs"]

    def ratios(self, vectors: FloatArray) -> FloatArray:
        """Shares of the MACs that stay, ``(n,)`` for vectors ``(n, length)``."""
        macs: FloatArray = self._cost.of(self.encoding.widths(vectors), ("macs",))["macs"].astype(np.float64)
        return macs / self._full

    def within(self, vectors: FloatArray) -> NDArray[np.bool_]:
        """Which vectors meet the budget, ``(n,)``."""
        # shares are quotients of whole numbers: the last digits are not theirs
        near: NDArray[np.bool_] = np.abs(self.ratios(vectors) - self.target) <= self.tolerance + 1e-12
        return near

    def key(self, vector: FloatArray) -> bytes:
        """The same for vectors that leave the same widths."""
        return bytes(self.encoding.widths(vector)[0].tobytes())

    def check(self) -> None:
        """Make sure that the target lies between what the rates can leave.

        Raises:
            BudgetError: It does not.
        """
        ends = np.array([np.full(self.encoding.length, rate) for rate in (self.high, self.low)])
        least, most = (float(share) for share in self.ratios(ends))
        if not least - self.tolerance <= self.target <= most + self.tolerance:
            low, high = math.ceil(1e4 * least) / 1e4, math.floor(1e4 * most) / 1e4
            raise BudgetError(
                f"flops_target must be reachable with rates from {self.low:g} to {self.high:g}, which leave {low:g} to "
                f"{high:g} of the MACs, got flops_target={self.target:g}; change it, or "
                + ("raise max_rate" if self.target < least else "lower min_rate")
            )

    def draw(self, count: int, seed: int) -> Draws:
        """Candidates with distinct widths that meet the budget; no network is built to reject one.

        Rates are drawn uniformly, and vectors that miss the budget dropped. Where that gives too few after a
        million vectors, all rates of each further vector are moved by one amount, until it meets the budget.

        Args:
            count: How many are wanted.
            seed: Of the draws.

        Raises:
            BudgetError: There are not so many.
        """
        rng = np.random.default_rng(seed)
        kept: dict[bytes, FloatArray] = {}
        drawn = 0
        for _ in range(_ROUNDS):
            self._take(kept, self._uniform(rng, _BULK), count)
            drawn += _BULK
            if len(kept) == count:
                return Draws(np.array(list(kept.values())), drawn, 0)
        plain = len(kept)
        for _ in range(_SHIFTS):
            self._take(kept, self.shift(self._uniform(rng, _SHIFTED)), count)
            drawn += _SHIFTED
            if len(kept) == count:
                return Draws(np.array(list(kept.values())), drawn, count - plain)
        raise BudgetError(
            f"a search needs as many distinct networks as candidates={count} says, got {len(kept)} within "
            f"{self.tolerance:g} of flops_target={self.target:g}; use "
            + (f"candidates={len(kept)}, " if kept else "")
            + "a larger tolerance, or more room between min_rate and max_rate"
        )

    def shift(self, vectors: FloatArray) -> FloatArray:
        """Vectors moved to the budget, as near as they come."""
        return shift_to_budget(vectors, self.low, self.high, self.ratios, self.target)

    def _uniform(self, rng: np.random.Generator, count: int) -> FloatArray:
        return rng.uniform(self.low, self.high, (count, self.encoding.length))

    def _take(self, kept: dict[bytes, FloatArray], vectors: FloatArray, count: int) -> None:
        good: Any = vectors[self.within(vectors)]
        for vector in good:
            if len(kept) == count:
                return
            kept.setdefault(self.key(vector), vector)

"""Candidates brought to a budget: all entries of a vector moved by one amount."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["shift_to_budget"]

FloatArray = NDArray[np.float64]

_ROUNDS = 40


def shift_to_budget(
    vectors: FloatArray,
    low: float,
    high: float,
    figure: Callable[[FloatArray], NDArray[Any]],
    target: float | FloatArray,
) -> FloatArray:
    """Move each vector so that it costs as nearly as can be what it should, its entries staying within limits.

    Example:
        >>> shift_to_budget(np.array([[0.2, 0.6]]), 0.0, 1.0, lambda v: v.sum(axis=1), 1.2).round(6)
        array([[0.4, 0.8]])

    Args:
        vectors: Candidates, ``(n, length)``.
        low: Least value of an entry.
        high: Most.
        figure: Cost of vectors, ``(n,)``; it rises with every entry, or falls with every one.
        target: The cost to reach, for all or for each, ``(n,)``.

    Returns:
        The moved vectors, ``(n, length)``. Where the target is out of reach, the nearest that is not.
    """
    below = np.full(len(vectors), low - high)
    above = np.full(len(vectors), high - low)
    ends = figure(np.array([np.full(vectors.shape[1], low), np.full(vectors.shape[1], high)]))
    rising = ends[1] >= ends[0]
    for _ in range(_ROUNDS):
        middle = (below + above) / 2
        large = (figure(_moved(vectors, middle, low, high)) > target) == rising
        below, above = np.where(large, below, middle), np.where(large, middle, above)
    both = [_moved(vectors, amount, low, high) for amount in (below, above)]
    off = [np.abs(figure(moved) - target) for moved in both]
    return np.where((off[0] <= off[1])[:, None], both[0], both[1])


def _moved(vectors: FloatArray, amount: FloatArray, low: float, high: float) -> FloatArray:
    return np.clip(vectors + amount[:, None], low, high)

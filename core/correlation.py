"""How well scores before training foretell accuracies after it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prunekit.core.errors import InputError

__all__ = ["Correlation", "correlate"]

_LEAST = 4  # fewer points have no interval of Pearson's r
_RESAMPLES = 2000


@dataclass(frozen=True)
class Correlation:
    """Two coefficients with 95 % confidence intervals.

    Attributes:
        points: Number of pairs.
        kendall: Kendall's tau-b.
        kendall_interval: Its percentile bootstrap interval.
        pearson: Pearson's r.
        pearson_interval: Its interval by Fisher's transform.
    """

    points: int
    kendall: float
    kendall_interval: tuple[float, float]
    pearson: float
    pearson_interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


def correlate(scores: Sequence[float], accuracies: Sequence[float], *, seed: int = 0) -> Correlation:
    """Correlate scores with accuracies.

    Where all values of a side are equal, no order can be told: the coefficients are 0, their intervals [-1, 1].

    Args:
        scores: One per network, at least four.
        accuracies: As many.
        seed: Of the bootstrap.

    Raises:
        InputError: There are too few pairs, or they are not finite.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (scores, accuracies))
    if x.shape != y.shape or x.ndim != 1 or len(x) < _LEAST or not np.isfinite([x, y]).all():
        raise InputError(
            f"a correlation needs at least {_LEAST} pairs of finite numbers, got shapes {x.shape} and {y.shape}"
        )
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(len(x), 0.0, (-1.0, 1.0), 0.0, (-1.0, 1.0))
    pearson = stats.pearsonr(x, y)
    interval = pearson.confidence_interval(0.95)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples that are all alike
        spread = stats.bootstrap(
            (x, y), _tau, paired=True, vectorized=False, n_resamples=_RESAMPLES, method="percentile",
            confidence_level=0.95, random_state=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    return Correlation(
        len(x), _tau(x, y), (float(spread.low), float(spread.high)),
        float(pearson.statistic), (float(interval.low), float(interval.high)),
    )  # fmt: skip


def _tau(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    tau = float(stats.kendalltau(x, y).statistic)
    return tau if np.isfinite(tau) else 0.0  # a resample that is all one value orders nothing

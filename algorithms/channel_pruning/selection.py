"""Which channels a group keeps: LASSO over the channels' contributions (He, Zhang and Sun, ICCV 2017, section 3.1).

Of the outputs of a layer that reads the group, channel ``u`` contributes ``Z_u = X_u W_uᵀ``. Channel ``u`` gets a
factor ``β_u``, and the LASSO minimises ``‖Y − Σ β_u Z_u‖² / 2n + α ‖β‖₁`` over the outputs of all readers of the
group, each divided by its energy. It needs the contributions' Gram matrix and their products with ``Y`` alone,
which follow from the moments of ``X`` and ``Y``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lars_path_gram

from prunekit.algorithms.channel_pruning.moments import FloatArray, IntArray, Moments

__all__ = ["Contributions", "Part", "entry_scores", "select_channels"]


@dataclass(frozen=True)
class Part:
    """One reader's part in a decision.

    Attributes:
        moments: Means of its rows and targets; see :meth:`Moments.means`.
        weight: Its weight on the columns of the rows, ``(O, D)``.
        units: Columns that belong to each channel of the group, ``(size, k)``; other columns belong to others.
    """

    moments: Moments
    weight: FloatArray
    units: IntArray


@dataclass(frozen=True)
class Contributions:
    """What the channels of a group contribute, ``(size, size)`` and ``(size,)``.

    Attributes:
        gram: Products of contributions with one another.
        target: Products of contributions with what they should add up to.
    """

    gram: FloatArray
    target: FloatArray

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Contributions:
        """Those of a group from all its readers.

        Args:
            parts: One per reader, at least one.
        """
        size = len(parts[0].units)
        gram, target = np.zeros((size, size)), np.zeros(size)
        for part in parts:
            energy = float(part.moments.yy.sum()) or 1.0
            products = part.moments.xx * (part.weight.T @ part.weight)
            flat = part.units.ravel()
            mine = products[np.ix_(flat, flat)].reshape(size, part.units.shape[1], size, -1)
            gram += mine.sum(axis=(1, 3)) / energy
            wanted = (part.moments.xy * part.weight.T).sum(axis=1)
            others = np.ones(len(products), dtype=bool)
            others[flat] = False
            wanted -= products[:, others].sum(axis=1)  # what channels outside the group give already
            target += wanted[part.units].sum(axis=1) / energy
        return cls(gram, target)

    def path(self) -> FloatArray:
        """The factors at every knot of the LASSO path, ``(size, knots)``."""
        size = len(self.target)
        with warnings.catch_warnings():
            # a path that ends early, at channels that add nothing to those it has, is no failure here
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            _, _, factors = lars_path_gram(
                Xy=self.target, Gram=self.gram, n_samples=1, method="lasso", max_iter=8 * size + 100, copy_X=True,
                copy_Gram=True,
            )  # fmt: skip
        found: FloatArray = np.nan_to_num(factors)
        return found


def select_channels(contributions: Contributions, keep: int) -> IntArray:
    """The channels that stay, sorted: those of the first point of the LASSO path that has exactly ``keep`` of them.

    Where the path ends before, or steps over that number, the largest set below it is filled up with those that come
    next on the path, and then with the largest contributions: so duplicates and dead channels come last.

    Args:
        contributions: Of the group.
        keep: How many stay, from 1 to the size of the group.
    """
    if keep == len(contributions.target):
        return np.arange(keep)
    factors = contributions.path()
    counts = (factors != 0).sum(axis=0)
    exact = np.flatnonzero(counts == keep)
    if len(exact):
        return np.flatnonzero(factors[:, exact[0]])
    below = np.flatnonzero(counts < keep)
    knot = int(below[np.argmax(counts[below])])
    chosen = np.flatnonzero(factors[:, knot])
    order = [u for u in _order(factors, contributions) if u not in set(chosen.tolist())]
    return np.sort(np.concatenate([chosen, np.array(order[: keep - len(chosen)], dtype=np.int64)]))


def entry_scores(contributions: Contributions) -> FloatArray:
    """A score per channel, ``(size,)``, from the order in which channels enter the LASSO path; the first is largest."""
    order = _order(contributions.path(), contributions)
    scores = np.empty(len(order))
    scores[order] = np.arange(len(order), 0, -1)
    return scores


def _order(factors: FloatArray, contributions: Contributions) -> list[int]:
    """Channels in the order of their entry; those that never enter follow, the largest contribution first."""
    active = factors != 0
    first = np.where(active.any(axis=1), active.argmax(axis=1), factors.shape[1])
    size = np.diag(contributions.gram)
    return [int(u) for u in np.lexsort((-size, first))]

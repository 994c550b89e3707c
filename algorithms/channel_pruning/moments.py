"""Second moments of what layers read and should give, added up batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FloatArray", "IntArray", "Moments", "Sample"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Moments:
    """Sums over rows: all that selection and least squares need to know of ``X`` ``(n, D)`` and ``Y`` ``(n, O)``.

    Their size depends on the layer alone, not on how many rows were seen.

    Attributes:
        xx: Sum of ``XᵀX``, ``(D, D)``.
        xy: Sum of ``XᵀY``, ``(D, O)``.
        x: Sum of the rows of ``X``, ``(D,)``.
        y: Sum of the rows of ``Y``, ``(O,)``.
        yy: Sum of the squares of ``Y``, ``(O,)``.
        count: Number of rows.
    """

    xx: FloatArray
    xy: FloatArray
    x: FloatArray
    y: FloatArray
    yy: FloatArray
    count: int

    @classmethod
    def of(cls, x: NDArray[Any], y: NDArray[Any]) -> Moments:
        """Moments of rows ``(n, D)`` and ``(n, O)``, in double precision."""
        a, b = x.astype(np.float64), y.astype(np.float64)
        return cls(a.T @ a, a.T @ b, a.sum(axis=0), b.sum(axis=0), (b * b).sum(axis=0), len(a))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of rows."""
        return Moments(
            self.xx + other.xx, self.xy + other.xy, self.x + other.x, self.y + other.y, self.yy + other.yy,
            self.count + other.count,
        )  # fmt: skip

    def part(self, columns: IntArray, outputs: IntArray) -> Moments:
        """Moments of some columns of ``X`` and of ``Y``."""
        xx, xy = self.xx[np.ix_(columns, columns)], self.xy[np.ix_(columns, outputs)]
        return Moments(xx, xy, self.x[columns], self.y[outputs], self.yy[outputs], self.count)

    def means(self, centred: bool) -> Moments:
        """Means instead of sums; of products about the means of the rows where ``centred``, ``x`` and ``y`` being those
        means in either case."""
        n = self.count
        x, y = self.x / n, self.y / n
        if not centred:
            return Moments(self.xx / n, self.xy / n, x, y, self.yy / n, 1)
        yy = np.maximum(self.yy / n - y * y, 0)
        return Moments(self.xx / n - np.outer(x, x), self.xy / n - np.outer(x, y), x, y, yy, 1)


@dataclass(frozen=True)
class Sample:
    """Moments of most images, to fit to, and of the rest, to see what a fit is worth.

    Attributes:
        fit: Of three quarters of the images of each batch.
        held: Of the others.
    """

    fit: Moments
    held: Moments

    @classmethod
    def of(cls, x: NDArray[Any], y: NDArray[Any], images: int) -> Sample:
        """Moments of the rows ``(n, D)`` and ``(n, O)`` of a batch, image by image."""
        border = (images - images // 4) * (len(x) // max(images, 1))
        return cls(Moments.of(x[:border], y[:border]), Moments.of(x[border:], y[border:]))

    @property
    def whole(self) -> Moments:
        """Moments of all rows."""
        return self.fit + self.held

    def __add__(self, other: Sample) -> Sample:
        """Both together."""
        return Sample(self.fit + other.fit, self.held + other.held)

    def part(self, columns: IntArray, outputs: IntArray) -> Sample:
        """Moments of some columns of ``X`` and of ``Y``."""
        return Sample(self.fit.part(columns, outputs), self.held.part(columns, outputs))

"""Labels: one integer per index of an axis, united where indices must live or die together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LabelSpace"]

IntArray = NDArray[np.int64]


class LabelSpace:
    """A union-find over integers, vectorised: whole axes are united at once.

    >>> space = LabelSpace()
    >>> a, b = space.fresh(3), space.fresh(3)
    >>> space.unite(a, b[::-1])
    >>> bool((space.find(a) == space.find(b)[::-1]).all())
    True
    """

    def __init__(self) -> None:
        self._parent: IntArray = np.arange(1024, dtype=np.int64)
        self._count = 0
        self._pending: list[tuple[IntArray, IntArray]] = []
        self._frozen: list[tuple[IntArray, int]] = []
        self._marked: list[IntArray] = []
        self.reasons: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return self._count

    def fresh(self, n: int) -> IntArray:
        """``n`` new labels."""
        if self._count + n > len(self._parent):
            grown = np.arange(2 * (self._count + n), dtype=np.int64)
            grown[: self._count] = self._parent[: self._count]
            self._parent = grown
        labels = np.arange(self._count, self._count + n, dtype=np.int64)
        self._count += n
        return labels

    def unite(self, left: IntArray, right: IntArray) -> None:
        """Unite two axes position by position; done when a root is next asked for."""
        if left is not right:
            self._pending.append((left, right))

    def freeze(self, labels: IntArray, reason: str, where: str = "") -> None:
        """Mark labels (and all they are or will be united with) as not to be cut."""
        if not self.reasons or self.reasons[-1] != (reason, where):
            self.reasons.append((reason, where))
        self._frozen.append((labels, len(self.reasons) - 1))

    def mark(self, labels: IntArray) -> None:
        """Mark labels as non-neutral: an op takes statistics over them."""
        self._marked.append(labels)

    def find(self, labels: IntArray) -> IntArray:
        """Root of each label."""
        self._close()
        return self._roots(labels)

    def frozen(self) -> IntArray:
        """Array over roots: number of the first reason that freezes each, or -1."""
        result = np.full(self._count, -1, dtype=np.int64)
        for labels, reason in reversed(self._frozen):
            result[self.find(labels)] = reason
        return result

    def frozen_by(self, prefix: str | tuple[str, ...]) -> NDArray[np.bool_]:
        """Boolean array over roots: True where any of the reasons begins so."""
        result = np.zeros(self._count, dtype=bool)
        for labels, reason in self._frozen:
            if self.reasons[reason][0].startswith(prefix):
                result[self.find(labels)] = True
        return result

    def marked(self) -> NDArray[np.bool_]:
        """Boolean array over roots: True where non-neutral."""
        result = np.zeros(self._count, dtype=bool)
        for labels in self._marked:
            result[self.find(labels)] = True
        return result

    def _roots(self, labels: IntArray) -> IntArray:
        parent = self._parent
        roots = parent[labels]
        while True:
            higher = parent[roots]
            if np.array_equal(higher, roots):
                return roots
            roots = higher

    def _close(self) -> None:
        if not self._pending:
            return
        left = np.concatenate([a for a, _ in self._pending])
        right = np.concatenate([b for _, b in self._pending])
        self._pending.clear()
        while len(left):
            left, right = self._roots(left), self._roots(right)
            open_ = left != right
            left, right = left[open_], right[open_]
            # always hang the higher root below the lower: no cycle can form, and where two
            # edges compete for one root the loser is seen again in the next round
            self._parent[np.maximum(left, right)] = np.minimum(left, right)
        used = self._parent[: self._count]
        self._parent[: self._count] = self._roots(used)

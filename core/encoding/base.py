"""What every encoding offers: vectors to plans, plans to vectors, and widths of whole populations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core._names import nearest
from prunekit.core.coupling.groups import ChannelGroup, Coupling
from prunekit.core.errors import PlanError
from prunekit.core.plan import PruningPlan

__all__ = ["Encoding", "IntArray", "Rank", "WidthEncoding", "group_of"]

IntArray = NDArray[np.int64]
Rank = Mapping[str, ArrayLike]
"""Scores by group name, ``(size,)`` each: of a group that keeps ``k`` channels, the best ``k`` stay."""


class Encoding(ABC):
    """A way to write a candidate as one vector.

    ``decode`` then ``encode`` gives the vector's canonical form (see :meth:`repair`), and
    ``encode`` then ``decode`` the same plan. Nothing is drawn: the same vector gives the same plan.

    Attributes:
        coupling: The network that candidates are cut from.
        length: Number of entries of a vector.
    """

    coupling: Coupling
    length: int

    @abstractmethod
    def decode(self, vector: ArrayLike, **fields: Any) -> PruningPlan:
        """The plan that a vector, ``(length,)``, describes; ``fields`` are further fields of the plan.

        Raises:
            PlanError: The vector has another length, or entries out of range.
        """

    @abstractmethod
    def encode(self, plan: PruningPlan) -> NDArray[Any]:
        """The canonical vector, ``(length,)``, of a plan.

        Raises:
            PlanError: The plan is for another network, or this encoding has no words for it.
        """

    @abstractmethod
    def widths(self, vectors: ArrayLike) -> IntArray:
        """Channels kept per group, ``(n, G)``, of a population ``(n, length)``: what a cost takes.

        Raises:
            PlanError: The vectors have another length, or entries out of range.
        """

    def repair(self, vector: ArrayLike) -> NDArray[Any]:
        """The canonical form of a vector: the one that its own plan is written as."""
        return self.encode(self.decode(vector))

    def _table(self, vectors: ArrayLike, low: float, high: float, dtype: Any = np.float64) -> NDArray[Any]:
        """Checked vectors, ``(n, length)``."""
        try:
            table = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
        except (TypeError, ValueError, OverflowError) as error:
            said = str(error)[:80]
            raise PlanError(f"an encoding must be a list of numbers, got something else ({said}); change it") from error
        if table.ndim != 2 or table.shape[1] != self.length:
            raise PlanError(
                f"{type(self).__name__} has {self.length} entries for this model, got {table.shape[-1]}; give "
                f"{self.length} numbers, or use the model that the vector is of"
            )
        bad = ~((table >= low) & (table <= high))
        whole = np.issubdtype(dtype, np.integer)
        if whole:
            bad |= table != np.rint(table)
        if bad.any():
            row, place = np.argwhere(bad)[0]
            kind = "whole numbers" if whole else "numbers"
            raise PlanError(
                f"entries must be {kind} from {low:g} to {high:g}, got {table[row, place]:g} at position {place}"
            )
        return table.astype(dtype)


class WidthEncoding(Encoding):
    """An encoding that carries widths alone: which channels stay is a matter of rank.

    Args:
        coupling: The network that candidates are cut from.
        rank: Scores per channel of each group; None keeps the leading channels.

    Raises:
        PlanError: The rank is not that of the network's groups.
    """

    def __init__(self, coupling: Coupling, rank: Rank | None = None) -> None:
        self.coupling = coupling
        self._best = {g.name: _ranked(g, rank) for g in coupling.groups}

    def decode(self, vector: ArrayLike, **fields: Any) -> PruningPlan:
        """The plan that keeps the best channels of each group, as many as the vector says."""
        rows: Any = [vector]  # as a list: what is no vector is found where populations are checked
        return self.plan(self.widths(rows)[0], **fields)

    def plan(self, widths: ArrayLike, **fields: Any) -> PruningPlan:
        """The plan that keeps the best channels at given widths, ``(G,)``."""
        pairs = zip(self.coupling.groups, np.asarray(widths).tolist(), strict=True)
        return PruningPlan.of(self.coupling, {g.name: self._best[g.name][: int(w)] for g, w in pairs}, **fields)

    def _checked(self, plan: PruningPlan, vector: NDArray[Any]) -> NDArray[Any]:
        """The vector, if it gives the widths of the plan."""
        wanted = plan.widths(self.coupling)
        got = self.widths(vector[None])[0]
        if (wanted != got).any():
            worst = int(np.flatnonzero(wanted != got)[0])
            group = self.coupling.groups[worst]
            raise PlanError(
                f"{type(self).__name__} must be able to say each width, got {wanted[worst]} of {group.size} for "
                f"{group.name!r} (nearest is {got[worst]}); use ZeroOneEncoding, which has words for every plan"
            )
        return vector


def group_of(coupling: Coupling, layer: str) -> int:
    """Position of the group that a name means: its own name, or that of a layer that produces its channels.

    Raises:
        PlanError: No group, or more than one, goes by that name.
    """
    if layer in coupling.index:
        return coupling.index[layer]
    found = [i for i, g in enumerate(coupling.groups) if any(m.layer == layer for m in g.producers)]
    if len(found) != 1:
        known = [*coupling.index, *(m.layer for g in coupling.groups for m in g.producers)]
        what = "no group" if not found else f"groups {[coupling.groups[i].name for i in found]}"
        raise PlanError(
            f"a name must mean one channel group, got {layer!r}, which means {what}; {nearest(layer, known)}"
        )
    return found[0]


def groups_of(coupling: Coupling, layers: Sequence[str] | None) -> list[int]:
    """Positions of distinct groups by name; all of them for None.

    Raises:
        PlanError: A name means no group, or two names the same.
    """
    if layers is None:
        return list(range(len(coupling.groups)))
    positions = [group_of(coupling, layer) for layer in layers]
    for k, position in enumerate(positions):
        if position in positions[:k]:
            other = layers[positions.index(position)]
            raise PlanError(
                f"each entry must have a group of its own, got {layers[k]!r} and {other!r} for one; drop one"
            )
    return positions


def _ranked(group: ChannelGroup, rank: Rank | None) -> list[int]:
    if rank is None:
        return list(range(group.size))
    if group.name not in rank:
        raise PlanError(f"a rank must name every group, got none for {group.name!r}; score the same model")
    scores = np.asarray(rank[group.name], dtype=np.float64)
    if scores.shape != (group.size,) or not np.isfinite(scores).all():
        raise PlanError(f"the rank of {group.name!r} must be {group.size} finite numbers, got shape {scores.shape}")
    return [int(i) for i in np.argsort(-scores, kind="stable")]

"""The channel scales of MetaPruning (Liu et al., "MetaPruning", 2019): one of 31 scales per gene."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding.base import IntArray, Rank, WidthEncoding, group_of
from prunekit.core.errors import PlanError
from prunekit.core.plan import PruningPlan

__all__ = ["SCALES", "ChannelScaleEncoding"]

_PERCENT = np.arange(31, dtype=np.int64) * 3 + 10

SCALES = tuple(int(p) / 100 for p in _PERCENT)
"""The 31 scales, 0.10 to 1.00 in steps of 0.03."""


class ChannelScaleEncoding(WidthEncoding):
    """Ids into :data:`SCALES`: a group of ``n`` channels keeps ``int(n · scale)`` of them, at least one.

    Small groups have several ids of the same width; the lowest is canonical. Without a rank the
    leading channels stay, as MetaPruning crops them.

    Args:
        coupling: The network that candidates are cut from.
        genes: For each id, the group or layer names that share it; by default every group has one.
            Several ids may mean one group (MobileNetV2 repeats a stage's id for each block): they
            must then agree. Groups that are not named keep everything.
        rank: Scores per group.

    Raises:
        PlanError: A name means no group.
    """

    def __init__(
        self, coupling: Coupling, genes: Sequence[Sequence[str]] | None = None, *, rank: Rank | None = None
    ) -> None:
        super().__init__(coupling, rank)
        named = [[g.name] for g in coupling.groups] if genes is None else genes
        self._genes = [sorted({group_of(coupling, name) for name in names}) for names in named]
        self.length = len(self._genes)
        self._ids: dict[int, list[int]] = {}
        for gene, groups in enumerate(self._genes):
            for position in groups:
                self._ids.setdefault(position, []).append(gene)

    def widths(self, vectors: ArrayLike) -> IntArray:
        """Channels kept per group, ``(n, G)``, of a population ``(n, length)``."""
        ids = self._table(vectors, 0, len(SCALES) - 1, np.int64)
        result = np.repeat(self.coupling.widths[None], len(ids), axis=0)
        for position, genes in self._ids.items():
            kept = np.maximum(self.coupling.widths[position] * _PERCENT[ids[:, genes]] // 100, 1)
            if (kept != kept[:, :1]).any():
                raise PlanError(
                    f"ids {genes} mean the same channels ({self.coupling.groups[position].name!r}) and must agree, "
                    f"got {ids[(kept != kept[:, :1]).any(axis=1)][0, genes].tolist()}"
                )
            result[:, position] = kept[:, 0]
        return result

    @cached_property
    def choices(self) -> IntArray:
        """Which free choice each id belongs to, ``(length,)``: ids of one group, which must agree, share one."""
        of = list(range(self.length))
        for genes in self._ids.values():
            together = {of[gene] for gene in genes}
            of = [min(together) if choice in together else choice for choice in of]
        return np.unique(of, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def canonical(self, vectors: ArrayLike) -> IntArray:
        """The canonical forms, ``(n, length)``, of a population: the lowest id of each width."""
        ids = self._table(vectors, 0, len(SCALES) - 1, np.int64)
        result: IntArray = self._lowest[np.arange(self.length), ids]
        return result

    @cached_property
    def _lowest(self) -> IntArray:
        """The lowest id that gives the widths of each id, ``(length, 31)``."""
        table = np.empty((self.length, len(SCALES)), dtype=np.int64)
        for gene, groups in enumerate(self._genes):
            options = np.maximum(self.coupling.widths[groups][:, None] * _PERCENT // 100, 1)
            changes = np.concatenate([[True], (np.diff(options, axis=1) != 0).any(axis=0)])  # widths never fall
            table[gene] = np.maximum.accumulate(np.where(changes, np.arange(len(SCALES)), 0))
        return table

    def encode(self, plan: PruningPlan) -> IntArray:
        """The lowest id of each gene that gives the plan's widths."""
        plan.check(self.coupling)
        wanted = plan.widths(self.coupling)
        ids = np.full(self.length, len(SCALES) - 1, dtype=np.int64)
        for gene, groups in enumerate(self._genes):
            options = np.maximum(self.coupling.widths[groups][:, None] * _PERCENT // 100, 1)
            fits = (options == wanted[groups][:, None]).all(axis=0)
            if not fits.any():
                names = [self.coupling.groups[g].name for g in groups]
                raise PlanError(
                    f"widths must be one of the {len(SCALES)} scales, and the same one for coupled genes, got "
                    f"{wanted[groups].tolist()} of {self.coupling.widths[groups].tolist()} for {names}; "
                    "use ZeroOneEncoding, which has words for every plan"
                )
            ids[gene] = int(np.argmax(fits))
        self._checked(plan, ids)
        return ids

"""The 0/1 channel list of PruneEA (Vega): one bit per channel, 1 = kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding.base import Encoding, IntArray, Rank, group_of
from prunekit.core.errors import PlanError
from prunekit.core.plan import PruningPlan

__all__ = ["ZeroOneEncoding"]


class ZeroOneEncoding(Encoding):
    """One segment of bits per channel group, or per layer named.

    A segment of zeros alone is repaired: the best channel by rank (the first, without a rank)
    stays. Where several segments mean the same group, because a shortcut ties their layers, a
    channel stays if any of them keeps it.

    Args:
        coupling: The network that candidates are cut from.
        layers: Group or layer name of each segment, in order; by default every group once. Groups
            that are not named keep everything.
        rank: Scores per group, for the repair.

    Raises:
        PlanError: A name means no group.
    """

    def __init__(self, coupling: Coupling, layers: Sequence[str] | None = None, *, rank: Rank | None = None) -> None:
        self.coupling = coupling
        names = list(coupling.index) if layers is None else list(layers)
        self._groups = [group_of(coupling, name) for name in names]
        self.segments = tuple(coupling.groups[g].size for g in self._groups)
        """Length of each segment."""
        self.length = sum(self.segments)
        self._starts = np.cumsum([0, *self.segments])
        self._spare = {
            g: int(np.argmax(np.asarray(rank[coupling.groups[g].name]))) if rank is not None else 0
            for g in set(self._groups)
        }

    @classmethod
    def vega(cls, coupling: Coupling, *, rank: Rank | None = None) -> ZeroOneEncoding:
        """Vega's order for CIFAR ResNets: the first conv; per stage each block's first conv, then the stage's output.

        464, 688 and 1136 bits for ResNet-20, 32 and 56.

        Raises:
            PlanError: The layers are not named as those of a ResNet of basic blocks.
        """
        found: dict[int, set[int]] = {}
        for name in coupling.graph.names:
            match = re.fullmatch(r"layer(\d+)\.(\d+)\.conv[12]\.weight", name)
            if match:
                found.setdefault(int(match[1]), set()).add(int(match[2]))
        if not found or "conv1.weight" not in coupling.graph.names:
            raise PlanError(
                "Vega's order needs layers conv1 and layer<stage>.<block>.conv1 and .conv2, got another network; "
                "use ZeroOneEncoding(coupling)"
            )
        layers = ["conv1"]
        for stage in sorted(found):
            layers += [f"layer{stage}.{block}.conv1" for block in sorted(found[stage])]
            layers.append(f"layer{stage}.{max(found[stage])}.conv2")
        return cls(coupling, layers, rank=rank)

    def decode(self, vector: ArrayLike, **fields: Any) -> PruningPlan:
        """The plan that keeps the channels whose bit is 1."""
        rows: Any = [vector]  # as a list: what is no vector is found where populations are checked
        bits = self._table(rows, 0, 1, np.int64)
        kept = {self.coupling.groups[g].name: np.flatnonzero(m[0]).tolist() for g, m in self._masks(bits).items()}
        return PruningPlan.of(self.coupling, kept, **fields)

    def encode(self, plan: PruningPlan) -> IntArray:
        """One bit per channel; segments of tied layers say the same."""
        plan.check(self.coupling)
        bits = np.zeros(self.length, dtype=np.int64)
        for start, position in zip(self._starts, self._groups, strict=False):
            group = self.coupling.groups[position]
            bits[start + np.asarray(plan.kept.get(group.name, range(group.size)), dtype=np.int64)] = 1
        for position, group in enumerate(self.coupling.groups):
            if position not in self._spare and len(plan.kept.get(group.name, range(group.size))) < group.size:
                raise PlanError(
                    f"only groups that have a segment may be cut, got a plan that cuts {group.name!r}; "
                    "use ZeroOneEncoding(coupling)"
                )
        return bits

    def widths(self, vectors: ArrayLike) -> IntArray:
        """Channels kept per group, ``(n, G)``, of a population ``(n, length)``."""
        bits = self._table(vectors, 0, 1, np.int64)
        result = np.repeat(self.coupling.widths[None], len(bits), axis=0)
        for position, mask in self._masks(bits).items():
            result[:, position] = mask.sum(axis=1)
        return result

    def repair_all(self, vectors: ArrayLike) -> NDArray[np.bool_]:
        """The canonical form, ``(n, length)``, of each vector of a population; what is kept is True."""
        array = np.asarray(vectors)
        whole = array.dtype == np.bool_ and array.ndim == 2 and array.shape[1] == self.length
        masks = self._masks(array if whole else self._table(vectors, 0, 1, np.int64))
        return np.concatenate([masks[position] for position in self._groups], axis=1)

    def _masks(self, bits: NDArray[Any]) -> dict[int, NDArray[np.bool_]]:
        """What is kept of each group, ``(n, size)`` by position: segments united, empty ones repaired."""
        masks: dict[int, NDArray[np.bool_]] = {}
        for start, stop, position in zip(self._starts[:-1], self._starts[1:], self._groups, strict=True):
            mask = bits[:, start:stop] != 0
            masks[position] = masks[position] | mask if position in masks else mask
        for position, mask in masks.items():
            mask[~mask.any(axis=1), self._spare[position]] = True
        return masks

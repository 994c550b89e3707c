"""What a criterion is given: the network's weights, and a way to take one channel's share of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.coupling.groups import ChannelGroup, Coupling, Member
from prunekit.core.errors import InputError

__all__ = ["REDUCTIONS", "Criterion", "FloatArray", "Inputs"]

FloatArray = NDArray[np.float64]

REDUCTIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "mean": lambda parts: parts.mean(axis=0),
    "sum": lambda parts: parts.sum(axis=0),
    "max": lambda parts: parts.max(axis=0),
}


@dataclass(frozen=True)
class Inputs:
    """All that criteria score from.

    Attributes:
        coupling: The coupled network.
        state: Parameters and buffers by canonical name.
        gradients: Gradients by parameter name, for criteria that need them.
        activations: Mean absolute output per channel, ``(C,)``, by layer, for those that need them.
        reduction: How the scores of coupled parameters become one: a key of :data:`REDUCTIONS`.
        members: ``"producers"`` (weights that make the channels) or ``"all"`` (and those that read them).
        seed: For criteria that draw.
    """

    coupling: Coupling
    state: Mapping[str, NDArray[Any]]
    gradients: Mapping[str, NDArray[Any]] | None = None
    activations: Mapping[str, NDArray[Any]] | None = None
    reduction: str = "mean"
    members: str = "producers"
    seed: int = 0

    def weights(self, group: ChannelGroup) -> tuple[Member, ...]:
        """The members whose weights speak for a group's channels, never none.

        Raw parameters that no layer makes (position tables, class tokens) are scored by
        themselves.
        """
        chosen = group.producers
        if self.members == "all":
            chosen += group.consumers
        if not chosen:
            chosen = tuple(m for m in group.members if m.role == "other") or group.consumers or group.members
        return chosen

    def blocks(self, member: Member, of: Mapping[str, NDArray[Any]] | None = None) -> FloatArray:
        """All values of a parameter that belong to each channel, ``(size, …)`` flattened to two axes.

        Raises:
            InputError: The parameter is missing or has another shape.
        """
        return self._values(member, of).astype(np.float64, copy=False)

    def squares(self, member: Member) -> FloatArray:
        """Sum of the squares of each channel's values, ``(size,)``.

        Raises:
            InputError: The parameter is missing or has another shape.
        """
        values = self._values(member)
        # in the weights' own precision: sums in double take five times as long
        own = np.result_type(values.dtype, np.float32)
        total: FloatArray = np.einsum("ij,ij->i", values, values, dtype=own).astype(np.float64)
        return total

    def _values(self, member: Member, of: Mapping[str, NDArray[Any]] | None = None) -> NDArray[Any]:
        source = self.state if of is None else of
        if member.name not in source:
            raise InputError(
                f"scores need every coupled parameter, got none called {member.name!r}; give a whole state"
            )
        array = np.asarray(source[member.name])
        if array.ndim <= member.axis or array.shape[member.axis] != member.length:
            raise InputError(
                f"{member.name!r} must have {member.length} entries along axis {member.axis}, "
                f"got shape {array.shape}; use the state of the same model"
            )
        moved = np.moveaxis(array, member.axis, 0)
        order = member.indices.ravel()
        if not np.array_equal(order, np.arange(member.length)):  # else all of it, as it lies: no copy
            moved = moved[order]
        return moved.reshape(len(member.indices), -1)

    def combine(self, parts: Sequence[FloatArray]) -> FloatArray:
        """One score per channel from those of several coupled parameters, ``(size,)`` each."""
        return REDUCTIONS[self.reduction](np.stack(parts))

    @cached_property
    def norm_of(self) -> dict[str, str]:
        """Name of the gain of the norm that directly follows, by name of a layer's weight."""
        produced: dict[int, str] = {}
        found: dict[str, str] = {}
        tensors = self.coupling.graph.tensors
        for op in self.coupling.graph.all_ops:
            weight = op.operand("weight")
            if weight is None:
                continue
            if op.kind in ("conv", "linear"):
                produced[op.outputs[0]] = tensors[weight].name
            elif op.kind in ("channel_affine", "layer_norm", "group_norm") and op.inputs[0] in produced:
                found.setdefault(produced[op.inputs[0]], tensors[weight].name)
        return found


@dataclass(frozen=True)
class Criterion:
    """An entry of the table of criteria.

    Attributes:
        name: What users call it.
        description: One line.
        function: Scores of a group's channels, ``(size,)``; the larger, the more they matter.
        needs: ``""``, ``"gradients"`` or ``"activations"``.
        normalize: Its own way to make groups comparable.
    """

    name: str
    description: str
    function: Callable[[ChannelGroup, Inputs], FloatArray]
    needs: str = ""
    normalize: str = "mean"

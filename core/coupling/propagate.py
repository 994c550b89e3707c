"""Labels flow through a network's ops exactly as data would."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.coupling._heads import Splits
from prunekit.core.coupling.groups import Tie
from prunekit.core.coupling.labels import LabelSpace
from prunekit.core.graph import Graph, Op

__all__ = ["LAYERS", "RULES", "Axis", "Flow", "Freeze", "attr", "rule"]

IntArray = NDArray[np.int64]
Axis = IntArray | None
"""Labels along one axis, or None: an axis of fixed length, which nothing can cut."""

RULES: dict[str, Callable[[Flow, Op], None]] = {}


def rule(*kinds: str) -> Callable[[Callable[[Flow, Op], None]], Callable[[Flow, Op], None]]:
    """Register a function as the rule for some kinds of op."""

    def register(function: Callable[[Flow, Op], None]) -> Callable[[Flow, Op], None]:
        for kind in kinds:
            RULES[kind] = function
        return function

    return register


LAYERS = ("conv", "linear")


@dataclass(frozen=True)
class Freeze:
    """An op whose channels must stay.

    Attributes:
        reason: Why.
        whole: All that it reads and gives; else, of a layer, only what it reads.
    """

    reason: str
    whole: bool = True


class _Unset:
    """Marks a parameter axis that no op has read yet."""


_UNSET = _Unset()


class Flow:
    """The labels of every axis of every tensor while they propagate.

    Attributes:
        graph: The traced network.
        space: The labels.
        heads: Ids of tensors whose reshape feeds attention: split them by ``attention``.
        attention: ``"heads"`` or ``"head_dim"``.
        grouped: ``"within"`` or ``"whole"``: how grouped convolutions are cut.
        roles: What each parameter axis is to the op that first read it: ``(role, kind)``.
        compress: Positions (in ``graph.all_ops``) of ops that must see only the kept ones of some
            labels for a masked network to compute what the pruned one does.
    """

    def __init__(self, graph: Graph, attention: str, heads: Collection[int], grouped: str = "within") -> None:
        self.graph = graph
        self.space = LabelSpace()
        self.attention = attention
        self.grouped = grouped
        self.heads = heads
        self.splits = Splits(graph)
        self.roles: dict[tuple[int, int], tuple[str, str]] = {}
        self.compress: list[tuple[int, IntArray]] = []
        self.position = 0
        self._axes: dict[int, list[Axis | _Unset]] = {}
        self._makers: dict[int, Op] = {}
        self._read = {t for op in graph.all_ops for t in op.inputs} | set(graph.outputs)

    def run(self, frozen_ops: Mapping[int, Freeze], ties: Sequence[Tie] = ()) -> None:
        """Propagate through all ops, then freeze the network's outputs.

        Args:
            frozen_ops: By position, the ops whose channels must stay.
            ties: Axes to unite as soon as they have labels: what splits an axis later looks at them.
        """
        tied = {end: number for number, tie in enumerate(ties) for end in tie.axes}
        first: dict[int, IntArray] = {}
        ends: dict[int, list[tuple[int, int]]] = {}
        for (tensor, axis), number in tied.items():
            ends.setdefault(tensor, []).append((axis, number))
        for tensor in ends:
            if self.graph.tensors[tensor].role in ("parameter", "buffer"):
                self._tie(tensor, ends[tensor], first)
        for position, op in enumerate(self.graph.all_ops):
            self.position = position
            RULES[op.kind](self, op)
            if position in frozen_ops:
                freeze = frozen_ops[position]
                tensors = (*op.inputs, *op.outputs) if freeze.whole or op.kind not in LAYERS else op.inputs[:1]
                self.freeze_all(tensors, freeze.reason, op.where)
            for tensor in op.outputs:
                if tensor in ends:
                    self._tie(tensor, ends[tensor], first)
        self.freeze_all(self.graph.outputs, "output of the network")

    def _tie(self, tensor: int, ends: Collection[tuple[int, int]], first: dict[int, IntArray]) -> None:
        for axis, number in ends:
            labels = self.get(tensor, axis)
            if labels is not None and len(first.setdefault(number, labels)) == len(labels):
                self.space.unite(first[number], labels)

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.graph.tensors[tensor].shape

    def is_read(self, tensor: int) -> bool:
        """Whether anything uses a tensor."""
        return tensor in self._read

    def rank(self, tensor: int) -> int:
        """Number of axes of a tensor."""
        return len(self.shape(tensor))

    def get(self, tensor: int, axis: int) -> Axis:
        """Labels of an axis; a parameter axis that was never read gets fresh ones."""
        axes = self._of(tensor)
        value = axes[axis]
        if isinstance(value, _Unset):
            axes[axis] = value = self.space.fresh(self.shape(tensor)[axis])
        return value

    def axes(self, tensor: int) -> list[Axis]:
        """Labels of all axes."""
        return [self.get(tensor, axis) for axis in range(self.rank(tensor))]

    def put(self, tensor: int, axes: list[Axis]) -> None:
        """Set the labels of an op's output."""
        shape = self.shape(tensor)
        assert len(axes) == len(shape), f"{len(axes)} axes of labels for shape {shape}"
        self._axes[tensor] = [
            None if labels is None or n == 1 else labels for labels, n in zip(axes, shape, strict=True)
        ]

    def meet(self, tensor: int, axis: int, labels: Axis, op: Op) -> Axis:
        """Unite an axis of a tensor with ``labels``: they are the same channels."""
        axes = self._of(tensor)
        if self.shape(tensor)[axis] == 1:
            return labels
        if isinstance(axes[axis], _Unset):
            axes[axis] = labels
            return labels
        mine = axes[axis]
        assert not isinstance(mine, _Unset)
        return self.join(mine, labels, op)

    def join(self, left: Axis, right: Axis, op: Op) -> Axis:
        """Unite two labelled axes; one that meets an axis of fixed length is frozen."""
        if left is None and right is None:
            return None
        if left is None or right is None:
            labels = left if right is None else right
            assert labels is not None
            self.space.freeze(labels, f"meets an axis of fixed length in {_name(op)}", op.where)
            return labels
        if len(left) != len(right):
            self.space.freeze(np.concatenate([left, right]), f"lengths differ in {_name(op)}", op.where)
            return None
        self.space.unite(left, right)
        return left

    def fix(self, tensor: int, axis: int, reason: str, op: Op) -> None:
        """Make an axis inert; where it is labelled already its labels are frozen."""
        axes = self._of(tensor)
        value = axes[axis]
        if isinstance(value, _Unset):
            axes[axis] = None
        elif value is not None:
            self.space.freeze(value, reason, op.where)

    def freeze_all(self, tensors: Collection[int], reason: str, where: str = "") -> None:
        """Freeze every axis of some tensors."""
        for tensor in tensors:
            for labels in self.axes(tensor):
                if labels is not None:
                    self.space.freeze(labels, reason, where)

    def role(self, tensor: int | None, axis: int, role: str, op: Op) -> None:
        """Note what a parameter axis is to its layer.

        Where a layer reads a function of parameters (standardised or normalised weights), the
        parameter of the same form takes the role.
        """
        if tensor is None:
            return
        shape = self.shape(tensor)
        self.roles.setdefault((tensor, axis), (role, op.kind))
        if self.graph.tensors[tensor].role == "activation":
            mine = self.get(tensor, axis)
            for origin in self._origins(tensor):
                for other, labels in enumerate(self.axes(origin)):
                    if _same(mine, labels) or (mine is None and other == axis and self.shape(origin) == shape):
                        self.roles.setdefault((origin, other), (role, op.kind))

    def _origins(self, tensor: int) -> list[int]:
        """Parameters with as many axes longer than 1 as the tensor, if parameters alone make it."""
        if not self._makers:
            self._makers = {t: op for op in self.graph.all_ops for t in op.outputs}
        found, left = set(), {tensor}
        seen: set[int] = set()
        while left:
            number = left.pop()
            seen.add(number)
            role = self.graph.tensors[number].role
            if role == "input":
                return []
            if role == "parameter":
                found.add(number)
            elif number in self._makers:
                left |= set(self._makers[number].inputs) - seen
        return sorted(t for t in found if self._extent(t) == self._extent(tensor))

    def _extent(self, tensor: int) -> int:
        return sum(n > 1 for n in self.shape(tensor))

    def statistics(self, labels: Axis) -> None:
        """The op in hand takes statistics over these channels: they are non-neutral."""
        if labels is not None:
            self.space.mark(labels)
            self.compress.append((self.position, labels))

    def contracts(self, labels: Axis) -> None:
        """The op in hand sums over these channels."""
        if labels is not None:
            self.compress.append((self.position, labels))

    def labelled(self) -> dict[int, tuple[Axis, ...]]:
        """Labels of all tensors that were reached; axes never read are None."""
        return {t: tuple(None if isinstance(v, _Unset) else v for v in axes) for t, axes in self._axes.items()}

    def _of(self, tensor: int) -> list[Axis | _Unset]:
        if tensor not in self._axes:
            described = self.graph.tensors[tensor]
            learned = described.role in ("parameter", "buffer")
            self._axes[tensor] = [_UNSET if learned and n > 1 else None for n in described.shape]
        return self._axes[tensor]


def _same(left: Axis, right: Axis) -> bool:
    return left is not None and right is not None and np.array_equal(left, right)


def _name(op: Op) -> str:
    return f"{op.scope or 'the network'} ({op.raw or op.kind})"


def attr(op: Op, name: str) -> Any:
    """An attribute that the op's kind must have."""
    return op.attrs[name]

"""Channel groups: what coupling finds, and every algorithm works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prunekit.core.graph import Graph

if TYPE_CHECKING:
    from prunekit.core.plan import PruningPlan

__all__ = ["Attribute", "AxisForms", "ChannelGroup", "Coupling", "FrozenGroup", "Member", "Tie"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """The part of one parameter axis that belongs to a group.

    Attributes:
        name: Canonical name of the parameter or buffer (``"layer1.0.conv1.weight"``).
        axis: Which of its axes.
        indices: Array of shape ``(size, k)``: the ``k`` indices along ``axis`` that live or die
            with each of the group's channels.
        role: What the axis is to its layer: ``"out"`` and ``"in"`` of a conv, linear or embedding
            weight, ``"gain"`` and ``"shift"`` of a norm or bias, ``"stat"`` of a buffer, ``"other"``.
        kind: Kind of the op that reads it (``"conv"``, ``"channel_affine"``, …).
        length: Full length of the axis.
    """

    name: str
    axis: int
    indices: IntArray
    role: str
    kind: str
    length: int

    @property
    def layer(self) -> str:
        """Dotted name of the layer that holds the parameter."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that may be cut, each together with everything coupled to it.

    Attributes:
        name: The first layer that produces the group's channels (``"layer1.0.conv1"``); a
            ``#k`` is added where one layer's outputs fall into several groups.
        size: Number of channels (units) that can be cut one by one.
        members: Every parameter axis that is cut with them.
        neutral: False where an op takes statistics over the channels (layer norm, softmax),
            so that removing one changes what the others give.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    neutral: bool = True

    @property
    def producers(self) -> tuple[Member, ...]:
        """Members that are output axes of conv, linear or embedding weights."""
        return tuple(m for m in self.members if m.role == "out")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Members that are input axes of conv or linear weights."""
        return tuple(m for m in self.members if m.role == "in")


@dataclass(frozen=True)
class FrozenGroup:
    """Channels that must stay, and why.

    Attributes:
        name: As in :class:`ChannelGroup`.
        size: Number of coupled sets.
        members: ``(parameter name, axis)`` of everything involved.
        reason: One line for the user.
        where: Source line of the op that froze it, where known.
    """

    name: str
    size: int
    members: tuple[tuple[str, int], ...]
    reason: str
    where: str = ""


@dataclass(frozen=True)
class Attribute:
    """A whole number that a module of the user's own keeps, and that must follow a width.

    Attributes:
        module: Dotted name of the module (``"blocks.0.attn"``).
        name: Name of the attribute (``"num_heads"``).
        axis: Tensor id and axis whose length it is to be.
        where: ``file.py:line`` where a cut network failed without it.
        text: What stands in the code there, where the cut makes an attribute of it; else "".
    """

    module: str
    name: str
    axis: tuple[int, int]
    where: str = ""
    text: str = ""


@dataclass(frozen=True)
class Tie:
    """Axes of one length that are cut alike because code takes the one for the other.

    Attributes:
        axes: Tensor id and axis of each.
        where: ``file.py:line`` where a cut network failed without it.
    """

    axes: tuple[tuple[int, int], ...]
    where: str = ""


@dataclass(frozen=True)
class AxisForms:
    """The length of every tensor axis as an affine function of group widths.

    ``lengths = widths @ slope.T + base`` gives, for widths of shape ``(n, G)``, lengths of shape
    ``(n, F)``; ``axes[tensor_id]`` lists the form index of each axis of a tensor.

    Attributes:
        axes: Form index per axis, by tensor id.
        slope: Array ``(F, G)``.
        base: Array ``(F,)``.
    """

    axes: dict[int, tuple[int, ...]]
    slope: IntArray
    base: IntArray

    def lengths(self, widths: IntArray) -> IntArray:
        """Axis lengths ``(n, F)`` for group widths ``(n, G)``."""
        product = np.asarray(widths, dtype=np.float64) @ self.slope.T.astype(np.float64)
        lengths: IntArray = np.rint(product + self.base).astype(np.int64)
        return lengths

    def shape(self, tensor: int, lengths: IntArray) -> tuple[int, ...]:
        """Shape of a tensor for one row of :meth:`lengths`."""
        return tuple(int(lengths[f]) for f in self.axes[tensor])


@dataclass(frozen=True)
class Coupling:
    """The channel groups of a network.

    Attributes:
        graph: The traced network.
        groups: Groups that may be cut, in the order of the parameters that name them.
        frozen: Groups that must stay.
        forms: Axis lengths as functions of group widths (columns in the order of ``groups``).
        labels: Root label per index of every labelled axis: ``labels[tensor][axis]`` is an array
            of length ``shape[axis]`` or None (an axis that nothing can cut).
        unit_of: Map of root label to (position in ``groups``, channel), as two arrays indexed by
            root; -1 where a root is not in a group.
        attention: Policy for axes split into heads: ``"heads"`` or ``"head_dim"``.
        grouped: Policy for grouped convolutions: ``"within"`` or ``"whole"``.
        compress: Positions (in ``graph.all_ops``) of ops that a masked network must run on the
            kept channels alone, because they take statistics or sums over channels.
        attributes: Whole numbers in the user's own modules that a cut sets anew.
        ties: Axes that were tied so that code with numbers in it stays right.
    """

    graph: Graph
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenGroup, ...]
    forms: AxisForms
    labels: dict[int, tuple[IntArray | None, ...]] = field(repr=False, default_factory=dict)
    unit_of: tuple[IntArray, IntArray] = field(repr=False, default=(np.empty(0, int), np.empty(0, int)))
    attention: str = "heads"
    grouped: str = "within"
    compress: frozenset[int] = frozenset()
    attributes: tuple[Attribute, ...] = ()
    ties: tuple[Tie, ...] = ()

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each group by name."""
        return {g.name: i for i, g in enumerate(self.groups)}

    @cached_property
    def widths(self) -> IntArray:
        """Full width of each group, shape ``(G,)``."""
        return np.array([g.size for g in self.groups], dtype=np.int64)

    def group(self, name: str) -> ChannelGroup:
        """The group of that name."""
        return self.groups[self.index[name]]

    def integers(self, plan: PruningPlan) -> dict[tuple[str, str], int]:
        """What a plan makes of the whole numbers in the user's modules: (module, attribute) → value."""
        if not self.attributes:
            return {}
        lengths = self.forms.lengths(plan.widths(self)[None])[0]
        return {(a.module, a.name): int(lengths[self.forms.axes[a.axis[0]][a.axis[1]]]) for a in self.attributes}

    def cuts(self, plan: PruningPlan) -> dict[str, dict[int, IntArray]]:
        """What a plan keeps of every parameter and buffer: ``cuts[name][axis]`` = sorted indices.

        Only axes that lose something are listed.
        """
        gone: dict[tuple[str, int], list[IntArray]] = {}
        lengths: dict[tuple[str, int], int] = {}
        for group in self.groups:
            kept = plan.kept.get(group.name)
            if kept is None or len(kept) == group.size:
                continue
            dropped = np.ones(group.size, dtype=bool)
            dropped[np.asarray(kept, dtype=np.int64)] = False
            removed = np.flatnonzero(dropped)
            for m in group.members:
                gone.setdefault((m.name, m.axis), []).append(m.indices[removed].ravel())
                lengths[m.name, m.axis] = m.length
        result: dict[str, dict[int, IntArray]] = {}
        for (name, axis), parts in gone.items():
            keep = np.ones(lengths[name, axis], dtype=bool)
            keep[np.concatenate(parts)] = False
            result.setdefault(name, {})[axis] = np.flatnonzero(keep)
        return result

    def kept_roots(self, plan: PruningPlan) -> NDArray[np.bool_]:
        """Boolean array indexed by root label: True where a plan keeps what carries that root."""
        group_of, unit_of = self.unit_of
        alive = np.ones(len(group_of), dtype=bool)
        for position, group in enumerate(self.groups):
            kept = plan.kept.get(group.name)
            if kept is None:
                continue
            keep = np.zeros(group.size, dtype=bool)
            keep[np.asarray(kept, dtype=np.int64)] = True
            mine = np.flatnonzero(group_of == position)
            alive[mine] = keep[unit_of[mine]]
        return alive

    def left_over(self, alive: NDArray[np.bool_], tensor: int) -> dict[int, NDArray[np.intp]]:
        """Indices that stay, for each axis of a tensor that loses some.

        Args:
            alive: What :meth:`kept_roots` gives.
            tensor: Its number in the graph.
        """
        return {
            axis: np.flatnonzero(alive[labels])
            for axis, labels in enumerate(self.labels.get(tensor, ()))
            if labels is not None and not alive[labels].all()
        }

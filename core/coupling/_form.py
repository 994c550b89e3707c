"""From closed labels to groups: components with the same footprint, all arrays at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunekit.core.coupling.groups import AxisForms, ChannelGroup, Coupling, FrozenGroup, Member
from prunekit.core.coupling.propagate import Axis, Flow, IntArray
from prunekit.core.graph import Graph

_HIDDEN = ("kernel size", "position in the image")


@dataclass
class _Tables:
    """Distinct label arrays, their roots, and where each is used."""

    labels: dict[int, tuple[Axis, ...]]
    arrays: list[IntArray]
    number: dict[int, int]
    learned: list[tuple[str, int, int, int]]
    """(parameter name, axis, array number, tensor id), parameters in registration order first."""


def form(flow: Flow) -> Coupling:
    """Groups, frozen groups and axis forms of a network whose labels are propagated."""
    tables = _collect(flow)
    counts = _counts(tables, len(flow.space))
    frozen_root = flow.space.frozen()
    class_of, classes = _classes(tables, counts, frozen_root, len(flow.space))
    unit_of = np.full(len(flow.space), -1, dtype=np.int64)
    members = _members(tables, flow, class_of, unit_of, classes)
    marked, hidden = flow.space.marked(), flow.space.frozen_by(_HIDDEN)
    groups: list[tuple[int, ChannelGroup]] = []
    frozen: list[FrozenGroup] = []
    taken: dict[str, int] = {}
    learned = flow.graph.parameters()
    for number, roots in enumerate(classes):
        mine = members[number]
        reason, where = _reason(flow, frozen_root[roots[0]], len(roots))
        roles = {m.role for m in mine}
        if roles == {"kernel"} or (hidden[roots[0]] and "out" not in roles):
            continue
        if not any(m.name in learned for m in mine):  # tables of positions and the like: nothing learned would go
            continue
        name = _unique(_name(mine), taken)
        if reason:
            touched = tuple((m.name, m.axis) for m in mine)
            frozen.append(FrozenGroup(name, len(roots), touched, reason, where))
        else:
            groups.append((number, ChannelGroup(name, len(roots), tuple(mine), not marked[roots].any())))
    frozen += _unread(flow.graph)
    position = np.full(len(classes) + 1, -1, dtype=np.int64)
    for index, (number, _) in enumerate(groups):
        position[number] = index
    group_of = position[class_of]
    unit_of[group_of < 0] = -1
    return Coupling(
        graph=flow.graph,
        groups=tuple(g for _, g in groups),
        frozen=tuple(frozen),
        forms=_forms(tables, group_of, len(groups), flow.graph),
        labels={t: tuple(None if a is None else tables.arrays[tables.number[id(a)]] for a in axes)
                for t, axes in tables.labels.items()},
        unit_of=(group_of, unit_of),
        attention=flow.attention,
        grouped=flow.grouped,
        compress=_cut_by_some(flow, group_of),
    )  # fmt: skip


def _collect(flow: Flow) -> _Tables:
    labels = flow.labelled()
    distinct: dict[int, IntArray] = {}
    for axes in labels.values():
        for array in axes:
            if array is not None:
                distinct.setdefault(id(array), array)
    raw = list(distinct.values())
    number = {key: k for k, key in enumerate(distinct)}
    cuts = np.cumsum([len(a) for a in raw])[:-1]
    roots = flow.space.find(np.concatenate(raw)) if raw else np.empty(0, np.int64)
    arrays = np.split(roots, cuts) if raw else []
    order = {name: k for k, name in enumerate(flow.graph.names)}
    tensors = [t for t in flow.graph.tensors if t.role in ("parameter", "buffer") and t.id in labels]
    tensors.sort(key=lambda t: (t.role == "buffer", order.get(t.name, len(order)), t.id))
    learned = [
        (t.name, axis, number[id(array)], t.id)
        for t in tensors
        for axis, array in enumerate(labels[t.id])
        if array is not None
    ]
    return _Tables(labels, arrays, number, learned)


def _counts(tables: _Tables, n_labels: int) -> tuple[IntArray, IntArray, IntArray]:
    """(array number, root, how often) for every root in every array."""
    if not tables.arrays:
        empty = np.empty(0, dtype=np.int64)
        return empty, empty, empty
    owner = np.repeat(np.arange(len(tables.arrays)), [len(a) for a in tables.arrays])
    keys, times = np.unique(owner * n_labels + np.concatenate(tables.arrays), return_counts=True)
    return keys // n_labels, keys % n_labels, times


def _classes(
    tables: _Tables, counts: tuple[IntArray, IntArray, IntArray], frozen: IntArray, n_labels: int
) -> tuple[IntArray, list[IntArray]]:
    """Roots with the same footprint and the same fate: class of each root, roots of each class.

    A footprint is hashed to 64 bits by adding up one mixed number per (array, count); only roots
    that reach a parameter count.
    """
    class_of = np.full(n_labels, -1, dtype=np.int64)
    array, root, times = counts
    learned = np.unique([k for _, _, k, _ in tables.learned]).astype(np.int64)
    real = np.zeros(n_labels, dtype=bool)
    real[root[np.isin(array, learned)]] = True
    roots = np.flatnonzero(real)
    if not len(roots):
        return class_of, []
    print_of = np.zeros(n_labels, dtype=np.uint64)
    np.add.at(print_of, root, _mix(array.astype(np.uint64) << np.uint64(32) | times.astype(np.uint64)))
    with np.errstate(over="ignore"):
        fate = (frozen + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        keys = print_of[roots] ^ fate[roots]
    # number classes by the parameter that they first appear in, so that order means something
    seen = np.full(n_labels, len(tables.learned), dtype=np.int64)
    for rank in range(len(tables.learned) - 1, -1, -1):
        seen[tables.arrays[tables.learned[rank][2]]] = rank
    _, inverse = np.unique(keys, return_inverse=True)
    inverse = inverse.ravel()
    first = np.full(inverse.max() + 1, len(tables.learned), dtype=np.int64)
    np.minimum.at(first, inverse, seen[roots])
    lowest = np.full(inverse.max() + 1, n_labels, dtype=np.int64)
    np.minimum.at(lowest, inverse, roots)
    renumber = np.empty(len(first), dtype=np.int64)
    renumber[np.lexsort((lowest, first))] = np.arange(len(first))
    class_of[roots] = renumber[inverse]
    order = np.argsort(class_of[roots], kind="stable")
    cuts = np.cumsum(np.bincount(class_of[roots]))[:-1]
    return class_of, np.split(roots[order], cuts)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _members(
    tables: _Tables, flow: Flow, class_of: IntArray, unit_of: IntArray, classes: list[IntArray]
) -> list[list[Member]]:
    """Members of each class; channels are numbered along the axis that names the class."""
    result: list[list[Member]] = [[] for _ in classes]
    entries = [(*entry, *_role(flow, entry[3], entry[1])) for entry in tables.learned]
    for _, _, number, _, _, _ in sorted(entries, key=lambda e: e[4] != "out"):
        roots = tables.arrays[number]
        new = roots[unit_of[roots] < 0]
        if len(new):
            _, at = np.unique(new, return_index=True)
            new = new[np.sort(at)]
            for klass in np.unique(class_of[new]):
                mine = new[class_of[new] == klass]
                unit_of[mine] = np.arange(len(mine)) + _numbered(unit_of, classes[klass])
    shared: dict[int, list[tuple[int, IntArray]]] = {}
    for name, axis, number, _, role, kind in entries:
        roots = tables.arrays[number]
        if number not in shared:
            shared[number] = _by_class(class_of[roots], unit_of[roots], classes)
        for klass, indices in shared[number]:
            result[klass].append(Member(name, axis, indices, role, kind, len(roots)))
    return result


def _by_class(klass: IntArray, unit: IntArray, classes: list[IntArray]) -> list[tuple[int, IntArray]]:
    """Positions along an axis, by class: an array ``(size, k)`` each, channel by channel."""
    order = np.lexsort((unit, klass))
    ends = np.flatnonzero(np.diff(klass[order])) + 1
    parts = np.split(order, ends)
    return [(int(klass[part[0]]), part.reshape(len(classes[klass[part[0]]]), -1)) for part in parts]


def _numbered(unit_of: IntArray, roots: IntArray) -> int:
    return int((unit_of[roots] >= 0).sum())


def _role(flow: Flow, tensor: int, axis: int) -> tuple[str, str]:
    return flow.roles.get((tensor, axis), ("other", "elementwise"))


def _name(members: Iterable[Member]) -> str:
    members = list(members)
    for member in members:
        if member.role == "out":
            return member.layer
    return members[0].layer if members[0].role in ("in", "gain") else members[0].name


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name] - 1}"


def _reason(flow: Flow, number: int, size: int) -> tuple[str, str]:
    if number >= 0:
        return flow.space.reasons[number]
    return ("a single coupled set: nothing can be left out", "") if size == 1 else ("", "")


def _unread(graph: Graph) -> list[FrozenGroup]:
    return [FrozenGroup(name, 1, ((name, 0),), "reached by no trace") for name in graph.unreached]


def _cut_by_some(flow: Flow, group_of: IntArray) -> frozenset[int]:
    """Positions of the ops to be compressed whose channels some plan can cut."""
    return frozenset(k for k, labels in flow.compress if (group_of[flow.space.find(labels)] >= 0).any())


def _forms(tables: _Tables, group_of: IntArray, n_groups: int, graph: Graph) -> AxisForms:
    """Lengths of all axes: per label array, so many indices for each channel of each group."""
    slope = np.zeros((len(tables.arrays), n_groups), dtype=np.int64)
    base = np.zeros(len(tables.arrays), dtype=np.int64)
    sizes = np.maximum(np.bincount(group_of[group_of >= 0], minlength=n_groups), 1)
    for number, roots in enumerate(tables.arrays):
        mine = group_of[roots]
        base[number] = (mine < 0).sum()
        slope[number] = np.bincount(mine[mine >= 0], minlength=n_groups) // sizes
    fixed: dict[int, int] = {}
    axes: dict[int, tuple[int, ...]] = {}
    for tensor in graph.tensors:
        labels = tables.labels.get(tensor.id, (None,) * len(tensor.shape))
        axes[tensor.id] = tuple(
            tables.number[id(a)] if a is not None else fixed.setdefault(n, len(base) + len(fixed))
            for a, n in zip(labels, tensor.shape, strict=True)
        )
    slope = np.concatenate([slope, np.zeros((len(fixed), n_groups), dtype=np.int64)])
    return AxisForms(axes, slope, np.concatenate([base, np.array(list(fixed), dtype=np.int64)]))

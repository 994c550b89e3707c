"""How labels pass through ops that move, split, join or reduce axes."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling._blocks import blocks
from prunekit.core.coupling._rules_layers import opaque
from prunekit.core.coupling.propagate import Axis, Flow, IntArray, attr, rule
from prunekit.core.graph import Op


@rule("identity")
def identity(flow: Flow, op: Op) -> None:
    for out in op.outputs:
        flow.put(out, flow.axes(op.inputs[0]))


@rule("create")
def create(flow: Flow, op: Op) -> None:
    """New labels; where values differ along an axis (arange), none may go and be replaced by another."""
    uniform = op.attrs.get("uniform", True)
    for out in op.outputs:
        flow.put(out, [flow.space.fresh(n) if n > 1 and uniform else None for n in flow.shape(out)])


@rule("permute")
def permute(flow: Flow, op: Op) -> None:
    axes = flow.axes(op.inputs[0])
    flow.put(op.outputs[0], [axes[a] for a in attr(op, "perm")])


@rule("expand")
def expand(flow: Flow, op: Op) -> None:
    x, out = op.inputs[0], op.outputs[0]
    shape, given = flow.shape(out), flow.axes(x)
    offset = len(shape) - len(given)
    axes: list[Axis] = []
    for axis, n in enumerate(shape):
        source = axis - offset
        grown = source < 0 or flow.shape(x)[source] != n
        axes.append(flow.space.fresh(n) if grown and n > 1 else given[source] if source >= 0 else None)
    flow.put(out, axes)


@rule("concat")
def concat(flow: Flow, op: Op) -> None:
    axis, out = attr(op, "axis"), op.outputs[0]
    stacked = op.attrs.get("new_axis", False)
    tensors = [t for t in op.inputs if flow.rank(t) == flow.rank(out) - stacked]
    if len(tensors) != len(op.inputs):
        opaque(flow, op)
        return
    axes = flow.axes(tensors[0])
    for tensor in tensors[1:]:
        for a in range(len(axes)):
            if stacked or a != axis:
                axes[a] = flow.meet(tensor, a, axes[a], op)
    if stacked:
        axes.insert(axis, None)
    else:
        axes[axis] = _concatenate(flow, [(flow.get(t, axis), flow.shape(t)[axis]) for t in tensors], op)
    flow.put(out, axes)


def _concatenate(flow: Flow, parts: list[tuple[Axis, int]], op: Op) -> Axis:
    if all(labels is None for labels, _ in parts):
        return None
    arrays = []
    for labels, n in parts:
        if labels is None:
            labels = flow.space.fresh(n)
            flow.space.freeze(labels, f"part of fixed length in a concatenation in {op.scope}", op.where)
        arrays.append(labels)
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


@rule("slice")
def slice_(flow: Flow, op: Op) -> None:
    x, axis, parts = op.inputs[0], attr(op, "axis"), attr(op, "parts")
    axes = flow.axes(x)
    labels = axes[axis]
    squeeze = op.attrs.get("squeeze", False)
    if labels is not None and squeeze:
        flow.space.freeze(labels, f"indexed one by one in {op.scope}", op.where)
    views = [None if labels is None else labels[start:stop:step] for start, stop, step in parts]
    if labels is not None and attr(op, "even"):
        _tie_parts(flow, [v for v in views if v is not None])
    for out, view in zip(op.outputs, views, strict=True):
        if view is not None and len(view) == 1 and not squeeze:
            # an axis of length 1 carries no labels, so the one channel picked out must stay
            flow.space.freeze(view, f"picked out by number in {op.scope}", op.where)
        rest = axes[:axis] + ([] if squeeze else [view]) + axes[axis + 1 :]
        flow.put(out, rest)


def _tie_parts(flow: Flow, views: list[IntArray]) -> None:
    """Equal parts stay equal: the i-th entries of all parts live or die together."""
    for view in views[1:]:
        n = min(len(view), len(views[0]))
        flow.space.unite(view[:n], views[0][:n])


@rule("pad")
def pad(flow: Flow, op: Op) -> None:
    x = op.inputs[0]
    axes = flow.axes(x)
    for axis, (before, after) in enumerate(zip(attr(op, "before"), attr(op, "after"), strict=True)):
        labels = axes[axis]
        if (before or after) and labels is not None:
            if before < 0 or after < 0:
                labels = labels[max(-before, 0) : len(labels) - max(-after, 0)]
                if len(labels) == 1:
                    flow.space.freeze(labels, f"picked out by number in {op.scope}", op.where)
            grown = [flow.space.fresh(max(before, 0)), labels, flow.space.fresh(max(after, 0))]
            axes[axis] = np.concatenate(grown)
    flow.put(op.outputs[0], axes)


@rule("roll")
def roll(flow: Flow, op: Op) -> None:
    axes = flow.axes(op.inputs[0])
    for axis in attr(op, "axes"):
        labels = axes[axis]
        if labels is not None:
            flow.space.freeze(labels, f"the order matters in {op.scope} ({op.raw or op.kind})", op.where)
    for out in op.outputs:
        flow.put(out, axes)


@rule("rearrange")
def rearrange(flow: Flow, op: Op) -> None:
    """Channels that make one, or stand in one column, go together; where space changes it carries no labels."""
    x, out, axis, blocks = op.inputs[0], op.outputs[0], attr(op, "axis"), attr(op, "blocks")
    how, axes = attr(op, "how"), flow.axes(op.inputs[0])
    for other in range(flow.rank(x)):
        if other != axis and flow.shape(x)[other] != flow.shape(out)[other]:
            flow.fix(x, other, f"position in the image for {op.scope}", op)
            axes[other] = None
    labels = axes[axis]
    if labels is not None and how == "split":
        axes[axis] = np.repeat(labels, blocks)
    elif labels is not None:
        table = labels.reshape(-1, blocks) if how == "join" else labels.reshape(blocks, -1).T
        flow.space.unite(table[:, 1:].ravel(), np.repeat(table[:, 0], blocks - 1))
        axes[axis] = np.repeat(table[:, 0], blocks if how == "swap" else 1)
    flow.put(out, axes)


@rule("tile")
def tile(flow: Flow, op: Op) -> None:
    x, repeats = op.inputs[0], attr(op, "repeats")
    given: list[Axis] = [*([None] * (len(repeats) - flow.rank(x))), *flow.axes(x)]
    sizes = [1] * (len(repeats) - flow.rank(x)) + list(flow.shape(x))
    again = np.repeat if op.attrs.get("each") else np.tile
    axes: list[Axis] = []
    for labels, n, times in zip(given, sizes, repeats, strict=True):
        if n == 1 and times > 1:
            axes.append(flow.space.fresh(times))
        else:
            axes.append(labels if labels is None or times == 1 else again(labels, times))
    flow.put(op.outputs[0], axes)


@rule("gather")
def gather(flow: Flow, op: Op) -> None:
    """A table looked up along one axis: that axis stays, the others pass."""
    table, out, axis = op.inputs[0], op.outputs[0], attr(op, "axis")
    if not attr(op, "table"):
        opaque(flow, op)
        return
    flow.fix(table, axis, f"indexed in {op.scope}", op)
    if axis == 0:
        flow.role(table, flow.rank(table) - 1, "out", op)
    given = flow.axes(table)
    indices = flow.axes(op.inputs[1])
    if op.attrs.get("counts"):  # a mask: as many stay as it says
        flow.fix(op.inputs[1], 0, f"indexed in {op.scope}", op)
        indices = [None]
    if len(op.inputs) != 2 or len(indices) + len(given) - 1 != flow.rank(out):
        opaque(flow, op)
        return
    flow.put(out, [*given[:axis], *indices, *given[axis + 1 :]])


@rule("scatter")
def scatter(flow: Flow, op: Op) -> None:
    """Values written into a table at places along one axis: that axis stays, the others are those of both."""
    table, values, axis = op.inputs[0], op.inputs[1], attr(op, "axis")
    for tensor in (table, values):
        flow.fix(tensor, axis, f"indexed in {op.scope}", op)
    axes: list[Axis] = []
    for k in range(flow.rank(table)):
        axes.append(None if k == axis else flow.meet(table, k, flow.get(values, k), op))
    flow.put(op.outputs[0], axes)


@rule("reduce")
def reduce(flow: Flow, op: Op) -> None:
    axes, gone = flow.axes(op.inputs[0]), set(attr(op, "axes"))
    numbered = op.attrs.get("picks", False) and flow.is_read(op.outputs[-1])
    for axis in gone:
        labels = axes[axis]
        flow.statistics(labels)
        if labels is not None and numbered:
            flow.space.freeze(labels, f"picked by position in {op.scope} ({op.raw or op.kind})", op.where)
    kept: list[Axis] = []
    for axis, labels in enumerate(axes):
        if axis not in gone:
            kept.append(labels)
        elif attr(op, "keepdims"):
            kept.append(None)
    for out in op.outputs:
        flow.put(out, kept)


@rule("softmax")
def softmax(flow: Flow, op: Op) -> None:
    axes = flow.axes(op.inputs[0])
    flow.statistics(axes[attr(op, "axis")])
    flow.put(op.outputs[0], axes)


@rule("pool")
def pool(flow: Flow, op: Op) -> None:
    x, spatial = op.inputs[0], attr(op, "spatial")
    leading = flow.rank(x) - spatial
    for axis in range(leading, flow.rank(x)):
        flow.fix(x, axis, f"position in the image for {op.scope}", op)
    for out in op.outputs:
        flow.put(out, [*flow.axes(x)[:leading], *([None] * spatial)])


@rule("reshape")
def reshape(flow: Flow, op: Op) -> None:
    x, out = op.inputs[0], op.outputs[0]
    old, new = flow.shape(x), flow.shape(out)
    given = flow.axes(x)
    result: list[Axis] = [None] * len(new)
    if 0 in old:  # nothing was found in this input: which axis went where cannot be seen
        flow.freeze_all((x,), f"empty in {op.scope}", op.where)
        flow.put(out, result)
        return
    for sources, targets in blocks(old, new):
        sources = [a for a in sources if old[a] > 1]
        targets = [a for a in targets if new[a] > 1]
        if all(given[a] is None for a in sources):
            continue
        if len(sources) == 1 and len(targets) == 1:
            result[targets[0]] = given[sources[0]]
            continue
        merged = _merge(flow, [(given[a], old[a]) for a in sources], op)
        split = _split(flow, merged, [new[a] for a in targets], targets, op)
        for axis, labels in zip(targets, split, strict=True):
            result[axis] = labels
    flow.put(out, result)


def _merge(flow: Flow, parts: list[tuple[Axis, int]], op: Op) -> IntArray:
    """Labels of one axis made of several: the longest labelled one rules, the others stay."""
    labelled = [k for k, (labels, _) in enumerate(parts) if labels is not None]
    ruling = max(labelled, key=lambda k: parts[k][1])
    for k in labelled:
        labels = parts[k][0]
        if k != ruling and labels is not None:
            flow.space.freeze(labels, f"merged with a longer axis in {op.scope}", op.where)
    labels = parts[ruling][0]
    assert labels is not None
    inner = int(np.prod([n for _, n in parts[ruling + 1 :]], dtype=np.int64))
    outer = int(np.prod([n for _, n in parts[:ruling]], dtype=np.int64))
    return np.tile(np.repeat(labels, inner), outer)


def _split(flow: Flow, labels: IntArray, sizes: list[int], targets: list[int], op: Op) -> list[Axis]:
    """Labels of the axes that one axis is split into: it is cut along the axis they vary on."""
    if len(sizes) == 1:
        return [labels]
    table = flow.space.find(labels).reshape(sizes)
    varying = [a for a in range(len(sizes)) if (table != np.take(table, [0], axis=a)).any()]
    if not varying:
        flow.space.freeze(labels, f"one coupled set is split into axes in {op.scope}", op.where)
        return [None] * len(sizes)
    chosen = varying[-1] if len(varying) == 1 else _policy(flow, op, varying, targets)
    rows = np.moveaxis(labels.reshape(sizes), chosen, -1).reshape(-1, sizes[chosen])
    if len(varying) > 1:
        flow.space.unite(rows[1:].ravel(), np.tile(rows[0], len(rows) - 1))
    return [rows[0].copy() if a == chosen else None for a in range(len(sizes))]


def _policy(flow: Flow, op: Op, varying: list[int], targets: list[int]) -> int:
    """Heads × width of a head: which of the two is cut."""
    out = op.outputs[0]
    if out in flow.heads and flow.attention == "heads" and not flow.splits.again(out, targets[varying[-1]]):
        return varying[-2]
    return varying[-1]

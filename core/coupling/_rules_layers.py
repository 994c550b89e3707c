"""How labels pass through layers with weights, and through ops on values."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.propagate import Axis, Flow, attr, rule
from prunekit.core.graph import Op


@rule("conv")
def conv(flow: Flow, op: Op) -> None:
    x, weight, bias = op.inputs[0], op.inputs[1], op.operand("bias")
    groups, spatial = attr(op, "groups"), attr(op, "spatial")
    out_axis, in_axis = (1, 0) if attr(op, "transposed") else (0, 1)
    channel = flow.rank(x) - spatial - 1
    for axis in range(2, 2 + spatial):
        flow.fix(weight, axis, "kernel size", op)
        flow.fix(x, channel + axis - 1, f"position in the image for {op.scope}", op)
    flow.role(weight, out_axis, "out", op)
    flow.role(weight, in_axis, "in", op)
    flow.role(bias, 0, "shift", op)
    for axis in range(2, 2 + spatial):
        flow.role(weight, axis, "kernel", op)
    given = flow.get(x, channel)
    if groups == 1:
        flow.meet(weight, in_axis, given, op)
        out = flow.get(weight, out_axis)
    elif attr(op, "transposed"):
        out = _grouped_transposed(flow, op, weight, given, groups)
    elif flow.shape(weight)[1] == 1:
        out = _depthwise(flow, op, weight, given, groups)
    elif flow.grouped == "whole":
        out = _whole_groups(flow, op, weight, given, groups)
    else:
        out = _grouped(flow, op, weight, given, groups)
    if bias is not None:
        flow.meet(bias, 0, out, op)
    if flow.shape(weight)[1] > 1:
        _derived(flow, weight, given)
    leading = [flow.get(x, a) for a in range(channel)]
    flow.put(op.outputs[0], [*leading, out, *([None] * spatial)])


def _derived(flow: Flow, weight: int, given: Axis) -> None:
    """Weights that are worked out from parameters need not be zero where those are."""
    if flow.graph.tensors[weight].role == "activation":
        flow.contracts(given)


def _depthwise(flow: Flow, op: Op, weight: int, given: Axis, groups: int) -> Axis:
    """Each output follows its one input channel."""
    outs = flow.shape(weight)[0]
    if given is None:
        flow.fix(weight, 0, "follows an axis of fixed length", op)
        return None
    return flow.meet(weight, 0, given if outs == groups else np.repeat(given, outs // groups), op)


def _grouped(flow: Flow, op: Op, weight: int, given: Axis, groups: int) -> Axis:
    """Channels are cut within groups: the same positions in every group, so all stay equal."""
    per_group = flow.shape(weight)[1]
    if given is None:
        flow.fix(weight, 1, "input of fixed length", op)
    else:
        _tie_groups(flow, given, groups)
        flow.meet(weight, 1, given[:per_group], op)
    out = flow.get(weight, 0)
    _tie_groups(flow, out, groups)
    return out


def _whole_groups(flow: Flow, op: Op, weight: int, given: Axis, groups: int) -> Axis:
    """Whole groups are cut: a group's inputs and outputs go together."""
    flow.fix(weight, 1, f"the width of a group in {op.scope}", op)
    if given is None:
        flow.fix(weight, 0, "follows an axis of fixed length", op)
        return None
    ins, outs = given.reshape(groups, -1), flow.get(weight, 0)
    if outs is None:
        flow.space.freeze(given, f"meets an axis of fixed length in {op.scope}", op.where)
        return None
    for table in (ins, outs.reshape(groups, -1)):
        flow.space.unite(table.ravel(), np.repeat(ins[:, 0], table.shape[1]))
    return outs


def _grouped_transposed(flow: Flow, op: Op, weight: int, given: Axis, groups: int) -> Axis:
    """As :func:`_grouped`, for weights of shape (I, O/groups, …)."""
    per_group = flow.get(weight, 1)
    if flow.shape(weight)[0] == groups and per_group is None:
        return flow.meet(weight, 0, given, op)
    if given is not None:
        _tie_groups(flow, given, groups)
    flow.meet(weight, 0, given, op)
    return None if per_group is None else np.tile(per_group, groups)


def _tie_groups(flow: Flow, labels: Axis, groups: int) -> None:
    if labels is not None:
        table = labels.reshape(groups, -1)
        flow.space.unite(table[1:].ravel(), np.tile(table[0], groups - 1))


@rule("linear")
def linear(flow: Flow, op: Op) -> None:
    x, weight, bias = op.inputs[0], op.inputs[1], op.operand("bias")
    outs, ins = (1, 0) if op.attrs.get("transposed") else (0, 1)
    flow.role(weight, outs, "out", op)
    flow.role(weight, ins, "in", op)
    flow.role(bias, 0, "shift", op)
    flow.meet(weight, ins, flow.get(x, flow.rank(x) - 1), op)
    _derived(flow, weight, flow.get(weight, ins))
    out = flow.get(weight, outs)
    if bias is not None:
        flow.meet(bias, 0, out, op)
    flow.put(op.outputs[0], [*flow.axes(x)[:-1], out])


@rule("matmul")
def matmul(flow: Flow, op: Op) -> None:
    left, right = op.inputs[:2]
    if flow.rank(left) < 2 or flow.rank(right) < 2:
        opaque(flow, op)
        return
    shared = flow.meet(left, flow.rank(left) - 1, flow.get(right, flow.rank(right) - 2), op)
    flow.contracts(shared)
    out = op.outputs[0]
    batch = _broadcast(flow, op, (left, right), flow.shape(out)[:-2], trailing=2)
    flow.put(out, [*batch, flow.axes(left)[-2], flow.axes(right)[-1]])


@rule("einsum")
def einsum(flow: Flow, op: Op) -> None:
    terms, _, result = attr(op, "equation").replace(" ", "").partition("->")
    operands = terms.split(",")
    if "." in terms or "->" not in attr(op, "equation") or any(len(set(t)) != len(t) for t in operands):
        opaque(flow, op)
        return
    letters: dict[str, Axis] = {}
    for term, tensor in zip(operands, op.inputs, strict=True):
        for axis, letter in enumerate(term):
            labels = flow.get(tensor, axis) if letter not in letters else letters[letter]
            letters[letter] = flow.meet(tensor, axis, labels, op)
    for letter, labels in letters.items():
        if letter not in result:
            flow.contracts(labels)
    flow.put(op.outputs[0], [letters[letter] for letter in result])


@rule("elementwise")
def elementwise(flow: Flow, op: Op) -> None:
    for out in op.outputs:
        flow.put(out, _broadcast(flow, op, op.inputs, flow.shape(out)))
        over = op.attrs.get("statistics", ())
        for axis in range(flow.rank(out) if over else 0):
            (flow.statistics if axis in over else flow.contracts)(flow.get(out, axis))  # a norm of zeros is no number


def _broadcast(flow: Flow, op: Op, tensors: tuple[int, ...], shape: tuple[int, ...], trailing: int = 0) -> list[Axis]:
    """Labels of the broadcast of several tensors, leaving out their ``trailing`` axes."""
    result: list[Axis] = []
    for back in range(len(shape), 0, -1):
        present = [
            (t, flow.rank(t) - trailing - back)
            for t in tensors
            if flow.rank(t) - trailing >= back and flow.shape(t)[flow.rank(t) - trailing - back] > 1
        ]
        # activations first: a parameter met for the first time takes over their labels
        present.sort(key=lambda p: flow.graph.tensors[p[0]].role in ("parameter", "buffer"))
        labels: Axis = None
        for position, (tensor, axis) in enumerate(present):
            labels = flow.get(tensor, axis) if position == 0 else flow.meet(tensor, axis, labels, op)
        result.append(labels)
    return result


@rule("channel_affine")
def channel_affine(flow: Flow, op: Op) -> None:
    x, axis = op.inputs[0], attr(op, "axis")
    labels = flow.get(x, axis)
    for name, tensor in zip(op.operands[1:], op.inputs[1:], strict=True):
        flow.role(tensor, 0, {"weight": "gain", "bias": "shift"}.get(name, "stat"), op)
        flow.meet(tensor, 0, labels, op)
    if op.attrs.get("statistics", False):
        _statistics_of_others(flow, x, axis)
    flow.put(op.outputs[0], flow.axes(x))


def _statistics_of_others(flow: Flow, x: int, axis: int) -> None:
    """A norm along ``axis`` takes statistics over what lies on the axes behind it."""
    for labels in flow.axes(x)[axis + 1 :]:
        flow.statistics(labels)


@rule("layer_norm")
def layer_norm(flow: Flow, op: Op) -> None:
    x = op.inputs[0]
    for position, axis in enumerate(attr(op, "axes")):
        labels = flow.get(x, axis)
        flow.statistics(labels)
        for name, tensor in zip(op.operands[1:], op.inputs[1:], strict=True):
            flow.role(tensor, position, "gain" if name == "weight" else "shift", op)
            flow.meet(tensor, position, labels, op)
    flow.put(op.outputs[0], flow.axes(x))


@rule("group_norm")
def group_norm(flow: Flow, op: Op) -> None:
    x, axis, groups = op.inputs[0], attr(op, "axis"), attr(op, "groups")
    labels = flow.get(x, axis)
    if groups < flow.shape(x)[axis]:
        _tie_groups(flow, labels, groups)
        flow.statistics(labels)
    _statistics_of_others(flow, x, axis)
    for name, tensor in zip(op.operands[1:], op.inputs[1:], strict=True):
        flow.role(tensor, 0, "gain" if name == "weight" else "shift", op)
        flow.meet(tensor, 0, labels, op)
    flow.put(op.outputs[0], flow.axes(x))


@rule("attention")
def attention(flow: Flow, op: Op) -> None:
    query, key, value = op.inputs[:3]
    axes = [flow.axes(t) for t in (query, key, value)]
    shared = _heads_shared(flow, op)
    if shared > 1:
        _group_heads(flow, op, shared)
    depth = flow.join(axes[0][-1], axes[1][-1], op)
    if depth is not None and not attr(op, "scaled"):
        flow.space.freeze(depth, f"width of a head sets the scale of attention in {op.scope}", op.where)
    flow.contracts(depth)
    positions = flow.join(axes[1][-2], axes[2][-2], op)
    flow.statistics(positions)
    if op.attrs.get("causal", False) and positions is not None:
        flow.space.freeze(positions, f"the order matters in {op.scope} ({op.raw or op.kind})", op.where)
    alike = (query,) if shared > 1 else (query, key, value)
    batch = _broadcast(flow, op, alike, flow.shape(op.outputs[0])[:-2], trailing=2)
    mask = op.operand("mask")
    if mask is not None:
        full = [*batch, axes[0][-2], positions]
        for back in range(1, flow.rank(mask) + 1):
            if flow.shape(mask)[-back] > 1:
                flow.meet(mask, flow.rank(mask) - back, full[-back], op)
    flow.put(op.outputs[0], [*batch, axes[0][-2], axes[2][-1]])


def _heads_shared(flow: Flow, op: Op) -> int:
    """How many heads of queries read the same keys and values (Ainslie et al., GQA, 2023)."""
    queries, keys = (flow.shape(t) for t in op.inputs[:2])
    if len(queries) != len(keys) or len(queries) < 3 or keys[-3] in (1, queries[-3]):
        return 1
    return queries[-3] // keys[-3]


def _group_heads(flow: Flow, op: Op, shared: int) -> None:
    """Heads of queries go with the head of keys and values that they read."""
    query, *others = op.inputs[:3]
    axis = flow.rank(query) - 3
    for other in others:
        own = flow.get(other, axis)
        if own is None:
            flow.fix(query, axis, f"meets an axis of fixed length in {op.scope} ({op.raw or op.kind})", op)
        else:
            flow.meet(query, axis, np.repeat(own, shared), op)


@rule("opaque")
def opaque(flow: Flow, op: Op) -> None:
    flow.freeze_all(op.inputs, f"unknown operation {op.raw} in {op.scope}", op.where)
    for out in op.outputs:
        flow.put(out, [None] * flow.rank(out))

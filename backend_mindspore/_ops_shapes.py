"""MindSpore's primitives that move, join, cut and look up, and those that do several things at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunekit.backend_mindspore._op_table import Call, Seen, Value, every, first, op


@op("Transpose", "TransposeView", "Permute")
def _transpose(call: Call) -> Seen:
    perm = tuple(int(d) % call.rank for d in call.args[1])
    return first(call, "permute", perm=perm)


@op("TransposeExt", "TransposeExtView", "SwapAxes")
def _transpose_ext(call: Call) -> Seen:
    perm = list(range(call.rank))
    one, other = int(call.args[1]) % call.rank, int(call.args[2]) % call.rank
    perm[one], perm[other] = perm[other], perm[one]
    return first(call, "permute", perm=tuple(perm))


@op("Concat")
def _concat(call: Call) -> Seen:
    axis = call.arg(1, call.attrs.get("axis", 0))
    axis = axis if isinstance(axis, int) else call.attrs.get("axis", 0)
    return every(call, "concat", axis=axis % len(call.outputs[0].shape))


@op("Stack", "StackExt")
def _stack(call: Call) -> Seen:
    axis = call.attrs.get("axis", call.arg(1, 0))
    return every(call, "concat", axis=axis % len(call.outputs[0].shape), new_axis=True)


def _parts(sizes: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return tuple((s, s + n, 1) for s, n in zip(starts, sizes, strict=True))


@op("Split", "SplitTensor", "SplitTensorView", "Chunk", "ChunkView", "SplitWithSize", "SplitWithSizeView", "SplitV")
def _split(call: Call) -> Seen:
    axis = next(
        k for k, n in enumerate(call.args[0].shape) if any(t.shape[k] != n for t in call.outputs) or _is_axis(call, k)
    )
    sizes = [t.shape[axis] for t in call.outputs]
    even = "Size" not in call.op and call.op != "SplitV" and len(set(sizes)) == 1
    return first(call, "slice", len(sizes), axis=axis, parts=_parts(sizes), even=even, squeeze=False)


def _is_axis(call: Call, axis: int) -> bool:
    """Whether a split into one part is along that axis."""
    return len(call.outputs) == 1 and axis == call.rank - 1


@op("Unstack", "UnstackExt", "UnstackExtView", "Unbind")
def _unstack(call: Call) -> Seen:
    axis = int(call.attrs.get("axis", call.arg(1, 0))) % call.rank
    n = len(call.outputs)
    return first(call, "slice", n, axis=axis, parts=_parts([1] * n), even=False, squeeze=True)


@op("SelectExt", "SelectExtView", "SelectView")
def _select(call: Call) -> Seen:
    axis = int(call.args[1]) % call.rank
    index = int(call.args[2]) % call.args[0].shape[axis]
    return first(call, "slice", axis=axis, parts=((index, index + 1, 1),), even=False, squeeze=True)


@op("SliceExt", "SliceExtView", "Narrow", "NarrowView")
def _slice_ext(call: Call) -> Seen:
    axis = int(call.args[1]) % call.rank
    length = call.args[0].shape[axis]
    if call.op.startswith("Narrow"):
        start = int(call.args[2]) % max(length, 1)
        stop, step = start + int(call.args[3]), 1
    else:
        start, stop, step = slice(int(call.args[2]), int(call.args[3]), int(call.arg(4, 1))).indices(length)
    return first(call, "slice", axis=axis, parts=((start, stop, step),), even=False, squeeze=False)


@op("Tile", "Repeat")
def _tile(call: Call) -> Seen:
    repeats = tuple(int(n) for n in call.args[1])
    rank = len(call.outputs[0].shape)
    return first(call, "tile", repeats=(1,) * (rank - len(repeats)) + repeats)


@op("PadV3", "ConstantPadND", "Pad")
def _pad(call: Call) -> Seen:
    rank = call.rank
    before, after = [0] * rank, [0] * rank
    if call.op == "Pad":
        for axis, (left, right) in enumerate(call.attrs["paddings"]):
            before[axis], after[axis] = int(left), int(right)
    else:
        amounts = [int(n) for n in np.asarray(call.args[1]).ravel()]
        for k in range(len(amounts) // 2):
            before[rank - 1 - k], after[rank - 1 - k] = amounts[2 * k], amounts[2 * k + 1]
        if call.attrs.get("mode", "constant") != "constant":
            return first(call, "pool", spatial=len(amounts) // 2)
    return first(call, "pad", before=tuple(before), after=tuple(after))


@op("MirrorPad", "ReflectionPad2D", "ReplicationPad2D")
def _mirror(call: Call) -> Seen:
    return first(call, "pool", spatial=min(2, call.rank))


@op("Gather", "Embedding")
def _gather(call: Call) -> Seen:
    table, indices = call.args[:2]
    if call.op == "Embedding":
        table, indices = indices, table
    if not isinstance(table, Value) or not isinstance(indices, Value):
        return every(call, "opaque")
    axis = 0 if call.op == "Embedding" else int(call.arg(2, 0)) % len(table.shape)
    return Seen("gather", (table, indices), ("input", "indices"), {"table": True, "axis": axis})


@op("Einsum", "EinsumExt")
def _einsum(call: Call) -> Seen:
    equation = call.attrs.get("equation", next((a for a in call.args if isinstance(a, str)), ""))
    return every(call, "einsum", equation=equation)


@op("FlashAttentionScore", "PromptFlashAttention")
def _attention(call: Call) -> Seen:
    return every(call, "opaque")

"""MindSpore's primitives in the words of ``core.graph``: one table, and a function per family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from prunekit.backend_mindspore._op_names import POINTWISE, UNIFORM
from prunekit.core.custom_ops import custom_op

__all__ = ["Call", "Seen", "Value", "describe", "tensors"]


class Value(NamedTuple):
    """A tensor that flows: its number in the graph, and its shape."""

    id: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """A primitive with its arguments resolved.

    Attributes:
        op: Name of the primitive.
        args: Tensors (:class:`Value`), tuples of them, and constants.
        attrs: Attributes of the primitive.
        outputs: What comes out.
    """

    op: str
    args: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[Value, ...] = ()

    def arg(self, position: int, default: Any = None) -> Any:
        """An argument, or what stands for it where it is missing."""
        return self.args[position] if position < len(self.args) else default

    @property
    def rank(self) -> int:
        """Number of axes of the first tensor."""
        return len(self.args[0].shape)


class Seen(NamedTuple):
    """An op as ``core.graph.Op`` will hold it; ``outputs`` says how many of the results it has."""

    kind: str
    inputs: tuple[Value, ...]
    operands: tuple[str, ...]
    attrs: dict[str, Any]
    outputs: int = 1


Maker = Callable[[Call], Seen]
_MAKERS: dict[str, Maker] = {}


def describe(call: Call) -> Seen:
    """What a call is; an unknown one is opaque."""
    # ops.Custom is one primitive for all; its function tells them apart
    maker, taught = _MAKERS.get(call.op), custom_op(call.attrs.get("func_name", call.op))
    if taught is not None:
        given = tuple(tensors(call.args))
        attrs = taught.attributes([value.shape for value in given])
        seen = Seen(taught.kind, given, taught.names(len(given)), attrs, len(call.outputs))
    elif maker is not None:
        seen = maker(call)
    elif not tensors(call.args):
        seen = Seen("create", (), (), {"uniform": call.op in UNIFORM}, len(call.outputs))
    else:
        seen = _all(call, "opaque")
    seen.attrs.setdefault("numbers", _numbers(call))
    return seen


def tensors(value: Any) -> list[Value]:
    """The tensors in an argument."""
    if isinstance(value, Value):
        return [value]
    if isinstance(value, tuple | list):
        return [t for v in value for t in tensors(v)]
    return []


def _numbers(call: Call) -> tuple[str, ...]:
    return tuple(repr(v) for v in call.args if isinstance(v, float)) if call.op in POINTWISE else ()


def _op(*names: str) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        for name in names:
            _MAKERS[name] = maker
        return maker

    return register


def _all(call: Call, kind: str, **attrs: Any) -> Seen:
    found = tuple(tensors(call.args))
    return Seen(kind, found, ("input",) * len(found), attrs, len(call.outputs))


def _first(call: Call, kind: str, outputs: int = 1, **attrs: Any) -> Seen:
    return Seen(kind, (call.args[0],), ("input",), attrs, outputs)


def _named(call: Call, kind: str, operands: dict[str, Any], outputs: int = 1, **attrs: Any) -> Seen:
    pairs = [(name, value) for name, value in operands.items() if isinstance(value, Value)]
    return Seen(kind, tuple(v for _, v in pairs), tuple(n for n, _ in pairs), attrs, outputs)


for _name in POINTWISE:
    _MAKERS[_name] = lambda call: _elementwise(call)
for _name in ("Identity", "Cast", "Clone", "Contiguous", "StopGradient", "Copy", "CopyExt", "TensorMove", "Assign"):
    _MAKERS[_name] = lambda call: _first(call, "identity")
for _name in ("Reshape", "View", "Flatten", "FlattenExt", "ExpandDims", "Squeeze", "Unsqueeze", "ExpandDimsView"):
    _MAKERS[_name] = lambda call: _first(call, "reshape")
for _name in ("BroadcastTo", "BroadcastToView", "ExpandAs"):
    _MAKERS[_name] = lambda call: _first(call, "expand")


def _elementwise(call: Call) -> Seen:
    # Dropout gives a mask besides; numbers of one element carry no channel
    found = tuple(tensors(call.args))
    return Seen("elementwise", found, ("input",) * len(found), {}, 1)


@_op("Conv2D", "Conv3D", "Conv2DExt", "Conv3DExt", "Conv2DPadding", "Conv3DPadding")
def _conv(call: Call) -> Seen:
    x, weight = call.args[0], call.args[1]
    groups = x.shape[1] // weight.shape[1]
    bias = call.arg(2)
    spatial = len(weight.shape) - 2
    return _named(
        call, "conv", {"input": x, "weight": weight, "bias": bias},
        groups=groups, transposed=False, spatial=spatial, **_stepping(call, spatial),
    )  # fmt: skip


def _stepping(call: Call, spatial: int) -> dict[str, Any]:
    """Where a conv's kernel lies for each output: ``stride``, ``padding`` and ``dilation`` per spatial axis."""
    if "pad_list" in call.attrs:  # of the batch and the channels too
        stride, dilation = (tuple(call.attrs[key])[-spatial:] for key in ("stride", "dilation"))
        pads = tuple(call.attrs["pad_list"])
        padding = tuple(zip(pads[::2], pads[1::2], strict=True))
    else:
        stride, given, dilation = (_spread(call.arg(k, default), spatial) for k, default in ((3, 1), (4, 0), (5, 1)))
        if given is None or stride is None or dilation is None:  # "same": told by the shapes alone
            return {}
        padding = tuple((n, n) for n in given)
    return {"stride": stride, "padding": padding, "dilation": dilation}


def _spread(value: Any, spatial: int) -> tuple[int, ...] | None:
    """One number for each spatial axis."""
    values = value if isinstance(value, tuple | list) else (value,) * spatial
    numbers = all(isinstance(v, int) for v in values)
    return tuple(int(v) for v in values) if numbers and len(values) == spatial else None


@_op("Conv2DTranspose", "Conv2DBackpropInput", "Conv3DTranspose", "Conv3DBackpropInput")
def _conv_transposed(call: Call) -> Seen:
    x, weight = call.args[0], call.args[1]
    if call.op.startswith("Conv3DBack"):
        x, weight = weight, x
    groups = call.outputs[0].shape[1] // weight.shape[1]
    return _named(
        call, "conv", {"input": x, "weight": weight}, groups=groups, transposed=True, spatial=len(weight.shape) - 2
    )


@_op("Convolution", "ConvolutionStr")
def _convolution(call: Call) -> Seen:
    x, weight, bias = call.args[:3]
    transposed = bool(call.arg(6, False)) if call.op == "Convolution" else False
    groups = call.outputs[0].shape[1] // weight.shape[1] if transposed else x.shape[1] // weight.shape[1]
    spatial = len(weight.shape) - 2
    return _named(
        call, "conv", {"input": x, "weight": weight, "bias": bias},
        groups=groups, transposed=transposed, spatial=spatial, **({} if transposed else _stepping(call, spatial)),
    )  # fmt: skip


@_op("Dense", "LinearExt")
def _dense(call: Call) -> Seen:
    x, weight, bias = call.args[0], call.args[1], call.arg(2)
    return _named(call, "linear" if len(weight.shape) == 2 else "opaque", {"input": x, "weight": weight, "bias": bias})


@_op("BatchNorm", "BatchNormExt")
def _batch_norm(call: Call) -> Seen:
    x, weight, bias, mean, var = call.args[:5]
    training = call.arg(5, call.attrs.get("is_training", False))
    operands = {"input": x, "weight": weight, "bias": bias, "mean": mean, "var": var}
    return _named(call, "channel_affine", operands, axis=1, statistics=training is True)


@_op("InstanceNorm")
def _instance_norm(call: Call) -> Seen:
    x, weight, bias, mean, var = call.args[:5]
    operands = {"input": x, "weight": weight, "bias": bias, "mean": mean, "var": var}
    return _named(call, "channel_affine", operands, axis=1, statistics=True)


@_op("PReLU", "PReLUExt")
def _prelu(call: Call) -> Seen:
    x, weight = call.args[:2]
    if prod(weight.shape) == 1:
        return _named(call, "elementwise", {"input": x, "weight": weight})
    return _named(call, "channel_affine", {"input": x, "weight": weight}, axis=1)


@_op("LayerNorm", "LayerNormV3")
def _layer_norm(call: Call) -> Seen:
    x, weight, bias = call.args[:3]
    begin = int(call.arg(3, call.attrs.get("begin_norm_axis", -1))) % call.rank
    return _named(call, "layer_norm", {"input": x, "weight": weight, "bias": bias}, axes=tuple(range(begin, call.rank)))


@_op("LayerNormExt")
def _layer_norm_ext(call: Call) -> Seen:
    x, shape, weight, bias = call.args[:4]
    axes = tuple(range(call.rank - len(shape), call.rank))
    return _named(call, "layer_norm", {"input": x, "weight": weight, "bias": bias}, axes=axes)


@_op("GroupNorm")
def _group_norm(call: Call) -> Seen:
    x, groups, weight, bias = call.args[:4]
    return _named(call, "group_norm", {"input": x, "weight": weight, "bias": bias}, groups=int(groups), axis=1)


@_op("Softmax", "LogSoftmax", "LogSoftmaxExt")
def _softmax(call: Call) -> Seen:
    axis = call.arg(1, call.attrs.get("axis", -1))
    axes = _axes(axis, call.rank)
    return _first(call, "softmax", axis=axes[0]) if len(axes) == 1 else _all(call, "opaque")


def _axes(dims: Any, rank: int) -> tuple[int, ...]:
    if isinstance(dims, np.ndarray):
        dims = tuple(int(d) for d in np.atleast_1d(dims))
    if dims is None or dims == ():
        return tuple(range(rank))
    return tuple(int(d) % max(rank, 1) for d in (dims if isinstance(dims, tuple | list) else (dims,)))


@_op("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceAll", "ReduceAny", "SumExt", "MeanExt",
     "ProdExt", "ReduceStd", "LogSumExp", "LpNorm", "LpNormV2", "Norm", "LinalgVectorNorm", "StdMean", "VarMean",
     "Std", "Var", "Max", "Min", "AMax", "AMin")  # fmt: skip
def _reduce(call: Call) -> Seen:
    dims, keep = call.arg(1), call.arg(2, False)
    if call.op in ("LpNorm", "LpNormV2", "Norm", "LinalgVectorNorm"):
        dims = call.attrs.get("axis", next((a for a in call.args[1:] if isinstance(a, tuple)), None))
    kept = call.attrs.get("keep_dims", call.attrs.get("keepdims", keep))
    outputs = len(call.outputs)
    # the rank of the result tells what the flag says
    kept = len(call.outputs[0].shape) == call.rank if call.outputs else bool(kept)
    return _first(call, "reduce", outputs, axes=_axes(dims, call.rank), keepdims=kept, picks=False)


@_op("ArgMaxWithValue", "ArgMinWithValue", "Argmax", "Argmin", "ArgMax", "ArgMin", "ArgMaxExt", "MaxDim", "MinDim")
def _arg(call: Call) -> Seen:
    dims = call.arg(1, call.attrs.get("axis", -1))
    # (index, value) in that order: indices last, as the rule reads them, is for one result only
    picks = len(call.outputs) == 1
    if not picks:
        return _all(call, "opaque")
    kept = len(call.outputs[0].shape) == call.rank
    return _first(call, "reduce", len(call.outputs), axes=_axes(dims, call.rank), keepdims=kept, picks=True)


@_op("L2Normalize", "CumSum", "CumProd", "CumsumExt", "ReverseV2", "Flip", "Roll", "Sort", "SortExt")
def _along(call: Call) -> Seen:
    """Positions along these axes are not interchangeable, or all of them enter each result."""
    dims = call.arg(1, call.attrs.get("axis", call.attrs.get("dims", -1)))
    if call.op == "Roll":
        dims = call.arg(2, dims)
    dims = dims if isinstance(dims, tuple | list | int) else -1
    return _first(call, "roll", len(call.outputs), axes=_axes(dims, call.rank))


def _pools(spatial: int, window: Callable[[Call], Any] | None = None) -> Maker:
    def make(call: Call) -> Seen:
        attrs: dict[str, Any] = {"spatial": min(spatial, call.rank)}
        size = None if window is None else window(call)
        if size:
            attrs["window"] = tuple(int(n) for n in size[-spatial:])
        return _first(call, "pool", 1, **attrs)

    return make


def _window(call: Call) -> Any:
    size = call.attrs.get("kernel_size", call.arg(1))
    return (size, size) if isinstance(size, int) else size if isinstance(size, tuple) else None


for _name in ("AvgPool", "AvgPool2D", "MaxPool", "MaxPoolWithMask", "MaxPoolWithIndices", "MaxPoolWithArgmaxV2"):
    _MAKERS[_name] = _pools(2, _window)
for _name in ("AdaptiveAvgPool2D", "AdaptiveAvgPool2DExt", "AdaptiveMaxPool2D", "ResizeBilinearV2", "ResizeBilinear",
              "ResizeNearestNeighbor", "ResizeNearestNeighborV2", "ResizeBicubic", "UpsampleNearest2D",
              "UpsampleBilinear2D", "ResizeArea", "AdaptiveMaxPool2DExt"):  # fmt: skip
    _MAKERS[_name] = _pools(2)
for _name in ("AvgPool3D", "MaxPool3D", "AdaptiveAvgPool3D", "AdaptiveAvgPool3DExt", "UpsampleNearest3D"):
    _MAKERS[_name] = _pools(3)
for _name in ("AvgPool1D", "AdaptiveAvgPool1D", "UpsampleNearest1D", "ResizeLinear1D"):
    _MAKERS[_name] = _pools(1)


@_op("Transpose", "TransposeView", "Permute")
def _transpose(call: Call) -> Seen:
    perm = tuple(int(d) % call.rank for d in call.args[1])
    return _first(call, "permute", perm=perm)


@_op("TransposeExt", "TransposeExtView", "SwapAxes")
def _transpose_ext(call: Call) -> Seen:
    perm = list(range(call.rank))
    first, second = int(call.args[1]) % call.rank, int(call.args[2]) % call.rank
    perm[first], perm[second] = perm[second], perm[first]
    return _first(call, "permute", perm=tuple(perm))


@_op("Concat")
def _concat(call: Call) -> Seen:
    axis = call.arg(1, call.attrs.get("axis", 0))
    axis = axis if isinstance(axis, int) else call.attrs.get("axis", 0)
    return _all(call, "concat", axis=axis % len(call.outputs[0].shape))


@_op("Stack", "StackExt")
def _stack(call: Call) -> Seen:
    axis = call.attrs.get("axis", call.arg(1, 0))
    return _all(call, "concat", axis=axis % len(call.outputs[0].shape), new_axis=True)


def _parts(sizes: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return tuple((s, s + n, 1) for s, n in zip(starts, sizes, strict=True))


@_op("Split", "SplitTensor", "SplitTensorView", "Chunk", "ChunkView", "SplitWithSize", "SplitWithSizeView", "SplitV")
def _split(call: Call) -> Seen:
    axis = next(
        k for k, n in enumerate(call.args[0].shape) if any(t.shape[k] != n for t in call.outputs) or _is_axis(call, k)
    )
    sizes = [t.shape[axis] for t in call.outputs]
    even = "Size" not in call.op and call.op != "SplitV" and len(set(sizes)) == 1
    return _first(call, "slice", len(sizes), axis=axis, parts=_parts(sizes), even=even, squeeze=False)


def _is_axis(call: Call, axis: int) -> bool:
    """Whether a split into one part is along that axis."""
    return len(call.outputs) == 1 and axis == call.rank - 1


@_op("Unstack", "UnstackExt", "UnstackExtView", "Unbind")
def _unstack(call: Call) -> Seen:
    axis = int(call.attrs.get("axis", call.arg(1, 0))) % call.rank
    n = len(call.outputs)
    return _first(call, "slice", n, axis=axis, parts=_parts([1] * n), even=False, squeeze=True)


@_op("SelectExt", "SelectExtView", "SelectView")
def _select(call: Call) -> Seen:
    axis = int(call.args[1]) % call.rank
    index = int(call.args[2]) % call.args[0].shape[axis]
    return _first(call, "slice", axis=axis, parts=((index, index + 1, 1),), even=False, squeeze=True)


@_op("SliceExt", "SliceExtView", "Narrow", "NarrowView")
def _slice_ext(call: Call) -> Seen:
    axis = int(call.args[1]) % call.rank
    length = call.args[0].shape[axis]
    if call.op.startswith("Narrow"):
        start = int(call.args[2]) % max(length, 1)
        stop, step = start + int(call.args[3]), 1
    else:
        start, stop, step = slice(int(call.args[2]), int(call.args[3]), int(call.arg(4, 1))).indices(length)
    return _first(call, "slice", axis=axis, parts=((start, stop, step),), even=False, squeeze=False)


@_op("Tile", "Repeat")
def _tile(call: Call) -> Seen:
    repeats = tuple(int(n) for n in call.args[1])
    rank = len(call.outputs[0].shape)
    return _first(call, "tile", repeats=(1,) * (rank - len(repeats)) + repeats)


@_op("PadV3", "ConstantPadND", "Pad")
def _pad(call: Call) -> Seen:
    rank = call.rank
    before, after = [0] * rank, [0] * rank
    if call.op == "Pad":
        for axis, (first, last) in enumerate(call.attrs["paddings"]):
            before[axis], after[axis] = int(first), int(last)
    else:
        amounts = [int(n) for n in np.asarray(call.args[1]).ravel()]
        for k in range(len(amounts) // 2):
            before[rank - 1 - k], after[rank - 1 - k] = amounts[2 * k], amounts[2 * k + 1]
        if call.attrs.get("mode", "constant") != "constant":
            return _first(call, "pool", spatial=len(amounts) // 2)
    return _first(call, "pad", before=tuple(before), after=tuple(after))


@_op("MirrorPad", "ReflectionPad2D", "ReplicationPad2D")
def _mirror(call: Call) -> Seen:
    return _first(call, "pool", spatial=min(2, call.rank))


@_op("Gather", "Embedding")
def _gather(call: Call) -> Seen:
    table, indices = call.args[:2]
    if call.op == "Embedding":
        table, indices = indices, table
    if not isinstance(table, Value) or not isinstance(indices, Value):
        return _all(call, "opaque")
    axis = 0 if call.op == "Embedding" else int(call.arg(2, 0)) % len(table.shape)
    return Seen("gather", (table, indices), ("input", "indices"), {"table": True, "axis": axis})


@_op("Einsum", "EinsumExt")
def _einsum(call: Call) -> Seen:
    equation = call.attrs.get("equation", next((a for a in call.args if isinstance(a, str)), ""))
    return _all(call, "einsum", equation=equation)


@_op("FlashAttentionScore", "PromptFlashAttention")
def _attention(call: Call) -> Seen:
    return _all(call, "opaque")

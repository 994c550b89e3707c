"""Layers among MindSpore's primitives: arithmetic, convolutions, norms, reductions, pooling."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from prunekit.backend_mindspore._op_names import POINTWISE
from prunekit.backend_mindspore._op_table import MAKERS, Call, Maker, Seen, every, first, named, op, tensors

for _name in POINTWISE:
    MAKERS[_name] = lambda call: _elementwise(call)
for _name in ("Identity", "Cast", "Clone", "Contiguous", "StopGradient", "Copy", "CopyExt", "TensorMove", "Assign"):
    MAKERS[_name] = lambda call: first(call, "identity")
for _name in ("Reshape", "View", "Flatten", "FlattenExt", "ExpandDims", "Squeeze", "Unsqueeze", "ExpandDimsView"):
    MAKERS[_name] = lambda call: first(call, "reshape")
for _name in ("BroadcastTo", "BroadcastToView", "ExpandAs"):
    MAKERS[_name] = lambda call: first(call, "expand")


def _elementwise(call: Call) -> Seen:
    # Dropout gives a mask besides; numbers of one element carry no channel
    found = tuple(tensors(call.args))
    return Seen("elementwise", found, ("input",) * len(found), {}, 1)


@op("Conv2D", "Conv3D", "Conv2DExt", "Conv3DExt", "Conv2DPadding", "Conv3DPadding")
def _conv(call: Call) -> Seen:
    x, weight = call.args[0], call.args[1]
    groups = x.shape[1] // weight.shape[1]
    bias = call.arg(2)
    spatial = len(weight.shape) - 2
    return named(
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


@op("Conv2DTranspose", "Conv2DBackpropInput", "Conv3DTranspose", "Conv3DBackpropInput")
def _conv_transposed(call: Call) -> Seen:
    x, weight = call.args[0], call.args[1]
    if call.op.startswith("Conv3DBack"):
        x, weight = weight, x
    groups = call.outputs[0].shape[1] // weight.shape[1]
    return named(
        call, "conv", {"input": x, "weight": weight}, groups=groups, transposed=True, spatial=len(weight.shape) - 2
    )


@op("Convolution", "ConvolutionStr")
def _convolution(call: Call) -> Seen:
    x, weight, bias = call.args[:3]
    transposed = bool(call.arg(6, False)) if call.op == "Convolution" else False
    groups = call.outputs[0].shape[1] // weight.shape[1] if transposed else x.shape[1] // weight.shape[1]
    spatial = len(weight.shape) - 2
    return named(
        call, "conv", {"input": x, "weight": weight, "bias": bias},
        groups=groups, transposed=transposed, spatial=spatial, **({} if transposed else _stepping(call, spatial)),
    )  # fmt: skip


@op("Dense", "LinearExt")
def _dense(call: Call) -> Seen:
    x, weight, bias = call.args[0], call.args[1], call.arg(2)
    return named(call, "linear" if len(weight.shape) == 2 else "opaque", {"input": x, "weight": weight, "bias": bias})


@op("BatchNorm", "BatchNormExt")
def _batch_norm(call: Call) -> Seen:
    x, weight, bias, mean, var = call.args[:5]
    training = call.arg(5, call.attrs.get("is_training", False))
    operands = {"input": x, "weight": weight, "bias": bias, "mean": mean, "var": var}
    return named(call, "channel_affine", operands, axis=1, statistics=training is True)


@op("InstanceNorm")
def _instance_norm(call: Call) -> Seen:
    x, weight, bias, mean, var = call.args[:5]
    operands = {"input": x, "weight": weight, "bias": bias, "mean": mean, "var": var}
    return named(call, "channel_affine", operands, axis=1, statistics=True)


@op("PReLU", "PReLUExt")
def _prelu(call: Call) -> Seen:
    x, weight = call.args[:2]
    if prod(weight.shape) == 1:
        return named(call, "elementwise", {"input": x, "weight": weight})
    return named(call, "channel_affine", {"input": x, "weight": weight}, axis=1)


@op("LayerNorm", "LayerNormV3")
def _layer_norm(call: Call) -> Seen:
    x, weight, bias = call.args[:3]
    begin = int(call.arg(3, call.attrs.get("begin_norm_axis", -1))) % call.rank
    return named(call, "layer_norm", {"input": x, "weight": weight, "bias": bias}, axes=tuple(range(begin, call.rank)))


@op("LayerNormExt")
def _layer_norm_ext(call: Call) -> Seen:
    x, shape, weight, bias = call.args[:4]
    axes = tuple(range(call.rank - len(shape), call.rank))
    return named(call, "layer_norm", {"input": x, "weight": weight, "bias": bias}, axes=axes)


@op("GroupNorm")
def _group_norm(call: Call) -> Seen:
    x, groups, weight, bias = call.args[:4]
    return named(call, "group_norm", {"input": x, "weight": weight, "bias": bias}, groups=int(groups), axis=1)


@op("Softmax", "LogSoftmax", "LogSoftmaxExt")
def _softmax(call: Call) -> Seen:
    axis = call.arg(1, call.attrs.get("axis", -1))
    axes = _axes(axis, call.rank)
    return first(call, "softmax", axis=axes[0]) if len(axes) == 1 else every(call, "opaque")


def _axes(dims: Any, rank: int) -> tuple[int, ...]:
    if isinstance(dims, np.ndarray):
        dims = tuple(int(d) for d in np.atleast_1d(dims))
    if dims is None or dims == ():
        return tuple(range(rank))
    return tuple(int(d) % max(rank, 1) for d in (dims if isinstance(dims, tuple | list) else (dims,)))


@op("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceAll", "ReduceAny", "SumExt", "MeanExt",
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
    return first(call, "reduce", outputs, axes=_axes(dims, call.rank), keepdims=kept, picks=False)


@op("ArgMaxWithValue", "ArgMinWithValue", "Argmax", "Argmin", "ArgMax", "ArgMin", "ArgMaxExt", "MaxDim", "MinDim")
def _arg(call: Call) -> Seen:
    dims = call.arg(1, call.attrs.get("axis", -1))
    # (index, value) in that order: indices last, as the rule reads them, is for one result only
    picks = len(call.outputs) == 1
    if not picks:
        return every(call, "opaque")
    kept = len(call.outputs[0].shape) == call.rank
    return first(call, "reduce", len(call.outputs), axes=_axes(dims, call.rank), keepdims=kept, picks=True)


@op("L2Normalize", "CumSum", "CumProd", "CumsumExt", "ReverseV2", "Flip", "Roll", "Sort", "SortExt")
def _along(call: Call) -> Seen:
    """Positions along these axes are not interchangeable, or all of them enter each result."""
    dims = call.arg(1, call.attrs.get("axis", call.attrs.get("dims", -1)))
    if call.op == "Roll":
        dims = call.arg(2, dims)
    dims = dims if isinstance(dims, tuple | list | int) else -1
    return first(call, "roll", len(call.outputs), axes=_axes(dims, call.rank))


def _pools(spatial: int, window: Callable[[Call], Any] | None = None) -> Maker:
    def make(call: Call) -> Seen:
        attrs: dict[str, Any] = {"spatial": min(spatial, call.rank)}
        size = None if window is None else window(call)
        if size:
            attrs["window"] = tuple(int(n) for n in size[-spatial:])
        return first(call, "pool", 1, **attrs)

    return make


def _window(call: Call) -> Any:
    size = call.attrs.get("kernel_size", call.arg(1))
    return (size, size) if isinstance(size, int) else size if isinstance(size, tuple) else None


for _name in ("AvgPool", "AvgPool2D", "MaxPool", "MaxPoolWithMask", "MaxPoolWithIndices", "MaxPoolWithArgmaxV2"):
    MAKERS[_name] = _pools(2, _window)
for _name in ("AdaptiveAvgPool2D", "AdaptiveAvgPool2DExt", "AdaptiveMaxPool2D", "ResizeBilinearV2", "ResizeBilinear",
              "ResizeNearestNeighbor", "ResizeNearestNeighborV2", "ResizeBicubic", "UpsampleNearest2D",
              "UpsampleBilinear2D", "ResizeArea", "AdaptiveMaxPool2DExt"):  # fmt: skip
    MAKERS[_name] = _pools(2)
for _name in ("AvgPool3D", "MaxPool3D", "AdaptiveAvgPool3D", "AdaptiveAvgPool3DExt", "UpsampleNearest3D"):
    MAKERS[_name] = _pools(3)
for _name in ("AvgPool1D", "AdaptiveAvgPool1D", "UpsampleNearest1D", "ResizeLinear1D"):
    MAKERS[_name] = _pools(1)

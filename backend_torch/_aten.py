"""PyTorch's ops in the words of ``core.graph``: one table, and a function per family."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from prunekit.core.custom_ops import custom_op

__all__ = ["Seen", "describe"]


class Seen(NamedTuple):
    """An op as ``core.graph.Op`` will hold it, with tensors in place of ids."""

    kind: str
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    operands: tuple[str, ...]
    attrs: dict[str, Any]


Args = dict[str, Any]
Maker = Callable[[Args, Any], tuple[str, list[str], dict[str, Any]]]
"""Arguments by schema name, output → kind, schema names of the tensor operands, attributes."""

_MAKERS: dict[str, Maker] = {}
_RENAMED = {
    "running_mean": "mean", "running_var": "var", "self": "input", "attn_mask": "mask", "attn_bias": "mask",
}  # fmt: skip


def describe(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Seen | None:
    """What an op is, or None where it neither reads nor makes a tensor."""
    outputs = _tensors(out)
    named = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
    name = func._schema.name.removeprefix("aten::")
    maker = _MAKERS.get(name) or _MAKERS.get(name.rstrip("_"))
    inputs = [t for v in named.values() for t in _tensors(v)]
    taught = custom_op(name)
    if taught is not None:
        attrs = {"numbers": _numbers(func, named), **taught.attributes([tuple(t.shape) for t in inputs])}
        return Seen(taught.kind, tuple(inputs), tuple(outputs), taught.names(len(inputs)), attrs)
    if maker is not None:
        kind, wanted, attrs = maker(named, out)
        pairs = [(_RENAMED.get(w, w), t) for w in wanted for t in _tensors(named.get(w))]
        attrs.setdefault("numbers", _numbers(func, named))
        return Seen(kind, tuple(t for _, t in pairs), tuple(outputs), tuple(w for w, _ in pairs), attrs)
    if not outputs:
        return None
    attrs = {"numbers": _numbers(func, named)}
    if torch.Tag.dynamic_output_shape in func.tags or name == "torchvision::nms":
        attrs["counts"] = True
    if not inputs:
        return Seen("create", (), tuple(outputs), (), {"uniform": name in _UNIFORM, **attrs})
    kind = "elementwise" if torch.Tag.pointwise in func.tags else "opaque"
    return Seen(kind, tuple(inputs), tuple(outputs), ("input",) * len(inputs), attrs)


def _numbers(func: Any, named: Args) -> tuple[str, ...]:
    """Numbers that the call was given, other than sizes: text, so that NaN equals NaN."""
    sizes = _sizes(func)
    return tuple(_text(v) for k, v in named.items() if isinstance(v, int | float | complex) and k not in sizes)


_LARGEST = {torch.finfo(t).max for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def _text(number: Any) -> str:
    """A number as text; the least of a type, as masks hold it, is that of another precision in a converted network."""
    if isinstance(number, float) and abs(number) in _LARGEST:
        return "-largest" if number < 0 else "largest"
    return repr(number)


@cache
def _sizes(func: Any) -> frozenset[str]:
    """Arguments that are axes and lengths; the traced shapes say what they do."""
    return frozenset(a.name for a in func._schema.arguments if str(a.type) in ("int", "Optional[int]"))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for v in value for t in _tensors(v)]
    return []


def _aten(*names: str) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        for name in names:
            _MAKERS[name] = maker
        return maker

    return register


def _plain(kind: str, *names: str) -> None:
    """Ops of one kind whose shapes say all."""
    _aten(*names)(lambda a, out: (kind, [k for k, v in a.items() if _tensors(v)], {}))


_plain(
    "elementwise", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "copy",
    "masked_fill", "bernoulli", "hardtanh", "relu6", "silu", "mish", "gelu", "hardswish",
    "hardsigmoid", "leaky_relu", "elu", "selu", "celu", "softplus", "rrelu", "threshold", "normal", "uniform",
    "rsub", "square", "true_divide", "div", "clamp", "nan_to_num", "lerp", "addcmul", "addcdiv",
)  # fmt: skip
_plain(
    "reshape", "reshape", "view", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel", "view_as",
    "reshape_as",
)  # fmt: skip
_plain("expand", "expand", "expand_as", "broadcast_to")
_plain(
    "identity", "detach", "alias", "contiguous", "clone", "to", "_to_copy", "type_as", "float",
    "half", "requires_grad",
)  # fmt: skip


@_aten("where")
def _where(a: Args, out: Any) -> Any:
    if len(a) == 1:  # the places where a condition holds
        return "opaque", ["condition"], {"counts": True}
    return "elementwise", [k for k, v in a.items() if _tensors(v)], {}


# filled with one number, or with random ones: every channel is like every other
_UNIFORM = frozenset(["zeros", "ones", "empty", "full", "scalar_tensor", "rand", "randn", "empty_strided"])


@_aten("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
       "new_empty", "new_full", "new_empty_strided")  # fmt: skip
def _create(a: Args, out: Any) -> Any:
    return "create", [], {"uniform": True}


@_aten("lift_fresh", "lift")
def _lift(a: Args, out: Any) -> Any:
    """``torch.tensor(number)``: its value is at hand even where all else has none."""
    value = a["self"]
    known = value.device.type != "meta" and value.numel() == 1
    return "create", [], {"uniform": False, "numbers": (_text(value.item()),) if known else ()}


@_aten("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv(a: Args, out: Any) -> Any:
    weight = a["weight"]
    # the three conv_transpose calls alone have output_padding without the flag `transposed`
    transposed = bool(a.get("transposed", False))
    return "conv", ["input", "weight", "bias"], {
        "groups": a.get("groups", 1), "transposed": transposed, "spatial": weight.dim() - 2,
        **({} if transposed else _stepping(a, weight)),
    }  # fmt: skip


def _stepping(a: Args, weight: Any) -> dict[str, Any]:
    """Where a conv's kernel lies for each output: ``stride``, ``padding`` and ``dilation`` per spatial axis."""
    spatial = weight.dim() - 2

    def spread(value: Any) -> tuple[int, ...]:
        values = list(value) if isinstance(value, (tuple, list)) else [value]
        return tuple(int(v) for v in (values * spatial if len(values) == 1 else values))

    stride, dilation = spread(a.get("stride", 1)), spread(a.get("dilation", 1))
    given = a.get("padding", 0)
    if isinstance(given, str):
        spare = [d * (k - 1) if given == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = tuple((n // 2, n - n // 2) for n in spare)
    else:
        padding = tuple((n, n) for n in spread(given))
    return {"stride": stride, "padding": padding, "dilation": dilation}


@_aten("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(a: Args, out: Any) -> Any:
    return _conv({**a, "transposed": True}, out)


@_aten("linear")
def _linear(a: Args, out: Any) -> Any:
    kind = "linear" if a["weight"].dim() == 2 else "opaque"
    return kind, ["input", "weight", "bias"], {}


@_aten("addmm")
def _addmm(a: Args, out: Any) -> Any:
    if a["self"].dim() != 1 or a["self"].shape[0] != out.shape[-1]:
        return "opaque", ["self", "mat1", "mat2"], {}
    a |= {"input": a["mat1"], "weight": a["mat2"], "bias": a["self"]}
    return "linear", ["input", "weight", "bias"], {"transposed": True}


@_aten("matmul", "bmm", "mm")
def _matmul(a: Args, out: Any) -> Any:
    return "matmul", [k for k, v in a.items() if _tensors(v)], {}


@_aten("einsum")
def _einsum(a: Args, out: Any) -> Any:
    return "einsum", ["tensors"], {"equation": a["equation"]}


@_aten("mv")
def _mv(a: Args, out: Any) -> Any:
    return "einsum", ["self", "vec"], {"equation": "ab,b->a"}


@_aten("dot", "vdot")
def _dot(a: Args, out: Any) -> Any:
    return "einsum", ["self", "other", "tensor"], {"equation": "a,a->"}


@_aten("_weight_norm")
def _weight_norm(a: Args, out: Any) -> Any:
    # -1 stands for a norm over the whole
    return "elementwise", ["v", "g"], {"statistics": tuple(k for k in range(a["v"].dim()) if k != a.get("dim", 0))}


@_aten("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "instance_norm")
def _batch_norm(a: Args, out: Any) -> Any:
    # instance_norm calls it use_input_stats
    statistics = bool(a.get("training", a.get("use_input_stats", False)))
    return "channel_affine", ["input", "weight", "bias", "running_mean", "running_var"], {
        "axis": 1, "statistics": statistics,
    }  # fmt: skip


@_aten("prelu")
def _prelu(a: Args, out: Any) -> Any:
    if a["weight"].numel() == 1:
        return "elementwise", ["self", "weight"], {}
    return "channel_affine", ["self", "weight"], {"axis": 1}


@_aten("layer_norm", "native_layer_norm", "rms_norm")
def _layer_norm(a: Args, out: Any) -> Any:
    x, n = a["input"], len(a["normalized_shape"])
    return "layer_norm", ["input", "weight", "bias"], {"axes": tuple(range(x.dim() - n, x.dim()))}


@_aten("group_norm", "native_group_norm")
def _group_norm(a: Args, out: Any) -> Any:
    return "group_norm", ["input", "weight", "bias"], {"groups": a.get("num_groups", a.get("group")), "axis": 1}


@_aten("scaled_dot_product_attention")
def _attention(a: Args, out: Any) -> Any:
    query, key = a["query"], a["key"]
    grouped = (
        query.dim() == 4 and query.shape[1] % key.shape[1] == 0 and (a.get("enable_gqa", False) or key.shape[1] == 1)
    )
    if query.shape[:-2] != key.shape[:-2] and not grouped:
        return "opaque", ["query", "key", "value", "attn_mask"], {}
    return "attention", ["query", "key", "value", "attn_mask"], {
        "scaled": a.get("scale") is not None, "causal": bool(a.get("is_causal", False)),
    }  # fmt: skip


@_aten("softmax", "log_softmax", "_softmax", "_log_softmax")
def _softmax(a: Args, out: Any) -> Any:
    return "softmax", ["self"], {"axis": a["dim"] % max(a["self"].dim(), 1)}


def _axes(dim: Any, rank: int) -> tuple[int, ...]:
    if dim is None or dim == []:
        return tuple(range(rank))
    return tuple(d % max(rank, 1) for d in ([dim] if isinstance(dim, int) else dim))


@_aten("mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "linalg_vector_norm", "var_mean", "std_mean",
       "prod", "logsumexp", "all", "any", "nansum", "median")  # fmt: skip
def _reduce(a: Args, out: Any) -> Any:
    x = a["self"] if "self" in a else a["x"]
    if isinstance(a.get("other"), torch.Tensor):
        return "elementwise", ["self", "other"], {}
    # max, min and median along an axis give values and their indices; var_mean gives two values
    picks = isinstance(out, tuple) and out[1].dtype == torch.int64
    return "reduce", ["self" if "self" in a else "x"], {
        "axes": _axes(a.get("dim"), x.dim()), "keepdims": bool(a.get("keepdim", False)), "picks": picks,
    }  # fmt: skip


@_aten("argmax", "argmin")
def _arg(a: Args, out: Any) -> Any:
    kind, operands, attrs = _reduce(a, out)
    return kind, operands, {**attrs, "picks": True}


@_aten("cumsum", "cumprod", "sort", "flip")
def _along(a: Args, out: Any) -> Any:
    """Positions along these axes are not interchangeable."""
    return "roll", ["self"], {"axes": _axes(a.get("dim", a.get("dims", -1)), a["self"].dim())}


@_aten("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(a: Args, out: Any) -> Any:
    up = "upscale_factor" in a
    blocks = (a["upscale_factor"] if up else a["downscale_factor"]) ** 2
    return "rearrange", ["self"], {"axis": out.dim() - 3, "blocks": blocks, "how": "join" if up else "split"}


@_aten("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(a: Args, out: Any) -> Any:
    return "rearrange", ["self"], {"axis": 1, "blocks": a["groups"], "how": "swap"}


@_aten("glu")
def _glu(a: Args, out: Any) -> Any:
    return "rearrange", ["self"], {"axis": a.get("dim", -1) % out.dim(), "blocks": 2, "how": "fold"}


@_aten("roll")
def _roll(a: Args, out: Any) -> Any:
    return "roll", ["self"], {"axes": _axes(a.get("dims"), a["self"].dim())}


def _pools(spatial: int) -> Maker:
    def make(a: Args, out: Any) -> Any:
        attrs: dict[str, Any] = {"spatial": spatial}
        if isinstance(a.get("kernel_size"), int | list | tuple):
            size = a["kernel_size"]
            sizes = [size] if isinstance(size, int) else list(size)
            attrs["window"] = tuple(sizes * spatial if len(sizes) == 1 else sizes)
        return "pool", ["self" if "self" in a else "input"], attrs

    return make


for _n in (1, 2, 3):
    for _p in ("max_pool{}d", "avg_pool{}d", "adaptive_avg_pool{}d", "adaptive_max_pool{}d", "max_pool{}d_with_indices",
               "_adaptive_avg_pool{}d", "lp_pool{}d", "reflection_pad{}d", "replication_pad{}d"):  # fmt: skip
        _MAKERS[_p.format(_n)] = _pools(_n)
for _name, _n in (("upsample_nearest1d", 1), ("upsample_linear1d", 1), ("upsample_nearest2d", 2),
                  ("upsample_bilinear2d", 2), ("upsample_bicubic2d", 2), ("_upsample_bilinear2d_aa", 2),
                  ("_upsample_nearest_exact2d", 2), ("_upsample_bicubic2d_aa", 2), ("upsample_nearest3d", 3),
                  ("upsample_trilinear3d", 3)):  # fmt: skip
    _MAKERS[_name] = _pools(_n)


@_aten("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT")
def _permute(a: Args, out: Any) -> Any:
    x = a["self"]
    rank = x.dim()
    # the framework itself says where each axis goes: permute axis numbers carried as sizes
    if "dims" in a:
        perm = [d % rank for d in a["dims"]]
    elif "source" in a:
        sources, targets = _axes(a["source"], rank), _axes(a["destination"], rank)
        rest = iter([d for d in range(rank) if d not in sources])
        placed = dict(zip(targets, sources, strict=True))
        perm = [placed[d] if d in placed else next(rest) for d in range(rank)]
    else:
        first, second = a.get("dim0", a.get("axis0", -2)), a.get("dim1", a.get("axis1", -1))
        perm = list(range(rank))
        if rank > 1:
            perm[first % rank], perm[second % rank] = perm[second % rank], perm[first % rank]
    return "permute", ["self"], {"perm": tuple(perm)}


@_aten("cat", "concat", "concatenate")
def _concat(a: Args, out: Any) -> Any:
    # an empty tensor of shape (0,) fits all others and adds nothing
    a["tensors"] = [t for t in a["tensors"] if t.dim() == out.dim() or tuple(t.shape) != (0,)]
    return "concat", ["tensors"], {"axis": a.get("dim", 0) % out.dim()}


@_aten("stack")
def _stack(a: Args, out: Any) -> Any:
    return "concat", ["tensors"], {"axis": a.get("dim", 0) % out.dim(), "new_axis": True}


def _parts(axis: int, sizes: list[int], even: bool, squeeze: bool = False) -> dict[str, Any]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    parts = tuple((s, s + n, 1) for s, n in zip(starts, sizes, strict=True))
    return {"axis": axis, "parts": parts, "even": even, "squeeze": squeeze}


@_aten("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes")
def _split(a: Args, out: Any) -> Any:
    x = a["self"]
    axis = a.get("dim", 0) % x.dim()
    sizes = [t.shape[axis] for t in out]
    given = a.get("split_size", a.get("split_sizes"))
    even = not isinstance(given, list | tuple) and len(set(sizes)) == 1
    return "slice", ["self"], _parts(axis, sizes, even)


@_aten("unbind")
def _unbind(a: Args, out: Any) -> Any:
    axis = a.get("dim", 0) % a["self"].dim()
    return "slice", ["self"], _parts(axis, [1] * len(out), even=False, squeeze=True)


@_aten("select")
def _select(a: Args, out: Any) -> Any:
    x = a["self"]
    axis = a["dim"] % x.dim()
    index = a["index"] % x.shape[axis]
    return "slice", ["self"], {"axis": axis, "parts": ((index, index + 1, 1),), "even": False, "squeeze": True}


@_aten("slice")
def _slice(a: Args, out: Any) -> Any:
    x = a["self"]
    axis = a.get("dim", 0) % x.dim()
    start, stop, step = slice(a.get("start"), a.get("end"), a.get("step", 1)).indices(x.shape[axis])
    return "slice", ["self"], {"axis": axis, "parts": ((start, stop, step),), "even": False}


@_aten("narrow")
def _narrow(a: Args, out: Any) -> Any:
    axis = a["dim"] % a["self"].dim()
    start = int(a["start"]) % a["self"].shape[axis]
    return "slice", ["self"], {"axis": axis, "parts": ((start, start + a["length"], 1),), "even": False}


@_aten("pad", "constant_pad_nd")
def _pad(a: Args, out: Any) -> Any:
    rank, amounts = a["self"].dim(), list(a["pad"])
    before, after = [0] * rank, [0] * rank
    for k in range(len(amounts) // 2):
        before[rank - 1 - k], after[rank - 1 - k] = amounts[2 * k], amounts[2 * k + 1]
    if a.get("mode", "constant") != "constant":
        # filled with what lies nearby: positions along the padded axes stay, all others pass
        return "pool", ["self"], {"spatial": len(amounts) // 2}
    return "pad", ["self"], {"before": tuple(before), "after": tuple(after)}


@_aten("repeat", "tile")
def _tile(a: Args, out: Any) -> Any:
    repeats = list(a.get("repeats", a.get("dims")))
    return "tile", ["self"], {"repeats": tuple([1] * (out.dim() - len(repeats)) + repeats)}


@_aten("torchvision::roi_align", "torchvision::roi_pool")
def _roi_align(a: Args, out: Any) -> Any:
    return "pool", ["input"], {"spatial": 2}


@_aten("repeat_interleave")
def _repeat_interleave(a: Args, out: Any) -> Any:
    if not isinstance(a.get("repeats"), int) or a.get("dim") is None:
        return None
    repeats = [1] * out.dim()
    repeats[a["dim"]] = a["repeats"]
    return "tile", ["self"], {"repeats": tuple(repeats), "each": True}


@_aten("embedding")
def _embedding(a: Args, out: Any) -> Any:
    return "gather", ["weight", "indices"], {"table": True, "axis": 0}


@_aten("index")
def _index(a: Args, out: Any) -> Any:
    indexed = [k for k, row in enumerate(a["indices"]) if row is not None]
    first = a["indices"][indexed[0]]
    masks = any(a["indices"][k].dtype in (torch.bool, torch.uint8) for k in indexed)
    attrs = {"table": len(indexed) == 1 and (not masks or first.dim() == 1), "axis": indexed[0]}
    return "gather", ["self", "indices"], attrs | {"counts": True} if masks else attrs


@_aten("index_put", "index_put_")
def _index_put(a: Args, out: Any) -> Any:
    indexed = [k for k, row in enumerate(a["indices"]) if row is not None]
    index = a["indices"][indexed[0]] if len(indexed) == 1 else None
    if index is None or index.dim() != 1 or a["values"].dim() != a["self"].dim():
        return "opaque", ["self", "indices", "values"], {}
    return "scatter", ["self", "values", "indices"], {"axis": indexed[0]}


@_aten("index_select")
def _index_select(a: Args, out: Any) -> Any:
    rank = a["self"].dim()
    table = rank > 0 and a["index"].dim() == 1
    return "gather", ["self", "index"], {"table": table, "axis": a["dim"] % max(rank, 1)}


@_aten("gather")
def _gather(a: Args, out: Any) -> Any:
    return "gather", ["self", "index"], {"table": False, "axis": a["dim"]}

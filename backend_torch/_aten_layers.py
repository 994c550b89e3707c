"""Layers, products, norms and reductions."""

from __future__ import annotations

from typing import Any

import torch

from prunekit.backend_torch._aten_table import Args, Maker, aten, axes_of, plain, tensors_of

__all__: list[str] = []


plain(
    "elementwise", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "copy",
    "masked_fill", "bernoulli", "hardtanh", "relu6", "silu", "mish", "gelu", "hardswish",
    "hardsigmoid", "leaky_relu", "elu", "selu", "celu", "softplus", "rrelu", "threshold", "normal", "uniform",
    "rsub", "square", "true_divide", "div", "clamp", "nan_to_num", "lerp", "addcmul", "addcdiv",
)  # fmt: skip


@aten("where")
def _where(a: Args, out: Any) -> Any:
    if len(a) == 1:  # the places where a condition holds
        return "opaque", ["condition"], {"counts": True}
    return "elementwise", [k for k, v in a.items() if tensors_of(v)], {}


@aten("conv1d", "conv2d", "conv3d", "convolution")
def _conv(a: Args, out: Any) -> Any:
    weight = a["weight"]
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


@aten("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(a: Args, out: Any) -> Any:
    return _conv({**a, "transposed": True}, out)


@aten("linear")
def _linear(a: Args, out: Any) -> Any:
    kind = "linear" if a["weight"].dim() == 2 else "opaque"
    return kind, ["input", "weight", "bias"], {}


@aten("addmm")
def _addmm(a: Args, out: Any) -> Any:
    if a["self"].dim() != 1 or a["self"].shape[0] != out.shape[-1]:
        return "opaque", ["self", "mat1", "mat2"], {}
    a |= {"input": a["mat1"], "weight": a["mat2"], "bias": a["self"]}
    return "linear", ["input", "weight", "bias"], {"transposed": True}


@aten("matmul", "bmm", "mm")
def _matmul(a: Args, out: Any) -> Any:
    return "matmul", [k for k, v in a.items() if tensors_of(v)], {}


@aten("einsum")
def _einsum(a: Args, out: Any) -> Any:
    return "einsum", ["tensors"], {"equation": a["equation"]}


@aten("mv")
def _mv(a: Args, out: Any) -> Any:
    return "einsum", ["self", "vec"], {"equation": "ab,b->a"}


@aten("dot", "vdot")
def _dot(a: Args, out: Any) -> Any:
    return "einsum", ["self", "other", "tensor"], {"equation": "a,a->"}


@aten("_weight_norm")
def _weight_norm(a: Args, out: Any) -> Any:
    # -1 stands for a norm over the whole
    return "elementwise", ["v", "g"], {"statistics": tuple(k for k in range(a["v"].dim()) if k != a.get("dim", 0))}


@aten("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "instance_norm")
def _batch_norm(a: Args, out: Any) -> Any:
    # instance_norm calls it use_input_stats
    statistics = bool(a.get("training", a.get("use_input_stats", False)))
    return "channel_affine", ["input", "weight", "bias", "running_mean", "running_var"], {
        "axis": 1, "statistics": statistics,
    }  # fmt: skip


@aten("prelu")
def _prelu(a: Args, out: Any) -> Any:
    if a["weight"].numel() == 1:
        return "elementwise", ["self", "weight"], {}
    return "channel_affine", ["self", "weight"], {"axis": 1}


@aten("layer_norm", "native_layer_norm", "rms_norm")
def _layer_norm(a: Args, out: Any) -> Any:
    x, n = a["input"], len(a["normalized_shape"])
    return "layer_norm", ["input", "weight", "bias"], {"axes": tuple(range(x.dim() - n, x.dim()))}


@aten("group_norm", "native_group_norm")
def _group_norm(a: Args, out: Any) -> Any:
    return "group_norm", ["input", "weight", "bias"], {"groups": a.get("num_groups", a.get("group")), "axis": 1}


@aten("scaled_dot_product_attention")
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


@aten("softmax", "log_softmax", "_softmax", "_log_softmax")
def _softmax(a: Args, out: Any) -> Any:
    return "softmax", ["self"], {"axis": a["dim"] % max(a["self"].dim(), 1)}


@aten("mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "linalg_vector_norm", "var_mean", "std_mean",
       "prod", "logsumexp", "all", "any", "nansum", "median")  # fmt: skip
def _reduce(a: Args, out: Any) -> Any:
    x = a["self"] if "self" in a else a["x"]
    if isinstance(a.get("other"), torch.Tensor):
        return "elementwise", ["self", "other"], {}
    # max, min and median along an axis give values and their indices; var_mean gives two values
    picks = isinstance(out, tuple) and out[1].dtype == torch.int64
    return "reduce", ["self" if "self" in a else "x"], {
        "axes": axes_of(a.get("dim"), x.dim()), "keepdims": bool(a.get("keepdim", False)), "picks": picks,
    }  # fmt: skip


@aten("argmax", "argmin")
def _arg(a: Args, out: Any) -> Any:
    kind, operands, attrs = _reduce(a, out)
    return kind, operands, {**attrs, "picks": True}


@aten("cumsum", "cumprod", "sort", "flip")
def _along(a: Args, out: Any) -> Any:
    """Positions along these axes are not interchangeable."""
    return "roll", ["self"], {"axes": axes_of(a.get("dim", a.get("dims", -1)), a["self"].dim())}


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
        aten(_p.format(_n))(_pools(_n))
for _name, _n in (("upsample_nearest1d", 1), ("upsample_linear1d", 1), ("upsample_nearest2d", 2),
                  ("upsample_bilinear2d", 2), ("upsample_bicubic2d", 2), ("_upsample_bilinear2d_aa", 2),
                  ("_upsample_nearest_exact2d", 2), ("_upsample_bicubic2d_aa", 2), ("upsample_nearest3d", 3),
                  ("upsample_trilinear3d", 3)):  # fmt: skip
    aten(_name)(_pools(_n))

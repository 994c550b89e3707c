"""Shapes: views, parts, tables, and what moves channels."""

from __future__ import annotations

from typing import Any

import torch

from prunekit.backend_torch._aten_table import Args, aten, axes_of, plain, text_of

__all__: list[str] = []


plain(
    "reshape", "reshape", "view", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel", "view_as",
    "reshape_as",
)  # fmt: skip
plain("expand", "expand", "expand_as", "broadcast_to")
plain(
    "identity", "detach", "alias", "contiguous", "clone", "to", "_to_copy", "type_as", "float",
    "half", "requires_grad",
)  # fmt: skip


@aten("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
       "new_empty", "new_full", "new_empty_strided")  # fmt: skip
def _create(a: Args, out: Any) -> Any:
    return "create", [], {"uniform": True}


@aten("lift_fresh", "lift")
def _lift(a: Args, out: Any) -> Any:
    """``torch.tensor(number)``: its value is at hand even where all else has none."""
    value = a["self"]
    known = value.device.type != "meta" and value.numel() == 1
    return "create", [], {"uniform": False, "numbers": (text_of(value.item()),) if known else ()}


@aten("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(a: Args, out: Any) -> Any:
    up = "upscale_factor" in a
    blocks = (a["upscale_factor"] if up else a["downscale_factor"]) ** 2
    return "rearrange", ["self"], {"axis": out.dim() - 3, "blocks": blocks, "how": "join" if up else "split"}


@aten("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(a: Args, out: Any) -> Any:
    return "rearrange", ["self"], {"axis": 1, "blocks": a["groups"], "how": "swap"}


@aten("glu")
def _glu(a: Args, out: Any) -> Any:
    return "rearrange", ["self"], {"axis": a.get("dim", -1) % out.dim(), "blocks": 2, "how": "fold"}


@aten("roll")
def _roll(a: Args, out: Any) -> Any:
    return "roll", ["self"], {"axes": axes_of(a.get("dims"), a["self"].dim())}


@aten("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT")
def _permute(a: Args, out: Any) -> Any:
    x = a["self"]
    rank = x.dim()
    # the framework itself says where each axis goes: permute axis numbers carried as sizes
    if "dims" in a:
        perm = [d % rank for d in a["dims"]]
    elif "source" in a:
        sources, targets = axes_of(a["source"], rank), axes_of(a["destination"], rank)
        rest = iter([d for d in range(rank) if d not in sources])
        placed = dict(zip(targets, sources, strict=True))
        perm = [placed[d] if d in placed else next(rest) for d in range(rank)]
    else:
        first, second = a.get("dim0", a.get("axis0", -2)), a.get("dim1", a.get("axis1", -1))
        perm = list(range(rank))
        if rank > 1:
            perm[first % rank], perm[second % rank] = perm[second % rank], perm[first % rank]
    return "permute", ["self"], {"perm": tuple(perm)}


@aten("cat", "concat", "concatenate")
def _concat(a: Args, out: Any) -> Any:
    # an empty tensor of shape (0,) fits all others and adds nothing
    a["tensors"] = [t for t in a["tensors"] if t.dim() == out.dim() or tuple(t.shape) != (0,)]
    return "concat", ["tensors"], {"axis": a.get("dim", 0) % out.dim()}


@aten("stack")
def _stack(a: Args, out: Any) -> Any:
    return "concat", ["tensors"], {"axis": a.get("dim", 0) % out.dim(), "new_axis": True}


def _parts(axis: int, sizes: list[int], even: bool, squeeze: bool = False) -> dict[str, Any]:
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    parts = tuple((s, s + n, 1) for s, n in zip(starts, sizes, strict=True))
    return {"axis": axis, "parts": parts, "even": even, "squeeze": squeeze}


@aten("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes")
def _split(a: Args, out: Any) -> Any:
    x = a["self"]
    axis = a.get("dim", 0) % x.dim()
    sizes = [t.shape[axis] for t in out]
    given = a.get("split_size", a.get("split_sizes"))
    even = not isinstance(given, list | tuple) and len(set(sizes)) == 1
    return "slice", ["self"], _parts(axis, sizes, even)


@aten("unbind")
def _unbind(a: Args, out: Any) -> Any:
    axis = a.get("dim", 0) % a["self"].dim()
    return "slice", ["self"], _parts(axis, [1] * len(out), even=False, squeeze=True)


@aten("select")
def _select(a: Args, out: Any) -> Any:
    x = a["self"]
    axis = a["dim"] % x.dim()
    index = a["index"] % x.shape[axis]
    return "slice", ["self"], {"axis": axis, "parts": ((index, index + 1, 1),), "even": False, "squeeze": True}


@aten("slice")
def _slice(a: Args, out: Any) -> Any:
    x = a["self"]
    axis = a.get("dim", 0) % x.dim()
    start, stop, step = slice(a.get("start"), a.get("end"), a.get("step", 1)).indices(x.shape[axis])
    return "slice", ["self"], {"axis": axis, "parts": ((start, stop, step),), "even": False}


@aten("narrow")
def _narrow(a: Args, out: Any) -> Any:
    axis = a["dim"] % a["self"].dim()
    start = int(a["start"]) % a["self"].shape[axis]
    return "slice", ["self"], {"axis": axis, "parts": ((start, start + a["length"], 1),), "even": False}


@aten("pad", "constant_pad_nd")
def _pad(a: Args, out: Any) -> Any:
    rank, amounts = a["self"].dim(), list(a["pad"])
    before, after = [0] * rank, [0] * rank
    for k in range(len(amounts) // 2):
        before[rank - 1 - k], after[rank - 1 - k] = amounts[2 * k], amounts[2 * k + 1]
    if a.get("mode", "constant") != "constant":
        # filled with what lies nearby: positions along the padded axes stay, all others pass
        return "pool", ["self"], {"spatial": len(amounts) // 2}
    return "pad", ["self"], {"before": tuple(before), "after": tuple(after)}


@aten("repeat", "tile")
def _tile(a: Args, out: Any) -> Any:
    repeats = list(a.get("repeats", a.get("dims")))
    return "tile", ["self"], {"repeats": tuple([1] * (out.dim() - len(repeats)) + repeats)}


@aten("torchvision::roi_align", "torchvision::roi_pool")
def _roi_align(a: Args, out: Any) -> Any:
    return "pool", ["input"], {"spatial": 2}


@aten("repeat_interleave")
def _repeat_interleave(a: Args, out: Any) -> Any:
    if not isinstance(a.get("repeats"), int) or a.get("dim") is None:
        # rows of all axes in one, or as many of each as a tensor says
        return "opaque", ["self", "repeats"], {"counts": isinstance(a.get("repeats"), torch.Tensor)}
    repeats = [1] * out.dim()
    repeats[a["dim"]] = a["repeats"]
    return "tile", ["self"], {"repeats": tuple(repeats), "each": True}


@aten("embedding")
def _embedding(a: Args, out: Any) -> Any:
    return "gather", ["weight", "indices"], {"table": True, "axis": 0}


@aten("index")
def _index(a: Args, out: Any) -> Any:
    indexed = [k for k, row in enumerate(a["indices"]) if row is not None]
    first = a["indices"][indexed[0]]
    masks = any(a["indices"][k].dtype in (torch.bool, torch.uint8) for k in indexed)
    attrs = {"table": len(indexed) == 1 and (not masks or first.dim() == 1), "axis": indexed[0]}
    return "gather", ["self", "indices"], attrs | {"counts": True} if masks else attrs


@aten("index_put", "index_put_")
def _index_put(a: Args, out: Any) -> Any:
    indexed = [k for k, row in enumerate(a["indices"]) if row is not None]
    index = a["indices"][indexed[0]] if len(indexed) == 1 else None
    if index is None or index.dim() != 1 or a["values"].dim() != a["self"].dim():
        return "opaque", ["self", "indices", "values"], {}
    return "scatter", ["self", "values", "indices"], {"axis": indexed[0]}


@aten("index_select")
def _index_select(a: Args, out: Any) -> Any:
    rank = a["self"].dim()
    table = rank > 0 and a["index"].dim() == 1
    return "gather", ["self", "index"], {"table": table, "axis": a["dim"] % max(rank, 1)}


@aten("gather")
def _gather(a: Args, out: Any) -> Any:
    return "gather", ["self", "index"], {"table": False, "axis": a["dim"]}

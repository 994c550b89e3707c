"""PyTorch's ops in the words of ``core.graph``."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch

from prunekit.backend_torch import _aten_layers, _aten_shapes
from prunekit.backend_torch._aten_table import MAKERS, Args, tensors_of, text_of
from prunekit.core.custom_ops import custom_op

__all__ = ["Seen", "describe"]

assert _aten_layers and _aten_shapes  # they fill the table


class Seen(NamedTuple):
    """An op as ``core.graph.Op`` will hold it, with tensors in place of ids."""

    kind: str
    inputs: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    operands: tuple[str, ...]
    attrs: dict[str, Any]


_RENAMED = {
    "running_mean": "mean", "running_var": "var", "self": "input", "attn_mask": "mask", "attn_bias": "mask",
}  # fmt: skip


# filled with one number, or with random ones: every channel is like every other
_UNIFORM = frozenset(["zeros", "ones", "empty", "full", "scalar_tensor", "rand", "randn", "empty_strided"])


def describe(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Seen | None:
    """What an op is, or None where it neither reads nor makes a tensor."""
    outputs = tensors_of(out)
    named = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
    name = func._schema.name.removeprefix("aten::")
    maker = MAKERS.get(name) or MAKERS.get(name.rstrip("_"))
    inputs = [t for v in named.values() for t in tensors_of(v)]
    taught = custom_op(func._schema.name) or custom_op(name)
    if taught is not None:
        attrs = {"numbers": _numbers(func, named), **taught.attributes([tuple(t.shape) for t in inputs])}
        return Seen(taught.kind, tuple(inputs), tuple(outputs), taught.names(len(inputs)), attrs)
    if maker is not None:
        kind, wanted, attrs = maker(named, out)
        pairs = [(_RENAMED.get(w, w), t) for w in wanted for t in tensors_of(named.get(w))]
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
    return tuple(text_of(v) for k, v in named.items() if isinstance(v, int | float | complex) and k not in sizes)


@cache
def _sizes(func: Any) -> frozenset[str]:
    """Arguments that are axes and lengths; the traced shapes say what they do."""
    return frozenset(a.name for a in func._schema.arguments if str(a.type) in ("int", "Optional[int]"))

"""Ops that users teach: what a framework's own op is in the words of ``core.graph``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunekit.core._names import nearest
from prunekit.core.errors import InputError
from prunekit.core.graph import KINDS

__all__ = ["CustomOp", "Shapes", "custom_op", "register_op"]

Shapes = Sequence[tuple[int, ...]]
Attrs = Mapping[str, Any] | Callable[[Shapes], Mapping[str, Any]]

_NEEDED = {
    "conv": ("groups", "transposed", "spatial"), "channel_affine": ("axis",), "layer_norm": ("axes",),
    "group_norm": ("groups", "axis"), "reduce": ("axes", "keepdims"), "pool": ("spatial",), "softmax": ("axis",),
    "attention": ("scaled",), "permute": ("perm",), "concat": ("axis",), "slice": ("axis", "parts", "even"),
    "pad": ("before", "after"), "roll": ("axes",), "rearrange": ("axis", "blocks", "how"), "tile": ("repeats",),
    "gather": ("axis", "table"), "scatter": ("axis",), "einsum": ("equation",),
}  # fmt: skip
_LEAST = {"conv": 2, "linear": 2, "matmul": 2, "attention": 3, "gather": 2, "scatter": 3, "create": 0}


@dataclass(frozen=True)
class CustomOp:
    """What is known of a taught op.

    Attributes:
        kind: One of ``core.graph.KINDS``.
        operands: A name for each tensor that it takes.
        attrs: What the kind needs to know besides shapes, or a function of the inputs' shapes that says it.
    """

    kind: str
    operands: tuple[str, ...]
    attrs: Attrs

    def attributes(self, shapes: Shapes) -> dict[str, Any]:
        """The attributes of a call on inputs of some shapes.

        Raises:
            InputError: The call has too few tensors, or an attribute that the kind needs is missing.
        """
        least = _LEAST.get(self.kind, 1)
        if len(shapes) < least:
            raise InputError(
                f"an op of kind {self.kind!r} takes at least {least} tensors, got a call with {len(shapes)}; "
                "give register_op the kind that it is like"
            )
        return self.checked(self.attrs(shapes) if callable(self.attrs) else self.attrs)

    def checked(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes that are all that the kind needs.

        Raises:
            InputError: One is missing.
        """
        missing = [name for name in _NEEDED.get(self.kind, ()) if name not in attrs]
        if missing:
            raise InputError(
                f"an op of kind {self.kind!r} needs the attributes {_NEEDED[self.kind]}, got {missing} missing; "
                "give them to register_op"
            )
        return dict(attrs)

    def names(self, count: int) -> tuple[str, ...]:
        """A name for each of so many tensors."""
        return tuple(self.operands[k] if k < len(self.operands) else "input" for k in range(count))


_TAUGHT: dict[str, CustomOp] = {}


def register_op(name: str, kind: str, *, operands: Sequence[str] = ("input",), attrs: Attrs | None = None) -> None:
    """Teach what an op does to channels, so that they need not stay where it is used.

    An op that prunekit does not know is opaque: every channel that touches it is frozen and reported. Most are like
    one that it does know. An op of kind ``"elementwise"`` gives each position what it makes of that position;
    ``core.graph`` lists the others, their operands and attributes.

    Args:
        name: The framework's name: ``"mylib::swish"`` in PyTorch (as given to ``torch.library``), or as reports print
            it, ``"mylib.swish.default"``; in MindSpore that of the primitive, or of the function of an
            ``ops.Custom``. A later call for the same name replaces what was taught.
        kind: One of ``core.graph.KINDS`` but ``"opaque"``.
        operands: A name for each tensor that it takes, in their order (``("input", "weight", "bias")``).
        attrs: What the kind needs besides shapes: a mapping, or a function that is given the shapes of the
            inputs and returns one.

    Raises:
        InputError: The kind is unknown, attributes that it needs are missing, or no op can have such a name.

    Example:
        >>> register_op("mylib::swish", "elementwise")
        >>> register_op("mylib::rownorm", "softmax", attrs=lambda shapes: {"axis": len(shapes[0]) - 1})
    """
    kinds = KINDS - {"opaque"}
    if kind not in kinds:
        raise InputError(f"kind must be one that core.graph describes, got {kind!r}; {nearest(kind, sorted(kinds))}")
    taught = CustomOp(kind, tuple(operands), attrs or {})
    if not callable(attrs):
        taught.checked(attrs or {})
    _TAUGHT[_own_name(name)] = taught


def _own_name(name: str) -> str:
    """``mylib::swish`` of ``mylib.swish.default``, which reports print."""
    if "::" in name or "." not in name:
        return name
    parts = name.split(".")
    if len(parts) != 3 or not all(parts):
        raise InputError(
            f"an op must be named as its framework does, got {name!r}; write 'mylib::swish' for an op of PyTorch, "
            "and for one of MindSpore the name of its primitive"
        )
    return "::".join(parts[:2])


def custom_op(name: str) -> CustomOp | None:
    """What was taught of an op, or None."""
    return _TAUGHT.get(name)

"""A primitive of MindSpore and what it is in the words of ``core.graph``: the table that its families fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["MAKERS", "Call", "Maker", "Seen", "Value", "every", "first", "named", "op", "tensors"]


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
MAKERS: dict[str, Maker] = {}


def tensors(value: Any) -> list[Value]:
    """The tensors in an argument."""
    if isinstance(value, Value):
        return [value]
    if isinstance(value, tuple | list):
        return [t for v in value for t in tensors(v)]
    return []


def op(*names: str) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        for name in names:
            MAKERS[name] = maker
        return maker

    return register


def every(call: Call, kind: str, **attrs: Any) -> Seen:
    found = tuple(tensors(call.args))
    return Seen(kind, found, ("input",) * len(found), attrs, len(call.outputs))


def first(call: Call, kind: str, outputs: int = 1, **attrs: Any) -> Seen:
    return Seen(kind, (call.args[0],), ("input",), attrs, outputs)


def named(call: Call, kind: str, operands: dict[str, Any], outputs: int = 1, **attrs: Any) -> Seen:
    pairs = [(name, value) for name, value in operands.items() if isinstance(value, Value)]
    return Seen(kind, tuple(v for _, v in pairs), tuple(n for n, _ in pairs), attrs, outputs)

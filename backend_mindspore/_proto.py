"""MindIR nodes as plain data: what was called, with which values, and what shapes came out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Node", "constant", "nodes", "parameters", "results", "tensor_type"]

_TENSOR, _TENSORS, _TUPLE, _LIST = 17, 19, 20, 21
_NUMBERS = {1: "f", 8: "s", 11: "d"}  # all other scalar types lie in `i`
_ITEMSIZE = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}


@dataclass(frozen=True)
class Node:
    """A call.

    Attributes:
        op: Name of the primitive (``"Conv2D"``).
        inputs: Values by name.
        output: Name of the result.
        shapes: ``(shape, itemsize)`` of each tensor of the result; one unless it is a tuple.
        many: Whether the result is a tuple.
        attrs: Attributes of the primitive.
        scope: Dotted name of the cell that made the call.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    shapes: tuple[tuple[tuple[int, ...], int], ...]
    many: bool
    attrs: dict[str, Any]
    scope: str


def nodes(model: Any) -> Iterator[tuple[Node | None, str, Any]]:
    """``(node, "", None)`` for each call and ``(None, name, value)`` for each constant, in order."""
    primitives = {p.name: p for p in model.primitives}
    for item in model.graph.node:
        if item.op_type == "Constant":
            yield None, item.output[0], constant(item.attribute[0])
            continue
        primitive = primitives.get(item.op_type.removeprefix("REF::"))
        shape = next((a for a in item.attribute if a.name == "shape"), None)
        yield (
            Node(
                op=item.op_type if primitive is None else primitive.op_type,
                inputs=tuple(item.input),
                output=item.output[0],
                shapes=tuple(_shapes(shape)),
                many=shape is not None and shape.type in (_TUPLE, _LIST),
                attrs={} if primitive is None else {a.name: constant(a) for a in primitive.attribute},
                scope=_scope(item.domain),
            ),
            "",
            None,
        )


def parameters(model: Any) -> dict[str, str]:
    """Name of a parameter (``"conv1.weight"``) by the name of its value."""
    return {p.name: p.ref_key or p.name.rpartition(":")[2] for p in model.graph.parameter}


def results(model: Any) -> list[str]:
    """Names of what the network returns."""
    return [o.name for o in model.graph.output]


def constant(attribute: Any) -> Any:
    """The value of an attribute: a number, a string, a tuple of such, an array, or None."""
    kind = attribute.type
    if kind in (_TUPLE, _LIST):
        return tuple(constant(v) for v in attribute.values)
    if kind in (_TENSOR, _TENSORS):
        return tensor_type(attribute.tensors[0] if attribute.tensors else attribute.t)
    if kind in _NUMBERS:
        field = _NUMBERS[kind]
        many = getattr(attribute, {"f": "floats", "d": "doubles", "s": "strings"}[field])
        value = many[0] if len(many) else getattr(attribute, field)
        return value.decode() if isinstance(value, bytes) else value
    if kind == 9:
        return bool(_whole(attribute))
    return _whole(attribute) if kind in _ITEMSIZE else None


def tensor_type(proto: Any) -> np.ndarray:
    """A constant tensor; of a type that NumPy lacks, its shape filled with NaN."""
    shape = tuple(int(d) for d in proto.dims)
    types = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}
    kind = types.get(proto.data_type)
    if kind is not None and proto.raw_data:
        return np.frombuffer(proto.raw_data, dtype=kind).reshape(shape)
    return np.broadcast_to(np.float32(np.nan), shape)


def _whole(attribute: Any) -> int:
    return int(attribute.ints[0] if len(attribute.ints) else attribute.i)


def _shapes(attribute: Any) -> Iterator[tuple[tuple[int, ...], int]]:
    if attribute is None:
        return
    if attribute.type in (_TUPLE, _LIST):
        for value in attribute.values:
            yield from _shapes(value)
        return
    for tensor in attribute.tensors:
        yield tuple(int(d) for d in tensor.dims), _ITEMSIZE.get(tensor.data_type, 4)


def _scope(domain: str) -> str:
    """``"Default/layer1-SequentialCell/0-Block/conv1-Conv2d/Conv2D-op0"`` → ``"layer1.0.conv1"``."""
    parts = domain.split("/")[1:-1]
    return ".".join(part.rpartition("-")[0] or part for part in parts if not part.startswith("Gradients"))

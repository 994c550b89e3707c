"""Does a cut network compute what the plan implies? Compare its trace with the graph, op by op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.coupling.groups import Coupling
from prunekit.core.graph import Graph, Op
from prunekit.core.plan import PruningPlan

__all__ = ["LAYOUT", "Mismatch", "compare", "essential", "implied_shape"]

LAYOUT = frozenset({"create", "identity"})
"""Kinds that come and go with memory layout and device."""


@dataclass(frozen=True)
class Mismatch:
    """The first op at which a cut network goes its own way.

    Attributes:
        position: Index of the op in ``graph.all_ops`` of the original.
        text: What was expected and what was found.
    """

    position: int
    text: str


def compare(coupling: Coupling, plan: PruningPlan, cut: Graph) -> Mismatch | None:
    """The first difference between a cut network's trace and the original graph cut by the plan.

    How many things a network finds (boxes, say) depends on its values, which a cut changes. From the first op on
    that counts them, only axes that were cut are compared, and those only while both networks do the same.

    Args:
        coupling: The original network.
        plan: What was kept.
        cut: Trace of the cut network, which may have broken off early.
    """
    alive = coupling.kept_roots(plan)
    ops = essential(coupling.graph)
    found = [op for _, op in essential(cut)]
    constants, actual = _made(coupling.graph), _made(cut)
    counted = False
    for (position, op), other in zip(ops, found, strict=False):
        counted |= bool(op.attrs.get("counts"))
        if counted:
            if op.raw != other.raw or len(op.outputs) != len(other.outputs):
                break
            text = _differs_in_cuts(coupling, alive, op, other, cut)
        else:
            text = _differs(coupling, alive, op, other, cut) or _differ_in_constants(op, other, constants, actual)
        if text:
            return Mismatch(position, text)
    if not ops or (counted and not cut.broken):
        return None
    if len(found) < len(ops):
        position, op = ops[len(found)]
        return Mismatch(position, f"the cut model stops before {op.raw}")
    if len(found) > len(ops):
        return Mismatch(ops[-1][0], f"the cut model goes on with {found[len(ops)].raw}")
    if cut.broken:
        return Mismatch(ops[-1][0], f"the cut model fails after its last op, {ops[-1][1].raw}")
    return None


def essential(graph: Graph) -> list[tuple[int, Op]]:
    """Ops that depend on the network's inputs or parameters, with their positions.

    Two traces are aligned by these: how constants are made, and what only changes memory layout,
    differs from device to device.
    """
    fixed: set[int] = set()
    result = []
    for position, op in enumerate(graph.all_ops):
        if op.kind == "create" or all(t in fixed for t in op.inputs):
            fixed.update(op.outputs)
        elif op.kind not in LAYOUT:
            result.append((position, op))
    return result


def _made(graph: Graph) -> dict[int, tuple[Any, Any]]:
    """For each tensor that depends on neither inputs nor parameters: the ops and the numbers that made it."""
    made: dict[int, tuple[Any, Any]] = {}
    for op in graph.all_ops:
        if op.kind == "create" or all(t in made for t in op.inputs):
            before = [made.get(t, ((), ())) for t in op.inputs]
            ops = (op.raw, *(o for o, _ in before))
            numbers = (op.attrs.get("numbers", ()), *(n for _, n in before))
            made.update((t, (ops, numbers)) for t in op.outputs)
    return made


def _differ_in_constants(
    op: Op, other: Op, made: dict[int, tuple[Any, Any]], actual: dict[int, tuple[Any, Any]]
) -> str:
    """Whether a number that came from a width went into a constant (``x / torch.tensor(x.shape[1])``)."""
    for tensor, new in zip(op.inputs, other.inputs, strict=False):
        if tensor in made and new in actual:
            (ops, numbers), (other_ops, other_numbers) = made[tensor], actual[new]
            # the same constant may be made otherwise on another device
            if ops == other_ops and numbers != other_numbers:
                return f"{op.raw}: expected a constant of {numbers}, found {other_numbers}"
    return ""


def _differs(coupling: Coupling, alive: NDArray[np.bool_], op: Op, other: Op, cut: Graph) -> str:
    if op.kind != other.kind:
        return f"expected {op.raw}, found {other.raw}"
    if len(op.outputs) != len(other.outputs):
        return f"{op.raw}: expected {len(op.outputs)} parts, found {len(other.outputs)}"
    for tensor, new in zip((*op.inputs, *op.outputs), (*other.inputs, *other.outputs), strict=False):
        expected, actual = implied_shape(coupling, alive, tensor), cut.tensors[new].shape
        if expected != actual:
            return f"{op.raw}: expected shape {expected}, found {actual}"
    expected_attrs, actual_attrs = _constants(coupling, alive, op), _own_constants(other)
    if expected_attrs != actual_attrs:
        return f"{op.raw}: expected {expected_attrs}, found {actual_attrs}"
    expected_numbers, actual_numbers = op.attrs.get("numbers", ()), other.attrs.get("numbers", ())
    if expected_numbers != actual_numbers:
        return f"{op.raw}: expected {', '.join(expected_numbers)}, found {', '.join(actual_numbers)}"
    return ""


def _differs_in_cuts(coupling: Coupling, alive: NDArray[np.bool_], op: Op, other: Op, cut: Graph) -> str:
    for tensor, new in zip((*op.inputs, *op.outputs), (*other.inputs, *other.outputs), strict=False):
        full, actual = coupling.graph.tensors[tensor].shape, cut.tensors[new].shape
        expected = implied_shape(coupling, alive, tensor)
        if len(actual) != len(full) or any(e not in (n, a) for e, n, a in zip(expected, full, actual, strict=True)):
            return f"{op.raw}: expected shape {expected}, found {actual}"
    return ""


def implied_shape(coupling: Coupling, alive: NDArray[np.bool_], tensor: int) -> tuple[int, ...]:
    """The shape of a tensor once the labels that are not alive are gone."""
    full = coupling.graph.tensors[tensor].shape
    labels = coupling.labels.get(tensor)
    if labels is None:
        return full
    return tuple(n if a is None else int(alive[a].sum()) for a, n in zip(labels, full, strict=True))


def _constants(coupling: Coupling, alive: NDArray[np.bool_], op: Op) -> Any:
    """Integers that the call must have been given: where slices start, how many groups there are."""
    if op.kind == "slice":
        labels = coupling.labels[op.inputs[0]][op.attrs["axis"]]
        parts = op.attrs["parts"]
        if labels is None or op.attrs.get("squeeze"):
            return parts
        before = np.concatenate([[0], np.cumsum(alive[labels])])
        return tuple((int(before[start]), int(before[stop]), step) for start, stop, step in parts)
    if op.kind == "conv":
        weight = op.inputs[1]
        old, new = coupling.graph.tensors[weight].shape, implied_shape(coupling, alive, weight)
        by_group = coupling.grouped == "whole" and not op.attrs.get("transposed")
        whole = op.attrs["groups"] > 1 and (old[1] == 1 or by_group)
        return op.attrs["groups"] * new[0] // old[0] if whole else op.attrs["groups"]
    if op.kind == "group_norm":
        return op.attrs["groups"]
    return _own_constants(op)


def _own_constants(op: Op) -> Any:
    if op.kind == "slice":
        return op.attrs["parts"]
    if op.kind in ("conv", "group_norm"):
        return op.attrs["groups"]
    if op.kind == "permute":
        return op.attrs["perm"]
    return None

"""Where a layer's outputs are added to a shortcut, and what the layer must give to make up for the shortcut's error.

Of a pruned residual block the sum is ``z + S``, both with errors. The last conv of the block, fitted to ``z`` alone,
leaves the shortcut's error in the sum, and blocks pile such errors up. So its target is ``z + (S_base − S_current)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.channel_pruning.moments import FloatArray
from prunekit.core.backend import Tap
from prunekit.core.graph import Graph, Op

__all__ = ["Shortcut", "corrected", "shortcut_of"]

_ADD = re.compile(r"(^|\.)add(_|ext|v2)?(\.|$)", re.IGNORECASE)
_LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class Shortcut:
    """The other addend of the sum that a layer's outputs reach.

    Attributes:
        tap: The layer that shows it, or None where none does.
        normed: Whether a norm lies between the layer and the sum.
    """

    tap: Tap | None
    normed: bool = False


def shortcut_of(graph: Graph, op: Op, order: Sequence[int]) -> Shortcut | None:
    """The other addend of the sum that a layer's outputs reach through a batch norm alone.

    None where they reach none, or where the addend is computed after the layer: then the other branch makes up for
    this one.

    Args:
        graph: The network.
        op: The layer's op.
        order: Positions of all ops, in the order in which layers are pruned.
    """
    reached = list(graph.ops).index(op)
    readers = _readers(graph, op.outputs[0])
    normed = len(readers) == 1 and readers[0].kind == "channel_affine"
    if normed:
        op = readers[0]
        readers = _readers(graph, op.outputs[0])
    if len(readers) != 1 or not _is_sum(graph, readers[0]):
        return None
    others = [t for t in readers[0].inputs if t != op.outputs[0]]
    if len(others) != 1:
        return None
    made = next((k for k, other in enumerate(graph.ops) if others[0] in other.outputs), None)
    later = made is not None and order.index(made) > order.index(reached)
    return None if later else Shortcut(_tap(graph, others[0]), normed)


def corrected(
    target: NDArray[Any], base: NDArray[Any], current: NDArray[Any], scale: FloatArray
) -> NDArray[np.float64]:
    """Outputs, ``(n, O)``, that make up for a shortcut's error.

    Channels that the norm behind the layer all but mutes cannot do so and keep their target.

    Args:
        target: The base network's outputs.
        base: The base network's shortcut.
        current: The pruned network's.
        scale: What the norm multiplies the outputs by, ``(O,)``.
    """
    size = np.abs(scale)
    able = size > _LEAST_SCALE * max(float(np.median(size)), 1e-12)
    error = np.where(able, base.astype(np.float64) - current, 0.0)
    result: NDArray[np.float64] = target + error / np.where(able, scale, 1.0)
    return result


def _readers(graph: Graph, tensor: int) -> list[Op]:
    return [] if tensor in graph.outputs else [op for op in graph.all_ops if tensor in op.inputs]


def _is_sum(graph: Graph, op: Op) -> bool:
    """Whether an op adds two activations of one shape, and does nothing else."""
    shapes = {graph.tensors[t].shape for t in (*op.inputs, *op.outputs)}
    plain = op.kind == "elementwise" and len(op.inputs) == 2 and not op.attrs.get("numbers")
    moving = all(graph.tensors[t].role in ("activation", "input") for t in op.inputs)
    return plain and moving and len(shapes) == 1 and bool(_ADD.search(op.raw))


def _tap(graph: Graph, tensor: int) -> Tap | None:
    """A layer whose input or output a tensor is. Only layers of one op count: of others the graph does not tell
    which of their tensors go in and out."""
    scopes = [op.scope for op in graph.all_ops]
    for op in graph.ops:
        if not op.scope or sum(s == op.scope or s.startswith(op.scope + ".") for s in scopes) != 1:
            continue
        if len(op.outputs) == 1 and op.outputs[0] == tensor:
            return op.scope, "output"
        if op.inputs[0] == tensor:
            return op.scope, "input"
    return None

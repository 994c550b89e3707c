"""Where channels are split into heads: which axis of a split is that of the heads."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from prunekit.core.coupling._blocks import blocks
from prunekit.core.graph import Graph, Op

__all__ = ["Splits", "feeds_attention"]

# a reshape is a split into heads when its result reaches attention through these alone
_CARRIERS = frozenset(
    {"permute", "reshape", "slice", "identity", "elementwise", "expand", "concat", "pad", "roll", "layer_norm"}
)


def feeds_attention(graph: Graph) -> Collection[int]:
    """Outputs of reshapes from which attention (or a product of activations) is reached."""
    ops = graph.all_ops
    reaches = np.zeros(len(graph.tensors), dtype=bool)
    for op in reversed(ops):
        if op.kind == "attention":
            reaches[list(op.inputs[:3])] = True
        elif op.kind == "matmul":
            moving = [t for t in op.inputs[:2] if graph.tensors[t].role == "activation"]
            if len(moving) == 2:
                reaches[moving] = True
        elif op.kind in _CARRIERS and op.inputs and reaches[list(op.outputs)].any():
            reaches[list(op.inputs)] = True
    return {out for op in ops if op.kind == "reshape" for out in op.outputs if reaches[out]}


class Splits:
    """Follows an axis forward to see whether it is split once more.

    ``nn.MultiheadAttention`` splits 3·E channels into (3, E), takes the three apart, and only then splits E into
    heads: the first of these splits is none into heads.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._readers: dict[int, list[Op]] = {}
        for op in graph.all_ops:
            if op.kind in _CARRIERS:
                for tensor in set(op.inputs):
                    self._readers.setdefault(tensor, []).append(op)

    def again(self, tensor: int, axis: int) -> bool:
        """Whether some op splits that axis of a tensor, or what becomes of it, into several."""
        left, seen = [(tensor, axis)], set()
        while left:
            end = left.pop()
            if end in seen:
                continue
            seen.add(end)
            for op in self._readers.get(end[0], ()):
                for following in self._after(op, *end):
                    if following is None:
                        return True
                    left.append(following)
        return False

    def _after(self, op: Op, tensor: int, axis: int) -> Iterator[tuple[int, int] | None]:
        """Where an axis is in an op's outputs; None where it was split."""
        old = self._graph.tensors[tensor].shape
        for out in op.outputs:
            new = self._graph.tensors[out].shape
            if op.kind == "reshape":
                for sources, targets in blocks(old, new):
                    if axis not in sources or [a for a in sources if old[a] > 1] != [axis]:
                        continue
                    longer = [a for a in targets if new[a] > 1]
                    yield None if len(longer) > 1 else (out, longer[0])
            elif op.kind == "permute":
                yield out, op.attrs["perm"].index(axis)
            elif op.kind == "slice":
                gone = op.attrs.get("squeeze", False)
                if op.attrs["axis"] != axis:
                    yield out, axis - int(gone and op.attrs["axis"] < axis)
            elif op.kind != "slice":
                moved = axis + len(new) - len(old)
                if new[moved] == old[axis]:
                    yield out, moved

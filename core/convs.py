"""What a conv costs by itself."""

from __future__ import annotations

import numpy as np

from prunekit.core.graph import Graph, Op

__all__ = ["conv_macs"]


def conv_macs(graph: Graph, op: Op) -> int:
    """Multiply-accumulates of a conv for one sample: its weights times the positions that it is applied at.

    Args:
        graph: The network.
        op: One of its convs, with a weight.
    """
    weight = graph.tensors[op.operand("weight") or 0]
    # a transposed conv is applied at the positions of its input
    field = graph.tensors[op.inputs[0] if op.attrs.get("transposed") else op.outputs[0]].shape
    spatial = field[len(field) - int(op.attrs.get("spatial", 2)) :]
    batch = max(graph.tensors[graph.inputs[0]].shape[0], 1)
    return int(np.prod(weight.shape, dtype=np.int64) * np.prod(spatial, dtype=np.int64)) * max(field[0] // batch, 1)

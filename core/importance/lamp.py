"""Layer-adaptive magnitude (Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021)."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs


def lamp(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Squared norm of each channel over the sum of those that are not smaller; in (0, 1].

    The largest channel of each group gets 1, so that groups are comparable as they are.
    """
    squares = inputs.combine([inputs.squares(m) for m in inputs.weights(group)])
    order = np.argsort(squares, kind="stable")
    remaining = np.cumsum(squares[order][::-1])[::-1]
    result = np.zeros(len(squares))
    np.divide(squares[order], remaining, out=result, where=remaining > 0)
    scores = np.empty_like(result)
    scores[order] = result
    return scores


CRITERION = Criterion(
    "lamp", "layer-adaptive magnitude, comparable between groups (Lee et al. 2021)", lamp, normalize="none"
)

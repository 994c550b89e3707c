"""Distance to the geometric median (He et al., "Filter Pruning via Geometric Median", 2019)."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs


def fpgm(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Sum of distances from each channel's weights to those of all others: the nearest is the most redundant."""
    return inputs.combine([_distances(inputs.blocks(m)) for m in inputs.weights(group)])


def _distances(blocks: FloatArray) -> FloatArray:
    # by the Gram matrix: a direct computation needs size² × length operations outside of BLAS
    centred = blocks - blocks.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    between = squares[:, None] + squares[None, :] - 2 * centred @ centred.T
    np.fill_diagonal(between, 0.0)
    distances: FloatArray = np.sqrt(np.maximum(between, 0.0)).sum(axis=1)
    return distances


CRITERION = Criterion("fpgm", "distance to the other channels' weights, geometric median (He et al. 2019)", fpgm)

"""L1 norm of a channel's weights (Li et al., "Pruning Filters for Efficient ConvNets", 2017)."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs


def l1(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Sum of absolute weights of each channel."""
    return inputs.combine([np.abs(inputs.blocks(m)).sum(axis=1) for m in inputs.weights(group)])


CRITERION = Criterion("l1", "L1 norm of the channel's weights (Li et al. 2017)", l1)

"""L2 norm of a channel's weights (He et al., "Soft Filter Pruning", 2018)."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs


def l2(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Euclidean norm of the weights of each channel."""
    return inputs.combine([np.sqrt(inputs.squares(m)) for m in inputs.weights(group)])


CRITERION = Criterion("l2", "L2 norm of the channel's weights (He et al. 2018)", l2)

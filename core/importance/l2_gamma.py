"""L2 norm times gain, the importance that UniPruning's documentation states (MindSpore Golden Stick)."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup, Member
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs


def l2_gamma(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Norm of each channel's weights times the gain of the norm that directly follows that layer, if any."""
    return inputs.combine([_member(group, m, inputs) for m in inputs.weights(group)])


def _member(group: ChannelGroup, member: Member, inputs: Inputs) -> FloatArray:
    norm: FloatArray = np.sqrt(inputs.squares(member))
    gain = inputs.norm_of.get(member.name) if member.role == "out" else None
    for other in group.members:
        # the gain must number the same outputs in the same order
        if other.name == gain and np.array_equal(other.indices, member.indices):
            norm = norm * np.abs(inputs.blocks(other)).mean(axis=1)
            break
    return norm


CRITERION = Criterion(
    "l2_gamma", "L2 norm of the channel's weights × gain of the following norm (UniPruning)", l2_gamma
)

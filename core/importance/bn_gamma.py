"""Gain of the norms on a channel (Liu et al., "Network Slimming", 2017)."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup, Member
from prunekit.core.errors import InputError
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs
from prunekit.core.importance.l2 import l2

_NORMS = frozenset({"channel_affine", "layer_norm", "group_norm"})


def bn_gamma(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Absolute gain of each channel; the L2 norm of its weights where no norm follows.

    Raises:
        InputError: No group of the network has a norm.
    """
    gains = _gains(group)
    if gains:
        return inputs.combine([np.abs(inputs.blocks(m)).mean(axis=1) for m in gains])
    if not any(_gains(g) for g in inputs.coupling.groups):
        raise InputError("bn_gamma needs norm layers with a gain, got a network without any; use importance='l2'")
    return l2(group, inputs)


def _gains(group: ChannelGroup) -> list[Member]:
    return [m for m in group.members if m.role == "gain" and m.kind in _NORMS]


CRITERION = Criterion(
    "bn_gamma", "gain of the norms on the channel, L2 where there is none (Liu et al. 2017)", bn_gamma
)

"""Random scores: the baseline that every criterion has to beat."""

from __future__ import annotations

import zlib

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs


def random(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Uniform draws in [0, 1), from the seed and the group's name alone."""
    return np.random.default_rng([inputs.seed, zlib.crc32(group.name.encode())]).random(group.size)


CRITERION = Criterion("random", "random scores, the same for the same seed and group", random, normalize="none")

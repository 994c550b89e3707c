"""Mean absolute activation (after Hu et al., "Network Trimming", 2016, who count zeros)."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup
from prunekit.core.errors import InputError
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs


def activation(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Mean absolute output of each channel over the data.

    Raises:
        InputError: Activations are missing, or no layer makes the group's channels.
    """
    if inputs.activations is None:
        raise InputError("activation needs activations, got none; give data=, a loader of batches")
    parts = []
    for member in group.producers:
        if member.layer not in inputs.activations:
            raise InputError(f"activation needs the outputs of every producer, got none of {member.layer!r}")
        values = np.asarray(inputs.activations[member.layer], dtype=np.float64)
        if values.shape != (member.length,):
            raise InputError(f"activations of {member.layer!r} must have shape ({member.length},), got {values.shape}")
        parts.append(values[member.indices].mean(axis=1))
    if not parts:
        raise InputError(
            f"activation needs a layer that makes the channels, got none for {group.name!r}; ignore it or use 'l2'"
        )
    return inputs.combine(parts)


CRITERION = Criterion(
    "activation",
    "mean absolute output of the channel over data (after Hu et al. 2016)",
    activation,
    needs="activations",
)

"""First-order Taylor expansion of the loss (Molchanov et al., "Importance Estimation", 2019)."""

from __future__ import annotations

import numpy as np

from prunekit.core.coupling.groups import ChannelGroup, Member
from prunekit.core.errors import InputError
from prunekit.core.importance.inputs import Criterion, FloatArray, Inputs


def taylor(group: ChannelGroup, inputs: Inputs) -> FloatArray:
    """Change of the loss, to first order, when a channel goes: |Σ weight × gradient|.

    It is taken at the norms (gain and shift), where a group has any: the loss does not depend on
    the scale of the weights before a norm, so there the sum is zero whatever the channel is worth.
    Elsewhere it is taken at the weights and biases that make the channel.

    Raises:
        InputError: Gradients are missing.
    """
    if inputs.gradients is None:
        raise InputError("taylor needs gradients, got none; give data=, a loader of (inputs, targets) batches")
    gates = [m for m in group.members if m.role == "gain"] or list(inputs.weights(group))
    shifts = {m.layer: m for m in group.members if m.role == "shift"}
    parts = []
    for member in gates:
        change = _change(member, inputs)
        shift = shifts.get(member.layer)
        if shift is not None and member.role != "in" and np.array_equal(shift.indices, member.indices):
            change = change + _change(shift, inputs)
        parts.append(np.abs(change))
    return inputs.combine(parts)


def _change(member: Member, inputs: Inputs) -> FloatArray:
    change: FloatArray = (inputs.blocks(member) * inputs.blocks(member, inputs.gradients)).sum(axis=1)
    return change


CRITERION = Criterion(
    "taylor", "change of the loss to first order, from gradients (Molchanov et al. 2019)", taylor, needs="gradients"
)

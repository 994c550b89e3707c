"""What must be cut together: labels flow through a graph, and their components are the channel groups."""

from prunekit.core.coupling.couple import couple
from prunekit.core.coupling.groups import AxisForms, ChannelGroup, Coupling, FrozenGroup, Member
from prunekit.core.coupling.labels import LabelSpace

__all__ = ["AxisForms", "ChannelGroup", "Coupling", "FrozenGroup", "LabelSpace", "Member", "couple"]

"""Roll-outs of a search that decides a network's widths one after another, within a budget of MACs.

The environment itself is in :mod:`prunekit.core.rollouts.env`, which needs gymnasium; what is here does not.
"""

from prunekit.core.rollouts.decisions import TOLERANCE, Decisions
from prunekit.core.rollouts.wall import ActionWall, Limits, lower_bound

__all__ = ["TOLERANCE", "ActionWall", "Decisions", "Limits", "lower_bound"]

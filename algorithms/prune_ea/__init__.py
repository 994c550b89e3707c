"""PruneEA: an evolution of 0/1 channel lists towards the Pareto front of accuracy and cost."""

from prunekit.algorithms.prune_ea._settings import PruneEASettings
from prunekit.algorithms.prune_ea.prune_ea import PruneEA

__all__ = ["PruneEA", "PruneEASettings"]

"""How much each channel matters: one criterion per file, scored group by group."""

from prunekit.core.importance.registry import criteria
from prunekit.core.importance.score import NORMALIZATIONS, REDUCTIONS, layers_to_watch, needs, score

__all__ = ["NORMALIZATIONS", "REDUCTIONS", "criteria", "layers_to_watch", "needs", "score"]

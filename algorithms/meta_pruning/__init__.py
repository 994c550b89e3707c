"""MetaPruning: widths sought by evolution, scored with weights that a PruningNet generates."""

from prunekit.algorithms.meta_pruning._net import NET_FILE, NET_FOLDER
from prunekit.algorithms.meta_pruning._settings import MetaPruningSettings
from prunekit.algorithms.meta_pruning.meta_pruning import MetaPruning

__all__ = ["NET_FILE", "NET_FOLDER", "MetaPruning", "MetaPruningSettings"]

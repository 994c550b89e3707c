"""Channel pruning by LASSO and reconstruction (He, Zhang and Sun, ICCV 2017), as PocketFlow offers it."""

from prunekit.algorithms.channel_pruning.channel_pruning import ChannelPruning

__all__ = ["ChannelPruning"]

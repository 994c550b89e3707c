"""How a candidate is written down: published encodings, each to and from a PruningPlan."""

from prunekit.core.encoding.base import Encoding, Rank
from prunekit.core.encoding.channel_scale import SCALES, ChannelScaleEncoding
from prunekit.core.encoding.preserve_ratio import PreserveRatioEncoding
from prunekit.core.encoding.presets import eagleeye_layers, metapruning_genes
from prunekit.core.encoding.pruning_rate import PruningRateEncoding
from prunekit.core.encoding.zero_one import ZeroOneEncoding

__all__ = [
    "SCALES",
    "ChannelScaleEncoding",
    "Encoding",
    "PreserveRatioEncoding",
    "PruningRateEncoding",
    "Rank",
    "ZeroOneEncoding",
    "eagleeye_layers",
    "metapruning_genes",
]

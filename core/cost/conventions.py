"""Ways of counting: what prunekit means by parameters, MACs and FLOPs, and what five other systems mean.

Every op and parameter is counted under names such as ``"conv"`` or ``"batch_norm"`` (see
:mod:`prunekit.core.cost.counters`); a convention says how often each name counts in each figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError

__all__ = ["Convention", "conventions", "find_convention"]


@dataclass(frozen=True)
class Convention:
    """How often each counter counts in each figure.

    Attributes:
        name: What users call it.
        description: One line.
        params: Weights of the parameter counters.
        macs: Weights of the work counters in MACs.
        flops: Weights of the work counters in FLOPs.
    """

    name: str
    description: str
    params: Mapping[str, int]
    macs: Mapping[str, int]
    flops: Mapping[str, int]


_ALL_MACS = {"conv": 1, "linear": 1, "matmul": 1}
_CONV_FC = {"conv": 1, "linear": 1}
_ALL_PARAMS = {"weight": 1, "other": 1}
_META = {**_CONV_FC, "linear_bias": 1, "batch_norm": 1}

_TABLE = {
    c.name: c
    for c in (
        Convention(
            "prunekit",
            "all parameters; MACs of conv, linear, matmul and attention; FLOPs = 2 MACs + all other arithmetic",
            _ALL_PARAMS,
            _ALL_MACS,
            {
                **dict.fromkeys(_ALL_MACS, 2),
                "conv_bias": 1,
                "linear_bias": 1,
                "batch_norm": 2,
                "scale": 1,
                "activation": 1,
                "elementwise": 1,
                "layer_norm": 7,
                "softmax": 5,
                "reduce": 1,
                "average_pool": 1,
                "max_pool": 1,
                "resize": 1,
            },
        ),
        Convention(
            "eagleeye",
            "EagleEye: weights of conv and linear; MACs, which it calls FLOPs, of conv and linear",
            {"weight": 1},
            _CONV_FC,
            _CONV_FC,
        ),
        Convention(
            "metapruning",
            "MetaPruning, MobileNets: its FLOPs are MACs + linear bias + one per batch norm and average pool element",
            _ALL_PARAMS,
            _CONV_FC,
            {**_META, "average_pool": 1},
        ),
        Convention(
            "metapruning-resnet",
            "MetaPruning, ResNet: its FLOPs are MACs + linear bias + one per batch norm, ReLU and max pool element",
            _ALL_PARAMS,
            _CONV_FC,
            {**_META, "activation": 1, "max_pool": 1},
        ),
        Convention(
            "pocketflow",
            "PocketFlow: MACs, which it calls FLOPs, of conv alone",
            _ALL_PARAMS,
            {"conv": 1},
            {"conv": 1},
        ),
        Convention(
            "vega",
            "Vega (PruneEA): all parameters; MACs, which it calls FLOPs, of conv and linear",
            _ALL_PARAMS,
            _CONV_FC,
            _CONV_FC,
        ),
        Convention(
            "unipruning",
            "UniPruning: size of conv and linear with biases + four per batch norm channel (statistics included)",
            {"weight": 1, "bias": 1, "norm_channel": 4},
            _ALL_MACS,
            _ALL_MACS,
        ),
    )
}


def conventions() -> dict[str, str]:
    """Every convention with one line on what it counts.

    Example:
        >>> conventions()["pocketflow"]
        'PocketFlow: MACs, which it calls FLOPs, of conv alone'
    """
    return {c.name: c.description for c in _TABLE.values()}


def find_convention(convention: str | Convention) -> Convention:
    """The convention of that name.

    Raises:
        ConfigError: No convention has that name.
    """
    if isinstance(convention, Convention):
        return convention
    if convention not in _TABLE:
        raise ConfigError(f"convention must be a known name, got {convention!r}; {nearest(str(convention), _TABLE)}")
    return _TABLE[convention]

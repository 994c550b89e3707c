"""What takes tensors of any width: ops without sizes, and layers of PyTorch whose sizes a cut sets."""

from __future__ import annotations

from torch import nn

__all__ = ["SIZELESS", "follows_cuts"]

SIZELESS = frozenset(
    f"aten::{name}{end}"
    for name in [
        "relu", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "tanh", "mish", "softplus", "dropout",
        "feature_dropout", "add", "sub", "mul", "cat", "mean", "flatten", "permute", "transpose", "softmax",
        "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    ]
    for end in ("", "_")
)  # fmt: skip
"""Ops of aten whose whole numbers, if any, are axes and lengths of images."""

_LAYERS = frozenset(
    [
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Identity,
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish,
        nn.Hardsigmoid, nn.Mish, nn.Softplus, nn.Dropout, nn.Dropout2d, nn.Flatten,
        nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
        nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d,
    ]
)  # fmt: skip


def follows_cuts(module: nn.Module) -> bool:
    """Whether a module is a layer of PyTorch, as PyTorch has it, that does what its parameters' shapes say."""
    own = "forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks
    return type(module) in _LAYERS and not own

"""The layers that the zoo's networks share, padded and initialised as their twins in PyTorch."""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal, Normal

__all__ = ["GlobalAvgPool", "convolution", "linear", "projection"]


def convolution(in_channels: int, channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded by half its size on every side.

    Its weights are drawn after He et al. (2015), by fan-out.
    """
    return nn.Conv2d(
        in_channels,
        channels,
        size,
        stride,
        pad_mode="pad",
        padding=size // 2,
        group=groups,
        has_bias=False,
        weight_init=HeNormal(mode="fan_out", nonlinearity="relu"),
    )


def linear(in_channels: int, channels: int) -> nn.Dense:
    """A linear layer whose weights are small, around 0."""
    return nn.Dense(in_channels, channels, weight_init=Normal(0.01), bias_init="zeros")


def projection(in_channels: int, channels: int, stride: int) -> nn.SequentialCell:
    """A 1x1 convolution and batch norm, for a shortcut whose shape changes."""
    return nn.SequentialCell(convolution(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))


class GlobalAvgPool(nn.Cell):
    """Mean over all positions."""

    def construct(self, x: Tensor) -> Tensor:
        """Features ``(N, C)`` of ``(N, C, H, W)``."""
        return ops.mean(x, (2, 3))

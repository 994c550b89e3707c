"""MobileNets: V1 (Howard et al., 2017) and V2 (Sandler et al., 2018), also as MetaPruning (Liu et al., 2019) has it."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn

from prunekit.backend_mindspore.zoo._layers import GlobalAvgPool, convolution, linear
from prunekit.core._networks import (
    MOBILENET_V1,
    MOBILENET_V2_META_WIDTHS,
    MOBILENET_V2_WIDTHS,
    check_width,
    mobilenet_v2,
)

__all__ = ["MobileNetV1", "MobileNetV2", "mobilenetv1", "mobilenetv2", "mobilenetv2_metapruning"]


class SeparableConv(nn.Cell):
    """A depthwise 3x3 convolution and a pointwise one."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, in_channels, 3, stride, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = convolution(in_channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        """Features ``(N, channels, H / stride, W / stride)``."""
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


class MobileNetV1(nn.Cell):
    """A stem and thirteen separable convolutions."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, stem_stride: int = 2) -> None:
        """Build it with random weights.

        Args:
            num_classes: Outputs.
            in_channels: Channels of the images.
            width: Factor on all widths.
            stem_stride: Stride of the first convolution; 1 suits images of 32 pixels.

        Raises:
            InputError: ``width`` leaves a layer without channels.
        """
        super().__init__()
        check_width("mobilenetv1", width, 32)
        channels = int(32 * width)
        self.conv1 = convolution(in_channels, channels, 3, stem_stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        layers = []
        for base, stride in MOBILENET_V1:
            layers.append(SeparableConv(channels, int(base * width), stride))
            channels = int(base * width)
        self.layers = nn.SequentialCell(*layers)
        self.avgpool = GlobalAvgPool()
        self.linear = linear(channels, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        x = self.layers(self.relu(self.bn1(self.conv1(x))))
        return self.linear(self.avgpool(x))


class InvertedResidual(nn.Cell):
    """A 1x1 convolution that widens (unless ``widen`` is False), a depthwise and a 1x1 one."""

    def __init__(self, in_channels: int, mid: int, channels: int, stride: int, widen: bool) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, mid, 1) if widen else nn.Identity()
        self.bn1 = nn.BatchNorm2d(mid) if widen else nn.Identity()
        self.relu1 = nn.ReLU6() if widen else nn.Identity()
        self.conv2 = convolution(mid, mid, 3, stride, groups=mid)
        self.bn2 = nn.BatchNorm2d(mid)
        self.relu2 = nn.ReLU6()
        self.conv3 = convolution(mid, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.residual = stride == 1 and in_channels == channels

    def construct(self, x: Tensor) -> Tensor:
        """Features ``(N, channels, H / stride, W / stride)``."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        return x + y if self.residual else y


class MobileNetV2(nn.Cell):
    """A stem, seventeen inverted residuals in seven stages and a last convolution."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        stem_stride: int = 2,
        widths: tuple[int, ...] = MOBILENET_V2_WIDTHS,
        widen_first: bool = False,
    ) -> None:
        """Build it with random weights.

        Args:
            num_classes: Outputs.
            in_channels: Channels of the images.
            width: Factor on ``widths``, rounded to multiples of 8 as in the paper's code; 1 keeps them.
            stem_stride: Stride of the first convolution; 1 suits images of 32 pixels.
            widths: Channels of the stem and of the seven stages.
            widen_first: Whether the first block has a widening convolution (of factor 1) too.

        Raises:
            InputError: ``width`` leaves a layer without channels.
        """
        super().__init__()
        stem, blocks, last = mobilenet_v2(width, widths, widen_first)
        self.conv1 = convolution(in_channels, stem, 3, stem_stride)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu1 = nn.ReLU6()
        self.blocks = nn.SequentialCell(*(InvertedResidual(*block) for block in blocks))
        self.conv2 = convolution(blocks[-1][2], last, 1)
        self.bn2 = nn.BatchNorm2d(last)
        self.relu2 = nn.ReLU6()
        self.avgpool = GlobalAvgPool()
        self.fc = linear(last, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        x = self.blocks(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.fc(self.avgpool(x))


def mobilenetv1(**options: Any) -> MobileNetV1:
    """MobileNetV1; options are those of :class:`MobileNetV1`."""
    return MobileNetV1(**options)


def mobilenetv2(**options: Any) -> MobileNetV2:
    """MobileNetV2; options are those of :class:`MobileNetV2`."""
    return MobileNetV2(**options)


def mobilenetv2_metapruning(**options: Any) -> MobileNetV2:
    """The full network of MetaPruning's search: about 1.4 times as wide, and every block widens."""
    return MobileNetV2(**{"widths": MOBILENET_V2_META_WIDTHS, "widen_first": True, **options})

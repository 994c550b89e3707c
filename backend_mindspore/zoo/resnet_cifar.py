"""ResNets for small images (He et al., "Deep residual learning for image recognition", 2016, section 4.2).

Shortcuts are 1x1 convolutions with batch norm wherever the stride is not 1 or the width changes.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from prunekit.backend_mindspore.zoo._layers import GlobalAvgPool, convolution, linear, projection
from prunekit.core._networks import cifar_blocks

__all__ = ["CifarResNet", "resnet20", "resnet32", "resnet56"]


class CifarBlock(nn.Cell):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, project: bool) -> None:
        super().__init__()
        # before the convolutions, as the order of PocketFlow's ratio list has it
        self.downsample = projection(in_channels, channels, stride) if project else nn.Identity()
        self.conv1 = convolution(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        """Features ``(N, channels, H / stride, W / stride)``."""
        shortcut = self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Cell):
    """A stem and three stages of 16, 32 and 64 channels with ``(depth - 2) / 6`` blocks each."""

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3, first_projection: bool = False) -> None:
        """Build it with random weights.

        Args:
            depth: 20, 32, 44, 56, …
            num_classes: Outputs.
            in_channels: Channels of the images.
            first_projection: Also give the first block a convolution on its shortcut, as PocketFlow does.

        Raises:
            InputError: ``depth`` is not 6 n + 2.
        """
        super().__init__()
        blocks = cifar_blocks(depth)
        self.conv1 = convolution(in_channels, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, 1, first_projection)
        self.layer2 = _stage(16, 32, blocks, 2, True)
        self.layer3 = _stage(32, 64, blocks, 2, True)
        self.avgpool = GlobalAvgPool()
        self.fc = linear(64, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x))


def _stage(in_channels: int, channels: int, blocks: int, stride: int, project: bool) -> nn.SequentialCell:
    first = CifarBlock(in_channels, channels, stride, project)
    return nn.SequentialCell(first, *(CifarBlock(channels, channels, 1, False) for _ in range(blocks - 1)))


def resnet20(**options: int) -> CifarResNet:
    """ResNet-20; options are those of :class:`CifarResNet` without ``depth``."""
    return CifarResNet(20, **options)  # type: ignore[arg-type]


def resnet32(**options: int) -> CifarResNet:
    """ResNet-32."""
    return CifarResNet(32, **options)  # type: ignore[arg-type]


def resnet56(**options: int) -> CifarResNet:
    """ResNet-56."""
    return CifarResNet(56, **options)  # type: ignore[arg-type]

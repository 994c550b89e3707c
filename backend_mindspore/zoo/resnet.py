"""ResNet-18 and ResNet-50 for photographs (He et al., 2016), with torchvision's layer names.

As there, ResNet-50 has its stride in the 3x3 convolution.
"""

from __future__ import annotations

from mindspore import Tensor, nn

from prunekit.backend_mindspore.zoo._layers import GlobalAvgPool, convolution, linear, projection

__all__ = ["ResNet", "resnet18", "resnet50"]


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def construct(self, x: Tensor) -> Tensor:
        """Features ``(N, width, H / stride, W / stride)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Cell):
    """A 1x1, a 3x3 and a 1x1 convolution and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, 4 * width, 1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(in_channels, 4 * width, stride)

    def construct(self, x: Tensor) -> Tensor:
        """Features ``(N, 4 * width, H / stride, W / stride)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Cell):
    """A stem and four stages of 64, 128, 256 and 512 channels, times the block's expansion."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        """Build it with random weights."""
        super().__init__()
        self.conv1 = convolution(in_channels, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        # a border of zeros is what the pooling ignores too, since nothing behind the ReLU is below 0;
        # pad_mode="same" would put the border on the other side
        self.pad = nn.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))
        self.maxpool = nn.MaxPool2d(3, 2)
        self.layer1 = _stage(block, 64, 64, blocks[0], 1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, blocks[1], 2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, blocks[2], 2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, blocks[3], 2)
        self.avgpool = GlobalAvgPool()
        self.fc = linear(512 * block.expansion, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        x = self.maxpool(self.pad(self.relu(self.bn1(self.conv1(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x))


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.SequentialCell | None:
    return None if stride == 1 and in_channels == channels else projection(in_channels, channels, stride)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, width: int, blocks: int, stride: int
) -> nn.SequentialCell:
    rest = (block(width * block.expansion, width, 1) for _ in range(blocks - 1))
    return nn.SequentialCell(block(in_channels, width, stride), *rest)


def resnet18(**options: int) -> ResNet:
    """ResNet-18; options are ``num_classes`` and ``in_channels``."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet50(**options: int) -> ResNet:
    """ResNet-50; options are ``num_classes`` and ``in_channels``."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)

"""VGG-16 with batch norm (Simonyan and Zisserman, 2015), with one linear layer, for images of any size."""

from __future__ import annotations

from mindspore import Tensor, nn

from prunekit.backend_mindspore.zoo._layers import GlobalAvgPool, convolution, linear
from prunekit.core._networks import VGG16

__all__ = ["VGG", "vgg16"]


class VGG(nn.Cell):
    """Thirteen convolutions in five stages, each stage followed by a pooling."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        """Build it with random weights."""
        super().__init__()
        layers: list[nn.Cell] = []
        for stage in VGG16:
            for width in stage:
                layers += [convolution(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
            # "same" rounds up, which lets images of 8 to 28 pixels through all five
            layers.append(nn.MaxPool2d(2, 2, pad_mode="same"))
        self.features = nn.SequentialCell(*layers)
        self.avgpool = GlobalAvgPool()
        self.classifier = linear(in_channels, num_classes)

    def construct(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        return self.classifier(self.avgpool(self.features(x)))


def vgg16(**options: int) -> VGG:
    """VGG-16; options are those of :class:`VGG`."""
    return VGG(**options)

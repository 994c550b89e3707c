"""VGG-16 with batch norm (Simonyan and Zisserman, 2015), with one linear layer, for images of any size."""

from __future__ import annotations

from torch import Tensor, nn

from prunekit.backend_torch.zoo._init import initialise
from prunekit.core._networks import VGG16

__all__ = ["VGG", "vgg16"]


class VGG(nn.Module):
    """Thirteen convolutions in five stages, each stage followed by a pooling."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        """Build it with random weights."""
        super().__init__()
        layers: list[nn.Module] = []
        for stage in VGG16:
            for width in stage:
                layers += [
                    nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                in_channels = width
            # rounding up lets images of 8 to 28 pixels through all five
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(in_channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg16(**options: int) -> VGG:
    """VGG-16; options are those of :class:`VGG`."""
    return VGG(**options)

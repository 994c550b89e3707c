"""LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", 1998), with ReLU, max pools."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from prunekit.core._networks import lenet_side

__all__ = ["LeNet5", "lenet5"]


class LeNet5(nn.Module):
    """Two convolutions and three linear layers, for square images of at least 12 pixels."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        """Build it; the first linear layer is made for ``image_size``."""
        super().__init__()
        side = lenet_side(image_size)
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, image_size, image_size)``."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def lenet5(**options: int) -> LeNet5:
    """LeNet-5; options are those of :class:`LeNet5`."""
    return LeNet5(**options)

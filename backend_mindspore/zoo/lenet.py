"""LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", 1998), with ReLU, max pools."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from prunekit.core._networks import lenet_side

__all__ = ["LeNet5", "lenet5"]


class LeNet5(nn.Cell):
    """Two convolutions and three linear layers, for square images of at least 12 pixels."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        """Build it; the first linear layer is made for ``image_size``."""
        super().__init__()
        side = lenet_side(image_size)
        self.conv1 = nn.Conv2d(in_channels, 6, 5, pad_mode="pad", padding=2, has_bias=True)
        self.conv2 = nn.Conv2d(6, 16, 5, pad_mode="valid", has_bias=True)
        self.fc1 = nn.Dense(16 * side * side, 120)
        self.fc2 = nn.Dense(120, 84)
        self.fc3 = nn.Dense(84, num_classes)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2, 2)

    def construct(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, image_size, image_size)``."""
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.relu(self.fc1(ops.flatten(x)))
        return self.fc3(self.relu(self.fc2(x)))


def lenet5(**options: int) -> LeNet5:
    """LeNet-5; options are those of :class:`LeNet5`."""
    return LeNet5(**options)

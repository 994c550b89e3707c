"""Widths, strides and checks of the zoo's networks, which no framework has a say in."""

from __future__ import annotations

from prunekit.core.errors import InputError

__all__ = [
    "MOBILENET_V1",
    "MOBILENET_V2_META_WIDTHS",
    "MOBILENET_V2_WIDTHS",
    "VGG16",
    "check_width",
    "cifar_blocks",
    "lenet_side",
    "mobilenet_v2",
]

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the convolutions of each stage."""

MOBILENET_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Channels and stride of each separable convolution."""

MOBILENET_V2_WIDTHS = (32, 16, 24, 32, 64, 96, 160, 320)
"""Channels of the stem and of the seven stages."""

MOBILENET_V2_META_WIDTHS = (44, 22, 33, 44, 88, 132, 224, 448)
"""The same where MetaPruning's search begins, about 1.4 times as wide."""

_V2_REPEATS = (1, 2, 3, 4, 3, 3, 1)
_V2_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_V2_LAST = 1280


def lenet_side(image_size: int) -> int:
    """Height and width of what LeNet-5's first linear layer sees.

    Raises:
        InputError: The image is too small.
    """
    side = (image_size // 2 - 4) // 2
    if side < 1:
        raise InputError(f"image_size of lenet5 must be at least 12, got {image_size}; resize the images")
    return side


def cifar_blocks(depth: int) -> int:
    """Blocks in each of the three stages of a ResNet for small images.

    Raises:
        InputError: ``depth`` is not 6 n + 2.
    """
    if depth < 8 or depth % 6 != 2:
        raise InputError(f"depth of a CIFAR ResNet must be 6 n + 2, got {depth}; use 20, 32 or 56")
    return depth // 6


def check_width(name: str, width: float, base: int) -> None:
    """Check the factor on a network's widths, of which ``base`` is the least.

    Raises:
        InputError: It leaves a layer without channels, or is absurd.
    """
    if not isinstance(width, (int, float)) or not 1 / base <= width <= 16:
        raise InputError(f"width of {name} must lie in [1/{base}, 16], got {width!r}; 1.0 is the full network")


def mobilenet_v2(
    width: float, widths: tuple[int, ...], widen_first: bool
) -> tuple[int, list[tuple[int, int, int, int, bool]], int]:
    """Channels of MobileNetV2: of the stem, of each block, and of the last convolution.

    Returns:
        A block is (input channels, channels in its middle, output channels, stride, whether it widens).

    Raises:
        InputError: ``width`` leaves a layer without channels.
    """
    check_width("mobilenetv2", width, 8)
    if width != 1:
        widths = tuple(_round8(w * width) for w in widths)
    blocks: list[tuple[int, int, int, int, bool]] = []
    before = widths[0]
    for channels, repeats, stride in zip(widths[1:], _V2_REPEATS, _V2_STRIDES, strict=True):
        for i in range(repeats):
            first = not blocks
            mid = before if first else 6 * before
            blocks.append((before, mid, channels, stride if i == 0 else 1, not first or widen_first))
            before = channels
    return widths[0], blocks, max(_V2_LAST, _round8(_V2_LAST * width))


def _round8(value: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded

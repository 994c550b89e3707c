"""Networks of torchvision: classification, segmentation, detection, video and optical flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.core._names import nearest
from prunekit.core.errors import InputError
from prunekit.core.zoo import Image

__all__ = ["build_torchvision", "torchvision_example", "torchvision_image"]

_HOME = "torchvision.models."


def build_torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    """A network of torchvision without trained weights.

    Raises:
        InputError: The name is unknown, or ``in_channels`` is not 3.
    """
    models = import_torchvision().models
    home = _home(name)
    if options.get("in_channels", 3) != 3:
        raise InputError(
            f"torchvision's models take 3 channels, got in_channels={options['in_channels']} for {name!r}; "
            "use a model of the zoo or of timm, or repeat the channel"
        )
    options = {key: value for key, value in options.items() if key != "in_channels"}
    if name in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", True)  # silences a warning about the default
    if home in ("segmentation", "detection"):
        options.setdefault("weights_backbone", None)  # else it is downloaded
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def torchvision_image(name: str) -> Image:
    """Channels, height and width of an image for a network."""
    side = 299 if name == "inception_v3" else 224
    return 3, side, side


def torchvision_example(name: str, seed: int, options: dict[str, Any]) -> Any:
    """Inputs of a network that takes no batch of images ``(N, C, H, W)``; None for others.

    Detectors take a list of images, optical flow takes two batches, and video ``(N, C, T, H, W)``.
    """
    home = _home(name)
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random)

    if home == "detection":
        return ([drawn(3, 320, 320)],)
    if home == "optical_flow":
        return drawn(1, 3, 128, 128), drawn(1, 3, 128, 128)
    if home == "video":
        side = 224 if name.startswith(("mvit", "swin", "s3d")) else 112
        return drawn(1, 3, 16, side, side)
    return None


def _home(name: str) -> str:
    """The part of torchvision.models that a network is from (``"detection"``)."""
    models = import_torchvision().models
    known = models.list_models()
    if name not in known:
        raise InputError(f"a torchvision model must be a known name, got {name!r}; {nearest(name, known)}")
    return str(models.get_model_builder(name).__module__).removeprefix(_HOME).split(".")[0]

"""Networks of timm."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.core._names import nearest
from prunekit.core._optional import import_optional
from prunekit.core.errors import InputError
from prunekit.core.zoo import Image

__all__ = ["build_timm", "timm_image"]


def build_timm(name: str, options: dict[str, Any]) -> nn.Module:
    """A network of timm without trained weights.

    Raises:
        InputError: The name is unknown.
        MissingDependencyError: timm is not installed.
    """
    timm = _import_timm()
    if not timm.is_model(name):
        raise InputError(f"a timm model must be a known name, got {name!r}; {nearest(name, timm.list_models())}")
    renamed = {"in_chans" if key == "in_channels" else key: value for key, value in options.items()}
    model: nn.Module = timm.create_model(name, pretrained=False, **renamed)
    return model


def timm_image(name: str) -> Image | None:
    """Channels, height and width of an image for a network, where timm says so."""
    config = _import_timm().get_pretrained_cfg(name, allow_unregistered=True)
    return None if config is None else config.input_size


def _import_timm() -> Any:
    import_torchvision()  # timm imports it, and must find one that works
    return import_optional("timm", "models timm:NAME", "timm")

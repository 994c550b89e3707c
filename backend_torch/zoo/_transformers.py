"""Networks of Hugging Face transformers, from their configurations: nothing is downloaded."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import torch
from torch import nn

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.core._names import nearest
from prunekit.core.errors import InputError, MissingDependencyError
from prunekit.core.zoo import Image

__all__ = ["build_transformers", "transformers_example", "transformers_image"]

_TOKENS = 24


def build_transformers(name: str, options: dict[str, Any]) -> nn.Module:
    """A network with random weights, by the name of its class or of its type.

    Args:
        name: ``"BertForSequenceClassification"``, or ``"bert"`` for the bare encoder.
        options: Entries of its configuration.

    Raises:
        InputError: The name or an option is unknown.
        MissingDependencyError: transformers is not installed.
    """
    kind, config = _configured(name, options)
    model: nn.Module = kind(config) if kind is not None else _library().AutoModel.from_config(config)
    return model


def transformers_image(name: str) -> Image | None:
    """Channels, height and width of an image for a network; None for a network of text."""
    _, config = _configured(name, {})
    if not hasattr(config, "num_channels"):
        return None
    side = getattr(config, "image_size", 224)
    return config.num_channels, side, side


def transformers_example(name: str, seed: int, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Keyword inputs: images ``(1, C, H, W)``, or tokens ``(1, 24)`` with their mask."""
    _, config = _configured(name, options)
    random = torch.Generator().manual_seed(seed)
    if hasattr(config, "num_channels"):
        side = getattr(config, "image_size", 224)
        return {"pixel_values": torch.randn(1, config.num_channels, side, side, generator=random)}
    tokens = torch.randint(4, config.vocab_size, (1, _TOKENS), generator=random)
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return given | {"decoder_input_ids": tokens} if config.is_encoder_decoder else given


def _configured(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """The class (None for a type's bare model) and its configuration."""
    library = _library()
    types = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    kind = None
    if name in types:
        make = types[name]
    else:
        kind = getattr(library, name, None) if name.isidentifier() else None
        if not (isinstance(kind, type) and issubclass(kind, library.PreTrainedModel) and kind.config_class):
            raise InputError(
                "a transformers model must be the name of a class, such as BertForSequenceClassification, or of a "
                f"type, got {name!r}; {nearest(name, list(types))}"
            )
        make = kind.config_class
    known = make()
    options = {"num_labels" if key == "num_classes" else key: value for key, value in options.items()}
    wrong = [key for key in options if not hasattr(known, key)]
    if wrong:
        raise InputError(
            f"options of {name} must be entries of {type(known).__name__}, got {wrong[0]!r}; "
            f"{nearest(wrong[0], list(known.to_dict()))}"
        )
    return kind, make(**options)


def _library() -> Any:
    with contextlib.suppress(MissingDependencyError):  # most of its networks do without
        import_torchvision()  # transformers imports it, and must find one that works
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingDependencyError(
            "models transformers:NAME need transformers, which is not installed; run `pip install transformers`"
        ) from error

"""Networks of Hugging Face transformers, from their configurations: nothing is downloaded."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.core._names import nearest
from prunekit.core._optional import import_optional
from prunekit.core.errors import InputError, MissingDependencyError
from prunekit.core.zoo import Image

__all__ = ["build_transformers", "transformers_example", "transformers_image"]

_TOKENS = 24
_SIDE = 224


def build_transformers(name: str, options: dict[str, Any]) -> nn.Module:
    """A network with random weights, by the name of its class or of its type.

    Args:
        name: ``"BertForSequenceClassification"``, or ``"bert"`` for the bare encoder.
        options: Entries of its configuration.

    Raises:
        InputError: The name or an option is unknown, or they do not go together.
        MissingDependencyError: transformers is not installed.
    """
    kind, config = _configured(name, options)
    make = kind if kind is not None else _library().AutoModel.from_config
    model: nn.Module = _made(name, lambda: make(config))
    return model


def transformers_image(name: str) -> Image:
    """Channels, height and width of an image for a network.

    Raises:
        InputError: It takes other inputs.
    """
    _, config = _configured(name, {})
    image = _image(config)
    if image is None:
        raise InputError(
            f"the shape of an input must be that of an image, got transformers:{name}, which takes no images alone; "
            "take default_example, or give inputs of your own"
        )
    return image


def transformers_example(name: str, seed: int, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Keyword inputs: images ``(1, C, H, W)``, or tokens ``(1, 24)`` with their mask.

    Raises:
        InputError: The network takes neither images nor tokens alone.
    """
    _, config = _configured(name, options)
    random = torch.Generator().manual_seed(seed)
    image = _image(config)
    if image is not None:
        return {"pixel_values": torch.randn(1, *image, generator=random)}
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise InputError(
            f"an example must be an image or tokens, got transformers:{name}, whose {type(config).__name__} tells the "
            "size of neither; give inputs of your own to the functions of prunekit.backend_torch"
        )
    tokens = torch.randint(min(4, config.vocab_size - 1), config.vocab_size, (1, _TOKENS), generator=random)
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return given | {"decoder_input_ids": tokens} if config.is_encoder_decoder else given


def _image(config: Any) -> Image | None:
    """Channels, height and width, where a configuration is that of a network of images."""
    if not isinstance(getattr(config, "num_channels", None), int):
        return None
    side = getattr(config, "image_size", None) or _SIDE
    height, width = side if isinstance(side, tuple | list) else (side, side)
    return config.num_channels, height, width


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
    known = _made(name, make)
    options = {"num_labels" if key == "num_classes" else key: value for key, value in options.items()}
    wrong = [key for key in options if not hasattr(known, key)]
    if wrong:
        raise InputError(
            f"options of {name} must be entries of {type(known).__name__}, got {wrong[0]!r}; "
            f"{nearest(wrong[0], list(known.to_dict()))}"
        )
    return kind, _made(name, lambda: make(**options))


def _made(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # whatever its constructors raise
        text = str(error).strip()
        raise InputError(
            f"a transformers model must be one that transformers {_library().__version__} can build, got {name!r}: "
            f"{type(error).__name__}: {text.splitlines()[0] if text else ''}; give other options or another name"
        ) from error


def _library() -> Any:
    with contextlib.suppress(MissingDependencyError):  # most of its networks do without
        import_torchvision()  # transformers imports it, and must find one that works
    return import_optional("transformers", "models transformers:NAME", "transformers")

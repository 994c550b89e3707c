"""Models by name: prunekit's own, those of torchvision, timm and transformers, and the user's."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunekit.backend_torch.zoo import lenet, mobilenet, resnet, resnet_cifar, vgg
from prunekit.backend_torch.zoo._timm import build_timm, timm_image
from prunekit.backend_torch.zoo._torchvision import build_torchvision, torchvision_example, torchvision_image
from prunekit.backend_torch.zoo._transformers import build_transformers, transformers_example, transformers_image
from prunekit.core.zoo import Library, ModelEntry, Zoo

__all__ = ["ModelEntry", "build_model", "default_example", "default_input", "list_models"]


def list_models(contains: str = "") -> tuple[ModelEntry, ...]:
    """The networks of the zoo whose names contain a text, by name."""
    return _ZOO.list_models(contains)


def build_model(name: str, **options: Any) -> nn.Module:
    """A network with random weights, by name.

    Example:
        >>> build_model("resnet20", num_classes=10, in_channels=1).fc.out_features
        10

    Args:
        name: A name of :func:`list_models`; ``"torchvision:NAME"``; ``"timm:NAME"``; ``"transformers:NAME"``,
            the name of a class or of a type of network; or ``"package.module:function"``, a function of the
            user's own that returns a model. That last form imports and runs the user's code.
        options: What the network's builder takes: ``num_classes`` and ``in_channels`` for the zoo and
            timm, ``num_classes`` for torchvision, entries of the configuration for transformers.

    Raises:
        InputError: The name or an option is unknown, or the function returns no model.
        MissingDependencyError: torchvision, timm or transformers is needed and not installed.
    """
    model: nn.Module = _ZOO.build_model(name, **options)
    return model


def default_input(name: str, **options: Any) -> tuple[int, ...]:
    """Shape of an example input, e.g. ``(1, 3, 32, 32)``.

    Args:
        name: As in :func:`build_model`.
        options: Options of the build; ``in_channels`` and ``image_size`` are taken into account.

    Raises:
        InputError: The name is unknown, or is a function of the user's own, whose input only he knows.
    """
    return _ZOO.default_input(name, **options)


def default_example(name: str, seed: int = 0, **options: Any) -> Any:
    """Inputs of a network that takes no batch of images, as its library would give them; None for others."""
    return _ZOO.default_example(name, seed, **options)


_ZOO = Zoo(
    {
        "lenet5": lenet.lenet5,
        "vgg16": vgg.vgg16,
        "resnet20": resnet_cifar.resnet20,
        "resnet32": resnet_cifar.resnet32,
        "resnet56": resnet_cifar.resnet56,
        "resnet18": resnet.resnet18,
        "resnet50": resnet.resnet50,
        "mobilenetv1": mobilenet.mobilenetv1,
        "mobilenetv2": mobilenet.mobilenetv2,
        "mobilenetv2_metapruning": mobilenet.mobilenetv2_metapruning,
    },
    nn.Module,
    "torch.nn.Module",
    {
        "torchvision": Library(build_torchvision, torchvision_image, torchvision_example),
        "timm": Library(build_timm, timm_image),
        "transformers": Library(build_transformers, transformers_image, transformers_example),
    },
)

"""Models by name: prunekit's own, those of mindcv, and the user's."""

from __future__ import annotations

import importlib
from typing import Any

import mindspore as ms
from mindspore import nn

from prunekit.backend_mindspore._mindir import first_lines
from prunekit.backend_mindspore.zoo import lenet, mobilenet, resnet, resnet_cifar, vgg
from prunekit.core._names import nearest
from prunekit.core._optional import import_optional
from prunekit.core.errors import InputError
from prunekit.core.zoo import Image, Library, ModelEntry, Zoo

__all__ = ["ModelEntry", "build_model", "default_input", "list_models"]

# where mindcv says nothing, or what its networks do not take
_SIDES = {"crossvit": 240, "inception": 299, "pnasnet": 331, "swinv2": 256, "xception": 299}


def list_models(contains: str = "") -> tuple[ModelEntry, ...]:
    """The networks of the zoo whose names contain a text, by name."""
    return _ZOO.list_models(contains)


def build_model(name: str, **options: Any) -> nn.Cell:
    """A network with random weights, by name.

    Example:
        >>> build_model("resnet20", num_classes=10, in_channels=1).fc.out_channels
        10

    Args:
        name: A name of :func:`list_models`; ``"mindcv:NAME"``; or ``"package.module:function"``, a function
            of the user's own that returns a model. That last form imports and runs the user's code.
        options: What the network's builder takes: ``num_classes`` and ``in_channels`` for the zoo and mindcv.

    Raises:
        InputError: The name or an option is unknown, or the function returns no model.
        MissingDependencyError: mindcv is needed and not installed.
    """
    return _ZOO.build_model(name, **options)


def default_input(name: str, **options: Any) -> tuple[int, ...]:
    """Shape of an example input, e.g. ``(1, 3, 32, 32)``.

    Args:
        name: As in :func:`build_model`.
        options: Options of the build; ``in_channels`` and ``image_size`` are taken into account.

    Raises:
        InputError: The name is unknown, or is a function of the user's own, whose input only he knows.
    """
    return _ZOO.default_input(name, **options)


def _build_mindcv(name: str, options: dict[str, Any]) -> nn.Cell:
    mindcv = _import_mindcv()
    if not mindcv.is_model(name):
        raise InputError(f"a mindcv model must be a known name, got {name!r}; {nearest(name, mindcv.list_models())}")
    try:
        return mindcv.create_model(name, pretrained=False, **options)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise InputError(
            f"a mindcv model must be one that mindcv {mindcv.__version__} can build with MindSpore {ms.__version__}, "
            f"got {name!r}: {type(error).__name__}: {first_lines(error)}; try another of its family"
        ) from error


def _mindcv_image(name: str) -> Image | None:
    _import_mindcv()
    side = next((side for prefix, side in _SIDES.items() if name.startswith(prefix)), None)
    if side is not None:
        return 3, side, side
    registry = importlib.import_module("mindcv.models.registry")
    return registry.get_pretrained_cfg_value(name, "input_size")


def _import_mindcv() -> Any:
    return import_optional("mindcv", "models mindcv:NAME", "mindcv")


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
    nn.Cell,
    "mindspore.nn.Cell",
    {"mindcv": Library(_build_mindcv, _mindcv_image)},
)

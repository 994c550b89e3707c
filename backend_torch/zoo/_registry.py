"""Models by name: prunekit's own, those of torchvision and timm, and the user's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.backend_torch.zoo import lenet, mobilenet, resnet, resnet_cifar, vgg
from prunekit.core._names import load_object, nearest
from prunekit.core.errors import InputError, MissingDependencyError

__all__ = ["ModelEntry", "build_model", "default_input", "list_models"]


@dataclass(frozen=True)
class ModelEntry:
    """A network of the zoo.

    Attributes:
        name: What :func:`build_model` takes.
        description: One line.
        image: Channels, height and width that it is made for.
        classes: Default number of classes.
    """

    name: str
    description: str
    image: tuple[int, int, int]
    classes: int


_Builder = Callable[..., nn.Module]
_SMALL, _LARGE = (3, 32, 32), (3, 224, 224)

_ZOO: dict[str, tuple[ModelEntry, _Builder]] = {
    entry.name: (entry, builder)
    for entry, builder in (
        (ModelEntry("lenet5", "LeNet-5 for grey images", (1, 28, 28), 10), lenet.lenet5),
        (ModelEntry("vgg16", "VGG-16 with batch norm and one linear layer", _SMALL, 10), vgg.vgg16),
        (ModelEntry("resnet20", "ResNet-20 for small images, 1x1 shortcuts", _SMALL, 10), resnet_cifar.resnet20),
        (ModelEntry("resnet32", "ResNet-32 for small images, 1x1 shortcuts", _SMALL, 10), resnet_cifar.resnet32),
        (ModelEntry("resnet56", "ResNet-56 for small images, 1x1 shortcuts", _SMALL, 10), resnet_cifar.resnet56),
        (ModelEntry("resnet18", "ResNet-18 with torchvision's layer names", _LARGE, 1000), resnet.resnet18),
        (ModelEntry("resnet50", "ResNet-50 with torchvision's layer names", _LARGE, 1000), resnet.resnet50),
        (ModelEntry("mobilenetv1", "MobileNetV1, any width", _LARGE, 1000), mobilenet.mobilenetv1),
        (ModelEntry("mobilenetv2", "MobileNetV2, any width", _LARGE, 1000), mobilenet.mobilenetv2),
        (
            ModelEntry("mobilenetv2_metapruning", "MobileNetV2 at MetaPruning's full widths", _LARGE, 1000),
            mobilenet.mobilenetv2_metapruning,
        ),
    )
}


def list_models(contains: str = "") -> tuple[ModelEntry, ...]:
    """The networks of the zoo whose names contain a text, by name."""
    return tuple(_ZOO[name][0] for name in sorted(_ZOO) if contains in name)


def build_model(name: str, **options: Any) -> nn.Module:
    """A network with random weights, by name.

    Example:
        >>> build_model("resnet20", num_classes=10, in_channels=1).fc.out_features
        10

    Args:
        name: A name of :func:`list_models`; ``"torchvision:NAME"``; ``"timm:NAME"``; or
            ``"package.module:function"``, a function of the user's own that returns a model. That last
            form imports and runs the user's code.
        options: What the network's builder takes: ``num_classes`` and ``in_channels`` for the zoo and
            timm, ``num_classes`` for torchvision.

    Raises:
        InputError: The name or an option is unknown, or the function returns no model.
        MissingDependencyError: torchvision or timm is needed and not installed.
    """
    kind, colon, inner = name.partition(":")
    if not colon:
        if name not in _ZOO:
            hint = nearest(name, [*_ZOO, "torchvision:NAME", "timm:NAME", "package.module:function"])
            raise InputError(f"a model must be a known name, got {name!r}; {hint}")
        return _call(name, _ZOO[name][1], options)
    if kind == "torchvision":
        return _build_torchvision(inner, options)
    if kind == "timm":
        return _build_timm(inner, options)
    return _call(name, load_object(name, "model function"), options)


def default_input(name: str, **options: Any) -> tuple[int, ...]:
    """Shape of an example input, e.g. ``(1, 3, 32, 32)``.

    Args:
        name: As in :func:`build_model`.
        options: Options of the build; ``in_channels`` and ``image_size`` are taken into account.

    Raises:
        InputError: The name is unknown, or is a function of the user's own, whose input only he knows.
    """
    kind, colon, inner = name.partition(":")
    if not colon:
        if name not in _ZOO:
            raise InputError(f"a model must be a known name, got {name!r}; {nearest(name, _ZOO)}")
        channels, height, width = _ZOO[name][0].image
    elif kind == "torchvision":
        side = 299 if inner == "inception_v3" else 224
        channels, height, width = 3, side, side
    elif kind == "timm":
        timm = _import_timm()
        config = timm.get_pretrained_cfg(inner, allow_unregistered=True)
        channels, height, width = config.input_size if config is not None else _LARGE
    else:
        raise InputError(
            f"the input of a model of your own must be given, got {name!r} alone; "
            "give its shape, as in `--input 1,3,224,224`"
        )
    side = options.get("image_size", options.get("img_size"))
    if side is not None:
        height = width = int(side)
    return (1, int(options.get("in_channels", options.get("in_chans", channels))), height, width)


def _build_torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    models = import_torchvision().models
    known = models.list_models()
    if name not in known:
        raise InputError(f"a torchvision model must be a known name, got {name!r}; {nearest(name, known)}")
    if options.get("in_channels", 3) != 3:
        raise InputError(
            f"torchvision's models take 3 channels, got in_channels={options['in_channels']} for {name!r}; "
            "use a model of the zoo or of timm, or repeat the channel"
        )
    options = {key: value for key, value in options.items() if key != "in_channels"}
    if name in ("googlenet", "inception_v3"):
        options.setdefault("init_weights", True)  # silences a warning about the default
    if models.get_model_builder(name).__module__.startswith(("torchvision.models.seg", "torchvision.models.det")):
        options.setdefault("weights_backbone", None)  # else it is downloaded
    return _call(f"torchvision:{name}", lambda **rest: models.get_model(name, weights=None, **rest), options)


def _build_timm(name: str, options: dict[str, Any]) -> nn.Module:
    timm = _import_timm()
    if not timm.is_model(name):
        raise InputError(f"a timm model must be a known name, got {name!r}; {nearest(name, timm.list_models())}")
    renamed = {"in_chans" if key == "in_channels" else key: value for key, value in options.items()}
    return _call(f"timm:{name}", lambda **rest: timm.create_model(name, pretrained=False, **rest), renamed)


def _import_timm() -> Any:
    try:
        import_torchvision()  # timm imports it, and must find one that works
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise MissingDependencyError(
            "models timm:NAME need timm, which is not installed; run `pip install timm`"
        ) from error


def _call(name: str, builder: _Builder, options: dict[str, Any]) -> nn.Module:
    try:
        model = builder(**options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise InputError(f"options of {name} must be ones it takes, got {sorted(options)} ({error})") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} must return a torch.nn.Module, got {type(model).__name__}")
    return model

"""Models by name: prunekit's own, those of torchvision and timm, and the user's."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.backend_torch.zoo import lenet, mobilenet, resnet, resnet_cifar, vgg
from prunekit.core._names import nearest
from prunekit.core.errors import InputError, MissingDependencyError
from prunekit.core.zoo import Image, Library, ModelEntry, Zoo

__all__ = ["ModelEntry", "build_model", "default_input", "list_models"]


def list_models(contains: str = "") -> tuple[ModelEntry, ...]:
    """The networks of the zoo whose names contain a text, by name."""
    return _ZOO.list_models(contains)


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
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _torchvision_image(name: str) -> Image:
    side = 299 if name == "inception_v3" else 224
    return 3, side, side


def _build_timm(name: str, options: dict[str, Any]) -> nn.Module:
    timm = _import_timm()
    if not timm.is_model(name):
        raise InputError(f"a timm model must be a known name, got {name!r}; {nearest(name, timm.list_models())}")
    renamed = {"in_chans" if key == "in_channels" else key: value for key, value in options.items()}
    model: nn.Module = timm.create_model(name, pretrained=False, **renamed)
    return model


def _timm_image(name: str) -> Image | None:
    config = _import_timm().get_pretrained_cfg(name, allow_unregistered=True)
    return None if config is None else config.input_size


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
        "torchvision": Library(_build_torchvision, _torchvision_image),
        "timm": Library(_build_timm, _timm_image),
    },
)

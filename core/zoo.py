"""Networks by name: what a backend's zoo lists, how a name is looked up, and which input it takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from prunekit.core._names import nearest
from prunekit.core._user_code import load_user_object
from prunekit.core._working_folder import working_folder
from prunekit.core.errors import InputError, PrunekitError

__all__ = ["ENTRIES", "LIBRARIES", "Image", "Library", "ModelEntry", "Zoo", "is_own"]

Image = tuple[int, int, int]
_SMALL, _LARGE = (3, 32, 32), (3, 224, 224)
_OUTSIDE = re.compile(
    r"pretrained|checkpoint_path|cache_dir|^weights|name_or_path|auto_map|trust_remote_code|quantization_config"
)
_OWN = "package.module:function"


@dataclass(frozen=True)
class ModelEntry:
    """A network of the zoo.

    Attributes:
        name: What ``build_model`` takes.
        description: One line.
        image: Channels, height and width that it is made for.
        classes: Default number of classes.
    """

    name: str
    description: str
    image: Image
    classes: int


ENTRIES: tuple[ModelEntry, ...] = (
    ModelEntry("lenet5", "LeNet-5 for grey images", (1, 28, 28), 10),
    ModelEntry("vgg16", "VGG-16 with batch norm and one linear layer", _SMALL, 10),
    ModelEntry("resnet20", "ResNet-20 for small images, 1x1 shortcuts", _SMALL, 10),
    ModelEntry("resnet32", "ResNet-32 for small images, 1x1 shortcuts", _SMALL, 10),
    ModelEntry("resnet56", "ResNet-56 for small images, 1x1 shortcuts", _SMALL, 10),
    ModelEntry("resnet18", "ResNet-18 with torchvision's layer names", _LARGE, 1000),
    ModelEntry("resnet50", "ResNet-50 with torchvision's layer names", _LARGE, 1000),
    ModelEntry("mobilenetv1", "MobileNetV1, any width", _LARGE, 1000),
    ModelEntry("mobilenetv2", "MobileNetV2, any width", _LARGE, 1000),
    ModelEntry("mobilenetv2_metapruning", "MobileNetV2 at MetaPruning's full widths", _LARGE, 1000),
)


LIBRARIES = {
    "torchvision": ("torch", "any network of torchvision"),
    "timm": ("torch", "any network of timm"),
    "transformers": ("torch", "any network of Hugging Face transformers, by its class or its type"),
    "mindcv": ("mindspore", "any network of mindcv"),
}
"""The libraries whose networks go by ``LIBRARY:NAME``: the backend that builds them, and a line on them."""


def is_own(name: str) -> bool:
    """Whether a name is that of a function of the user's own."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind not in LIBRARIES


@dataclass(frozen=True)
class Library:
    """Another package's networks, named ``"library:NAME"``.

    Attributes:
        build: The network of a name, given the options as a dict.
        image: Channels, height and width that the network of a name is made for; None if it does not say.
        example: The inputs of a network that takes no batch of images, of its name, a seed and the options; None
            for one that does.
    """

    build: Callable[[str, dict[str, Any]], Any]
    image: Callable[[str], Image | None]
    example: Callable[[str, int, dict[str, Any]], Any] = lambda name, seed, options: None


def _refuse_outside(name: str, options: Any) -> None:
    """Make sure that no option has a library read a file, fetch something, or run code that it fetches.

    Raises:
        InputError: One would, at any depth.
    """
    queue = [options]
    while queue:
        here = queue.pop()
        if isinstance(here, (list, tuple)):
            queue.extend(here)
        if not isinstance(here, Mapping):
            continue
        for key, value in here.items():
            queue.append(value)
            # kernels and experts by the name of a repository are fetched and run
            foreign = str(key).endswith("_implementation") and isinstance(value, str) and not value.isidentifier()
            if foreign or (value and _OUTSIDE.search(str(key))):
                raise InputError(
                    f"networks are built from numbers alone, nothing is read or fetched, got {key}={str(value)[:60]!r} "
                    f"for {name}; leave it out, and name trained weights as the run's weights"
                )


class Zoo:
    """The networks that one backend builds by name: its own, those of libraries, and the user's."""

    def __init__(
        self, builders: Mapping[str, Callable[..., Any]], kind: type, kind_name: str, libraries: Mapping[str, Library]
    ) -> None:
        """Name what can be built.

        Args:
            builders: The function for each entry's name.
            kind: Class that every network is an instance of.
            kind_name: What messages call it.
            libraries: Other packages by the prefix of their names.
        """
        self._builders = dict(builders)
        self._entries = {entry.name: entry for entry in ENTRIES if entry.name in self._builders}
        self._kind, self._kind_name = kind, kind_name
        self._libraries = dict(libraries)

    def list_models(self, contains: str = "") -> tuple[ModelEntry, ...]:
        """The networks of the zoo whose names contain a text, by name."""
        return tuple(self._entries[name] for name in sorted(self._entries) if contains in name)

    def build_model(self, name: str, **options: Any) -> Any:
        """A network with random weights, by name.

        Raises:
            InputError: The name or an option is unknown, or the function returns no model.
            MissingDependencyError: The library is needed and not installed.
        """
        library, inner = self._look_up(name)
        if library is not None:
            _refuse_outside(name, options)
            return self.call(name, lambda **rest: library.build(inner, rest), options, known=True)
        if name in self._entries:
            return self.call(name, self._builders[name], options, known=True)
        with working_folder():  # a function may import on its own
            return self.call(name, load_user_object(name, "model function"), options)

    def default_input(self, name: str, **options: Any) -> tuple[int, ...]:
        """Shape of an example input, e.g. ``(1, 3, 32, 32)``; ``in_channels`` and ``image_size`` count.

        Raises:
            InputError: The name is unknown, its network takes no images, or it is a function of the user's own, whose
                input only he knows.
        """
        library, inner = self._look_up(name)
        if library is not None:
            channels, height, width = library.image(inner) or _LARGE
        elif name in self._entries:
            channels, height, width = self._entries[name].image
        else:
            raise InputError(
                f"the input of a model of your own must be given, got {name!r} alone; "
                "give its shape, as in `--input 1,3,224,224`"
            )
        side = options.get("image_size", options.get("img_size"))
        if side is not None:
            height, width = map(int, side if isinstance(side, (tuple, list)) else (side, side))
        return (1, int(options.get("in_channels", options.get("in_chans", channels))), height, width)

    def default_example(self, name: str, seed: int = 0, **options: Any) -> Any:
        """Inputs of a library's network that takes no batch of images; None for others.

        Raises:
            InputError: The name or an option is unknown.
        """
        library, inner = self._look_up(name)
        if library is None:
            return None
        _refuse_outside(name, options)
        return library.example(inner, seed, options)

    def call(self, name: str, builder: Callable[..., Any], options: Mapping[str, Any], *, known: bool = False) -> Any:
        """What a builder makes of the options, checked.

        Args:
            name: What messages call it.
            builder: The function.
            options: Its keyword arguments.
            known: Whether it is not the user's own, so that its failures are due to the options.

        Raises:
            InputError: It does not take an option, or returns something else than a network.
        """
        _check_call(name, builder, options, self._kind)
        try:
            model = builder(**options)
        except TypeError as error:
            if not known and "argument" not in str(error):
                raise
            raise InputError(f"options of {name} must be ones it takes, got {sorted(options)} ({error})") from error
        except PrunekitError:
            raise
        except Exception as error:  # whatever libraries raise
            if not known:
                raise
            said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise InputError(
                f"options of {name} must be ones it can be built with, got {str(dict(options))[:200]} ({said}); "
                "change them"
            ) from error
        if not isinstance(model, self._kind):
            raise InputError(
                f"{name} must return a {self._kind_name}, got {type(model).__name__}; have it return the network"
            )
        return model

    def _look_up(self, name: str) -> tuple[Library | None, str]:
        """The library, if it is one's network, and the name in it."""
        kind, colon, inner = name.partition(":")
        _check_name(name, self._libraries)
        if not colon and name not in self._entries:
            known = [*self._entries, *(f"{prefix}:NAME" for prefix in self._libraries), _OWN]
            raise InputError(f"a model must be a known name, got {name!r}; {nearest(name, known)}")
        return (self._libraries.get(kind) if colon else None), inner


def _check_name(name: str, libraries: Container[str]) -> None:
    """Refuse names that look like others than they are, with what was probably meant.

    Raises:
        InputError: The name is that of a file, or of a network that another backend builds.
    """
    kind, colon, inner = name.partition(":")
    file = PurePath(kind)
    if file.suffix == ".py" or len(file.parts) > 1:
        module = ".".join(part for part in file.with_suffix("").parts if part not in ("/", "..", "."))
        raise InputError(
            f"a function of your own must be written as package.module:function, got {name!r}; "
            f"write {module}:{inner or 'FUNCTION'}"
        )
    if not colon and "." in name:
        module, _, last = name.rpartition(".")
        raise InputError(
            f"a function of your own must be written as package.module:function, got {name!r}; write {module}:{last}"
        )
    if colon and kind in LIBRARIES and kind not in libraries:
        backend, _ = LIBRARIES[kind]
        raise InputError(f"{kind}:NAME is built by the {backend} backend, got {name!r}; add --backend {backend}")


def _check_call(name: str, builder: Any, options: Mapping[str, Any], kind: type) -> None:
    """Make sure that a builder is one, and takes the options.

    Raises:
        InputError: It is a network already, or an option is missing or unknown.
    """
    if isinstance(builder, kind):
        raise InputError(
            f"{name} must be a function or a class that builds the network, got a {type(builder).__name__} that is "
            "built already; write a function that returns one"
        )
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):  # of a class written in C, or no function at all
        return
    needed = [
        p.name for p in signature.parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in options
    ]  # fmt: skip
    if needed:
        raise InputError(
            f"{name} must be given what it has no default for, got no {', '.join(needed)}; "
            f"add --set {needed[0]}=VALUE, in a configuration model.options.{needed[0]}"
        )

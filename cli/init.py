"""A first configuration: every key with what it means, those that matter set and the others as comments."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from prunekit.cli._prune_keys import PruneKeys
from prunekit.cli._yaml import parse
from prunekit.cli.config import METHODS, OWN_KEYS, RunConfig, list_configs
from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_algorithm, get_backend
from prunekit.core.zoo import is_own

__all__ = ["first_config"]

_SMALL = 64  # pixels; larger images come from a folder
_WIDTH = 100
_FIXED = ("lenet5",)  # networks that take images of one size
_RECIPES = ("training", "finetune", "recover")
_HEAD = """{title}
Made by `{command}`. Start it with `prunekit run {file}`.
Keys that are commented out show the value that is taken without them."""
_OWN_INPUT = """
The network is given the images of `data` as they are, here grey ones of 28x28 or, where Fashion-MNIST is not
installed, of 8x8. Set `data` to such as it takes, or write this file with `--input 3,224,224` or whatever it takes."""


def first_config(
    method: str,
    model: str,
    backend: str,
    *,
    image: Sequence[int] | None = None,
    file: str = "prunekit.yml",
    command: str = "",
) -> str:
    """A commented YAML file that ``prunekit run`` takes.

    Args:
        method: Name of a method (:data:`prunekit.cli.config.METHODS`).
        model: Name of a network, as in :class:`prunekit.cli.config.ModelSection`.
        backend: Name of a backend.
        image: Channels, height and width that the network takes; by default what it is made for. What a function
            of the user's own takes is not known.
        file: Where the text will lie, for its first lines.
        command: What made it, for its first lines.

    Raises:
        ConfigError: There is no such method, or its name is misspelt.
        InputError: There is no such model or backend.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be a known name, got {method!r}; {nearest(method, METHODS)}")
    given = _start(method, model, backend, image)
    head = _HEAD.format(title=_capital(METHODS[method]), command=command or "prunekit init", file=file)
    if is_own(model) and image is None:
        head += _OWN_INPUT
    parts = [*(f"# {line}" for line in head.splitlines()), ""]
    for name, field in RunConfig.model_fields.items():
        kind = Recipe if name in _RECIPES else field.annotation
        if name == "method":
            parts += [*_comment(_capital(METHODS[method])), "method:", f"  name: {method}"]
            parts += _keys(_settings(method), given[name], leave=OWN_KEYS if method == "uni_pruning" else ())
        elif kind is Recipe or (isinstance(kind, type) and issubclass(kind, BaseModel)):
            parts += _section(name, kind, given.get(name))
        else:
            parts += _comment(documented(RunConfig)[name])
            parts.append(_line(name, given.get(name, field.default), off=name not in given))
        parts.append("")
    return "\n".join(parts)


def _settings(method: str) -> Any:
    """The class of a method's keys, where they are known."""
    if method in ("prune", "none"):
        return PruneKeys if method == "prune" else None
    return getattr(get_algorithm(method), "Settings", None)


def _section(name: str, kind: type, given: Mapping[str, Any] | None) -> Iterator[str]:
    """A section; recipes have the same keys, which the first of them shows."""
    yield from _comment(documented(RunConfig).get(name) or _first_sentence(kind))
    if kind is Recipe and name != _RECIPES[0]:
        yield "# Its keys are those of training."
        if given:
            yield from [f"{name}:", *(f"  {_line(*item)}" for item in given.items())]
        else:
            yield _line(name, {"epochs": RunConfig.model_fields[name].default.epochs}, off=True)
    else:
        yield f"{name}:" if given else f"# {name}:"
        yield from _keys(kind, given or {})


def _start(method: str, model: str, backend: str, image: Sequence[int] | None) -> dict[str, Any]:
    """Values to begin with: those of a ready configuration of the method, fitted to the model."""
    chosen: Any = get_backend(backend)
    own = is_own(model)
    taken = image or (() if own else chosen.default_input(model)[1:])
    small = len(taken) != 3 or taken[-1] < _SMALL
    ready = list_configs()
    names = {"uni_pruning": "quickstart", "none": "prune_resnet20"}
    given: dict[str, Any] = parse(ready[names.get(method, f"{method}_resnet20")].read_text(encoding="utf-8"), method)
    if not small:
        larger: dict[str, Any] = parse(ready["eagle_eye_resnet50_imagenet"].read_text(encoding="utf-8"), method)
        given |= {key: larger[key] for key in ("data", "training", "finetune", "latency")}
        given["data"] = {"root": "path/to/images", **given["data"]}
    if image or own or model in _FIXED:
        given["data"] = {**given["data"], **_data(taken, small)}
    given["data"] = {key: value for key, value in given["data"].items() if value is not None}
    given |= {"backend": backend, "model": {"name": model}}
    keys = given.pop("method")
    keys.pop("name")
    given["method"] = {} if method == "none" else keys
    if model != "resnet20":
        given["method"].pop("length", None)  # bits: one per channel of another network
    return given


def _data(image: Sequence[int], small: bool) -> dict[str, Any]:
    """Images of a shape; those of an own network, which no option fits to the data, as they are."""
    if not image:
        return {"size": None}
    channels, *_, side = image
    if channels == 1:
        return {"name": "fashion-mnist-or-digits", "root": None, "size": side}
    if small and channels == 3:
        return {"name": "cifar10", "root": "path/to/images", "size": None if side == 32 else side}
    return {"name": "imagefolder", "root": "path/to/images", "size": side}


def _keys(kind: Any, given: Mapping[str, Any], *, leave: Container[str] = ()) -> Iterator[str]:
    """The keys of a section, each under its comment."""
    if kind is None:
        return
    texts = documented(kind)
    for name, default in _defaults(kind).items():
        if name in leave:
            continue
        yield from (f"  {line}" for line in _comment(texts.get(name, "")))
        yield f"  {_line(name, given.get(name, default), off=name not in given)}"


def _defaults(kind: Any) -> dict[str, Any]:
    if kind is Recipe:
        return Recipe().to_mapping()
    return {name: None if field.is_required() else field.default for name, field in kind.model_fields.items()}


def _line(name: str, value: Any, off: bool = False) -> str:
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("...\n").strip()
    return f"{'# ' if off else ''}{name}: {text}"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]


def _first_sentence(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def documented(kind: type) -> dict[str, str]:
    """What the ``Attributes`` section of a class's docstring says of each, without markup."""
    found: dict[str, str] = {}
    name = ""
    _, _, attributes = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    for line in attributes.splitlines():
        if not line.startswith(" "):
            break
        key, colon, rest = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon and key.isidentifier():
            name = key
            found[name] = rest
        else:
            found[name] = f"{found[name]} {line.strip()}"
    return {key: re.sub(r":\w+:(?=`)|``(?=`)|\*\*", "", text).replace("``", "`") for key, text in found.items()}

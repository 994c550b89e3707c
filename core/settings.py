"""Settings checked by pydantic, its complaints in prunekit's words: the rule, the value, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError

__all__ = ["Section", "check", "first_difference"]

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list such as [1, 2]",
    "dict_type": "a section of keys and values",
    "model_type": "a section of keys and values",
    "model_attributes_type": "a section of keys and values",
    "none_required": "null",
    "finite_number": "a finite number",
}
_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


class Section(BaseModel):
    """A part of a configuration: no unknown keys, no silent change of type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def check(model: type[BaseModel], data: Any, where: str) -> Any:
    """``data`` as an instance of ``model``.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or size.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = list(dict.fromkeys(_sentence(model, data, entry) for entry in error.errors()))
        raise ConfigError(f"{where}: " + "\n".join(lines[:5])) from None


def first_difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """Dotted name of the first key at which two configurations differ, as JSON has them; None where none does.

    Example:
        >>> first_difference({"seed": 0, "data": {"size": 8}}, {"seed": 0, "data": {"size": 14}})
        'data.size'
    """
    flat_one, flat_two = dict(_flat(one)), dict(_flat(two))
    missing = object()
    keys = sorted({*flat_one, *flat_two})
    return next((k for k in keys if flat_one.get(k, missing) != flat_two.get(k, missing)), None)


def _flat(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", json.loads(json.dumps(value))


def _sentence(model: type[BaseModel], data: Any, entry: Mapping[str, Any]) -> str:
    kind, value, context = entry["type"], entry.get("input"), entry.get("ctx", {})
    path = _path(data, entry["loc"], missing=kind in ("missing", "union_tag_not_found"))
    name = ".".join(path) or "a configuration"
    if kind == "extra_forbidden":
        parent = ".".join(path[:-1])
        known = _keys(model, entry["loc"][:-1])
        inside = f"{parent!r} may hold known keys only" if parent else "a configuration may hold known keys only"
        return f"{inside}, got {name!r}; {nearest(path[-1], known)}"
    if kind == "missing":
        return f"{name} must be given, got nothing; add it"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        key = str(context.get("discriminator", "")).strip("'")
        known = [tag.strip(" '") for tag in str(context.get("expected_tags", "")).split(",") if tag.strip()]
        if kind == "union_tag_not_found":
            return f"{name}.{key} must be given, got nothing; add it"
        return f"{name}.{key} must be a known name, got {context.get('tag')!r}; {nearest(str(context['tag']), known)}"
    if kind == "literal_error":
        known = [k.strip(" '") for k in str(context.get("expected", "")).replace(" or ", ",").split(",")]
        return f"{name} must be a known name, got {value!r}; {nearest(str(value), known)}"
    if kind in _TYPES:
        return f"{name} must be {_TYPES[kind]}, got {_short(value)}; {_advice(kind, value)}"
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"{name} must be {words} {context.get(key)}, got {value!r}; change it"
    message = str(context["error"]) if "error" in context else f"{entry['msg']}, got {_short(value)}"
    return f"{name}: {message}" if path else message


def _advice(kind: str, value: Any) -> str:
    if isinstance(value, str) and kind in ("int_type", "float_type", "bool_type"):
        return "write it without quotes" if _is_plain(value) else "change it"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return "indent its keys under it"
    return "change it"


def _is_plain(text: str) -> bool:
    """Whether a text would be a number or a truth value were it not quoted."""
    try:
        float(text)
    except ValueError:
        return text.strip().lower() in ("true", "false")
    return True


def _short(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _path(data: Any, loc: Sequence[Any], *, missing: bool) -> list[str]:
    """The keys of ``loc`` that are really in the file: pydantic also names the branch of a union."""
    path: list[str] = []
    here = data
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        listed = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if listed or (isinstance(here, Mapping) and part in here):
            here = here[part]
        elif not (last and missing):
            continue
        path.append(str(part))
    return path


def _keys(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """The keys known at ``loc``."""
    here: list[Any] = [model]
    for part in loc:
        fields = [t.model_fields[part].annotation for t in here if part in t.model_fields]
        if fields:
            here = [t for annotation in fields for t in _models(annotation)]
        else:  # the branch of a union: its tag is the default of its name
            here = [t for t in here if "name" in t.model_fields and part in get_args(t.model_fields["name"].annotation)]
    return [key for t in here for key in t.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [t for argument in get_args(annotation) for t in _models(argument)]

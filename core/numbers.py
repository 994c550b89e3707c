"""Whole numbers that modules of the user's own keep: plain, or as the elements of lists and tuples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prunekit.core.rewriting import is_lifted, lift

__all__ = ["base_name", "set_number", "set_numbers", "whole_numbers"]

_MOST = 16  # elements of a list that may stand for widths


def whole_numbers(values: Mapping[str, Any], leave_out: Iterable[str] = ()) -> dict[str, int]:
    """The whole numbers among a module's attributes; ``"sizes[1]"`` is the second element of a list or tuple.

    Example:
        >>> whole_numbers({"heads": 4, "shape": (64, 1, 1), "bias": True, "name": "a"})
        {'heads': 4, 'shape[0]': 64, 'shape[1]': 1, 'shape[2]': 1}
    """
    found: dict[str, int] = {}
    skipped = set(leave_out)
    for name, value in values.items():
        if name in skipped:
            continue
        if type(value) is int:
            found[name] = value
        elif isinstance(value, (list, tuple)) and len(value) <= _MOST and all(type(v) is int for v in value):
            found |= {f"{name}[{k}]": v for k, v in enumerate(value)}
    return found


def set_numbers(modules: Mapping[str, Any], values: Mapping[tuple[str, str], int]) -> None:
    """Set whole numbers of modules.

    Args:
        modules: Modules by name.
        values: (module, what :func:`whole_numbers` or ``core.rewriting`` calls the number) → its new value. Numbers
            in a method's code become attributes first; lists and tuples are replaced, not changed.
    """
    lifted: dict[str, list[str]] = {}
    for module, name in values:
        if is_lifted(name):
            lifted.setdefault(module, []).append(name)
    for module, names in lifted.items():
        lift(modules[module], names)
    for (module, name), value in values.items():
        set_number(modules[module], name, value)


def set_number(module: Any, name: str, number: int) -> None:
    """Set what :func:`whole_numbers` calls ``name``; lists and tuples are replaced, not changed."""
    base, bracket, index = name.partition("[")
    if not bracket:
        setattr(module, name, number)
        return
    old = getattr(module, base)
    new = [number if k == int(index[:-1]) else v for k, v in enumerate(old)]
    # a named tuple takes its elements one by one
    setattr(module, base, type(old)(*new) if hasattr(old, "_fields") else type(old)(new))


def base_name(name: str) -> str:
    """The attribute that an element belongs to: ``"sizes"`` of ``"sizes[1]"``."""
    return name.partition("[")[0]

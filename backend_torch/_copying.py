"""Copies of modules, without the detours that make ``copy.deepcopy`` slow on them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["deep_copy"]

M = TypeVar("M", bound=nn.Module)
_ATOMS = frozenset([type(None), bool, int, float, str])
_TABLES = frozenset([dict, OrderedDict])


def deep_copy(model: M, memo: dict[int, Any] | None = None) -> M:
    """What ``copy.deepcopy`` gives for a module.

    It goes by way of pickling for every module and every table of hooks, most of which are empty; here
    modules without ways of their own are copied attribute by attribute.

    Args:
        model: A module.
        memo: What stands for which object of the original, by ``id``.
    """
    known = {} if memo is None else memo
    plain = [m for m in model.modules() if id(m) not in known and _is_plain(type(m))]
    for module in plain:
        known[id(module)] = type(module).__new__(type(module))
    for module in plain:
        for value in vars(module).values():  # worked out from parameters, anew in each pass: torch would not copy it
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                known.setdefault(id(value), value.detach().clone())
        fresh = vars(known[id(module)])
        for name, value in _state(module).items():
            fresh[name] = value if type(value) in _ATOMS else _copied(value, known)
    return copy.deepcopy(model, known)


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether instances are no more than their attributes."""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__new__ is object.__new__
        and kind.__reduce__ is object.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
        and getattr(kind, "__getstate__", None) is getattr(nn.Module, "__getstate__", None)
        and _torch_s_own(kind, "__setstate__")
    )


def _state(module: nn.Module) -> dict[str, Any]:
    """Attributes without what a module leaves out of copies (its compiled form)."""
    return module.__getstate__() if hasattr(nn.Module, "__getstate__") else vars(module)


def _torch_s_own(kind: type[nn.Module], name: str) -> bool:
    definers = [base for base in kind.__mro__[:-1] if name in vars(base)]
    return not definers or definers[0].__module__.startswith("torch.nn.")


def _copied(value: Any, known: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _TABLES and id(value) not in known and (not value or all(type(k) is str for k in value)):
        known[id(value)] = fresh = kind()
        for key, item in value.items():
            if id(item) in known:  # parameters, buffers and modules
                fresh[key] = known[id(item)]
            else:
                fresh[key] = item if type(item) in _ATOMS else copy.deepcopy(item, known)
        return fresh
    if kind is tuple and all(type(item) in _ATOMS for item in value):
        return value
    return copy.deepcopy(value, known)

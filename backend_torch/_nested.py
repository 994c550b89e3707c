"""Tensors inside of what a network takes: tuples, lists, dicts, and dataclasses too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map

__all__ = ["is_record", "map_fields", "map_tensors"]


def is_record(value: Any) -> bool:
    """Whether a value is an instance of a dataclass."""
    return is_dataclass(value) and not isinstance(value, type)


def map_fields(function: Callable[[Any], Any], value: Any) -> Any:
    """A copy of a dataclass's instance with a function applied to each field."""
    result = copy.copy(value)
    for field in fields(value):
        object.__setattr__(result, field.name, function(getattr(value, field.name)))  # frozen ones, too
    return result


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """The same containers with a function applied to each tensor."""

    def leaf(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return function(item)
        return map_fields(lambda part: map_tensors(function, part), item) if is_record(item) else item

    return tree_map(leaf, value)

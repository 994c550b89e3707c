"""Parameters and buffers as NumPy arrays under canonical names, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunekit.core.store import check_state

__all__ = ["get_state", "set_state", "to_array"]


def get_state(model: nn.Module, *, copy: bool = True) -> dict[str, NDArray[Any]]:
    """All parameters and buffers; bfloat16 comes as float32, which NumPy can hold."""
    tensors = {name: t for name, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    return {name: to_array(t) if copy else _window(t) for name, t in tensors.items()}


def set_state(model: nn.Module, values: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite all parameters and buffers in place.

    Raises:
        CheckpointError: A name is missing or unknown, or a shape differs; nothing is changed.
    """
    own = {name: t for name, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    check_state({name: tuple(t.shape) for name, t in own.items()}, values, _tied(model))
    with torch.no_grad():
        for name, tensor in own.items():
            if name in values:
                tensor.copy_(torch.as_tensor(np.array(values[name])))


def _tied(model: nn.Module) -> dict[str, str]:
    """First name of each parameter that has several, by the others."""
    firsts: dict[int, str] = {}
    first_of = {name: firsts.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}
    return {name: first for name, first in first_of.items() if name != first}


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy of a tensor; bfloat16 comes as float32, which NumPy can hold."""
    return _window(tensor).copy()


def _window(tensor: torch.Tensor) -> NDArray[Any]:
    plain = tensor.detach().cpu()
    array = (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
    array.setflags(write=False)
    return array

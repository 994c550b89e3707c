"""Parameters and statistics as NumPy arrays under canonical names, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from numpy.typing import NDArray

from prunekit.backend_mindspore._names import parameters, tied
from prunekit.core.store import check_state

__all__ = ["get_state", "set_state", "to_array"]


def get_state(net: nn.Cell, *, copy: bool = True) -> dict[str, NDArray[Any]]:
    """All parameters and statistics; bfloat16 comes as float32, which NumPy can hold."""
    arrays = {name: to_array(parameter) for name, parameter in parameters(net).items()}
    return {name: array.copy() for name, array in arrays.items()} if copy else arrays


def set_state(net: nn.Cell, values: Mapping[str, NDArray[Any]]) -> None:
    """Overwrite all parameters and statistics in place.

    Raises:
        CheckpointError: A name is missing or unknown, or a shape differs; nothing is changed.
    """
    own = parameters(net)
    check_state({name: tuple(p.shape) for name, p in own.items()}, values, tied(net))
    for name, parameter in own.items():
        if name in values:
            # the tensor takes over the array's memory: it gets one of its own; and not set_data, which gives the
            # parameter other memory than compiled optimizers know, so that they would train nothing from then on
            ops.assign(parameter, Tensor(np.array(values[name]), parameter.dtype))


def to_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor's values; bfloat16 comes as float32, which NumPy can hold."""
    plain = tensor.astype(mstype.float32) if tensor.dtype == mstype.bfloat16 else tensor
    array: NDArray[Any] = plain.asnumpy()
    return array

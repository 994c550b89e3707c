"""What the processes of a distributed training tell each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Tensor, ops
from mindspore.communication import GlobalComm, get_group_size
from numpy.typing import NDArray

__all__ = ["of_first", "same_everywhere", "world_size"]


def world_size() -> int:
    """Number of processes; one where communication was not initialised."""
    return int(get_group_size()) if GlobalComm.INITED else 1


def of_first(text: str) -> str:
    """The text of the first process; all processes must call this."""
    own = np.frombuffer(text.encode(), dtype=np.uint8)
    lengths = _gathered(np.array([own.size], dtype=np.int32))
    padded = np.zeros(int(lengths.max()), dtype=np.int32)
    padded[: own.size] = own
    return _gathered(padded)[0, : int(lengths[0, 0])].astype(np.uint8).tobytes().decode()


def same_everywhere(digest: bytes) -> bool:
    """Whether all processes call this with the same digest."""
    rows = _gathered(np.frombuffer(digest, dtype=np.uint8).astype(np.int32))
    return bool((rows == rows[0]).all())


def _gathered(values: NDArray[np.int32]) -> NDArray[Any]:
    """The values of every process, one a row."""
    # of the collective operations, CPUs know this one for whole numbers
    gathered: NDArray[Any] = ops.AllGather()(Tensor(values[None])).asnumpy()
    return gathered

"""What the processes of a distributed training tell each other."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops
from mindspore.communication import GlobalComm, get_group_size, get_rank
from numpy.typing import NDArray

from prunekit.core.processes import Processes

__all__ = ["processes"]


def processes() -> Processes:
    """The processes of ``msrun``; this one alone where communication was not initialised."""
    if not GlobalComm.INITED:
        return Processes()
    return Processes(int(get_rank()), int(get_group_size()), _gather)


def _gather(own: bytes) -> list[bytes]:
    lengths = _gathered(np.array([len(own)], dtype=np.int32))[:, 0]
    padded = np.zeros(max(1, int(lengths.max())), dtype=np.int32)
    padded[: len(own)] = np.frombuffer(own, dtype=np.uint8)
    return [row[:n].astype(np.uint8).tobytes() for row, n in zip(_gathered(padded), lengths, strict=True)]


def _gathered(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """The values of every process, one a row."""
    # of the collective operations, CPUs know this one for whole numbers
    gathered: NDArray[np.int32] = ops.AllGather()(Tensor(values[None])).asnumpy()
    return gathered

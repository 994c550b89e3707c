"""Reading IDX files: the format of MNIST and its relatives."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.errors import DataError

__all__ = ["read_idx"]

_UNSIGNED_BYTE = 0x08
_LARGEST = 1 << 31  # more than any set in this format; a hostile header must not ask for all memory


def read_idx(path: Path, axes: int) -> NDArray[Any]:
    """The array of an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: The file; a name that ends in ``.gz`` is unpacked on the way.
        axes: How many axes the array must have: 3 for images, 1 for labels.

    Raises:
        DataError: The file is missing, truncated, too long or not of this format.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            header = stream.read(4 + 4 * axes)
            shape = _shape(path, header, axes)
            size = int(np.prod(shape, dtype=np.int64))
            if size > _LARGEST:
                raise DataError(f"an IDX file may hold up to {_LARGEST} bytes, got {path} with shape {shape}")
            data = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"a data file must be readable and whole, got {path} ({error}); fetch it again") from error
    if len(data) != size:
        found = "more" if len(data) > size else f"{len(data)}"
        raise DataError(f"{path} must hold {size} values for its shape {shape}, got {found}; fetch it again")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, axes: int) -> tuple[int, ...]:
    if len(header) != 4 + 4 * axes or header[:4] != bytes([0, 0, _UNSIGNED_BYTE, axes]):
        raise DataError(
            f"{path} must begin like an IDX file of unsigned bytes with {axes} axes (00 00 08 {axes:02x}), "
            f"got {header[:4].hex(' ')}; fetch it again"
        )
    return struct.unpack(f">{axes}I", header[4:])

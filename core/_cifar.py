"""Reading CIFAR-10 in both of its published forms: the binary one and the Python one.

The Python form is a pickle. It is read by an unpickler that knows dicts, lists, strings, bytes,
numbers and plain byte arrays, and that calls nothing else.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.errors import DataError

__all__ = ["CLASSES", "read_cifar10"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_PIXELS = 3 * 32 * 32
_Part = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_cifar10(folder: Path) -> tuple[_Part, _Part]:
    """The training and the test set of a CIFAR-10 folder.

    Args:
        folder: Holds ``data_batch_1`` … ``data_batch_5`` and ``test_batch``, with ``.bin`` at the end of
            each name in the binary form.

    Returns:
        ``(images, labels)`` twice: uint8 of shape ``(N, 32, 32, 3)`` and int64 of shape ``(N,)``.

    Raises:
        DataError: A file is missing or malformed.
    """
    binary = (folder / "data_batch_1.bin").is_file()
    read, suffix = (_read_binary, ".bin") if binary else (_read_python, "")
    train = [read(folder / f"data_batch_{i}{suffix}") for i in range(1, 6)]
    images = np.concatenate([part[0] for part in train])
    return (images, np.concatenate([part[1] for part in train])), read(folder / f"test_batch{suffix}")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"a CIFAR-10 folder must hold {path.name}, got {path.parent} ({error})") from error


def _read_binary(path: Path) -> _Part:
    data = np.frombuffer(_read_bytes(path), dtype=np.uint8)
    if data.size == 0 or data.size % (_PIXELS + 1):
        raise DataError(
            f"{path} must hold records of {_PIXELS + 1} bytes (one label, {_PIXELS} pixels), got {data.size} bytes; "
            "fetch it again"
        )
    records = data.reshape(-1, _PIXELS + 1)
    return _check(path, records[:, 1:], records[:, 0].astype(np.int64))


def _read_python(path: Path) -> _Part:
    content = _read_bytes(path)
    try:
        table = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except DataError:
        raise DataError(f"{path} must hold plain data only, got a pickle that asks for more; do not trust it") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise DataError(f"{path} must be a CIFAR-10 batch, got a broken file ({error}); fetch it again") from error
    if not isinstance(table, dict):
        raise DataError(f"{path} must hold a dict, got {type(table).__name__}")
    values = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in table.items()}
    images, labels = values.get("data"), values.get("labels")
    if isinstance(images, _Array):
        images = images.value(path)
    if isinstance(labels, _Array):
        labels = labels.value(path)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.dtype != np.uint8:
        raise DataError(f"{path} must hold 'data', a byte array of shape (N, {_PIXELS}); fetch it again")
    numbers = isinstance(labels, np.ndarray) or (
        isinstance(labels, list) and all(isinstance(i, int) and -1 < i < 256 for i in labels)
    )
    if not numbers:
        raise DataError(f"{path} must hold 'labels', a list of numbers; fetch it again")
    return _check(path, images, np.asarray(labels, dtype=np.int64))


def _check(path: Path, rows: NDArray[np.uint8], labels: NDArray[np.int64]) -> _Part:
    if rows.shape != (len(labels), _PIXELS) or labels.ndim != 1:
        raise DataError(f"{path} must hold one label for each image of {_PIXELS} bytes, got {rows.shape}")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise DataError(f"{path} must hold labels from 0 to {len(CLASSES) - 1}; fetch it again")
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


class _Dtype:
    """Stands for ``numpy.dtype``: remembers which one, and makes none."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else str(code)
        self.order = "|"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", b"<", b">", b"|"):
            self.order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]


class _Array:
    """Stands for ``numpy.ndarray``: remembers shape, dtype and bytes."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self, path: Path) -> NDArray[Any]:
        """The array itself, where it is one of plain integers."""
        try:
            _, shape, dtype, fortran, data = self.state
            if isinstance(data, str):
                data = data.encode("latin1")
            if dtype.code not in ("u1", "i4", "i8") or not isinstance(data, bytes):
                raise DataError(f"{path} must hold arrays of integers, got {dtype.code!r}; fetch it again")
            flat = np.frombuffer(data, dtype=np.dtype(dtype.code).newbyteorder(dtype.order))
            return flat.reshape(shape, order="F" if fortran else "C")
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} must hold whole arrays, got a broken one ({error}); fetch it again") from error


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """How Python 3 writes bytes into an old pickle."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise DataError("only latin1 bytes are allowed")
    return text.encode("latin1")


_STANDINS: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Builds plain data; whatever else a pickle names is refused, not imported."""

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in of ours, never the thing itself."""
        if (module, name) not in _STANDINS:
            raise DataError(f"a data file may hold plain data only, got {module}.{name}")
        return _STANDINS[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Nothing lies outside the file."""
        raise DataError(f"a data file may hold plain data only, got a reference to {pid!r}")

"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from prunekit.core.errors import OutputError

SEAL = ".sha256"
"""How the name of a file ends that holds the checksum of another, as ``sha256sum --check`` reads it."""

TEMPORARY = ".unwritten-"
"""How names of files begin that are not whole; one that is left was its writer's when that was killed."""

MOST = 1 << 28
"""Bytes that a text file may hold by default."""

MOST_JSON = 1 << 25
"""Bytes that a plan or a mask may hold: enough for millions of channels, and read within a gigabyte."""


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write ``content`` under a temporary name beside ``path``, then rename it.

    Raises:
        OutputError: The file cannot be written; nothing is left behind.
    """
    # half a surrogate pair, which no encoding has, is written as its escape
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            stream.write(data)

    return produce_atomic(path, write)


def produce_atomic(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Let ``write(temporary)`` make a file under a temporary name beside ``path``, then rename it.

    Raises:
        OutputError: The file cannot be written; nothing is left behind.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # keep the suffix: some writers choose the format by it
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"an output file must be writable, got {target} ({error}); choose another folder") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
    return target


def read_bytes(path: str | os.PathLike[str], most: int = MOST, *, ordinary: bool = True) -> bytes:
    """What a file holds.

    Args:
        path: The file.
        most: Bytes that it may hold.
        ordinary: Whether devices and pipes, which may never end or never begin, are refused.

    Raises:
        OSError: It cannot be read, is larger, or is no ordinary file.
    """
    waiting = getattr(os, "O_NONBLOCK", 0) if ordinary else 0
    too_large = OSError(errno.EFBIG, f"larger than {most:,} bytes", os.fspath(path))
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | waiting)) as stream:
        found = os.fstat(stream.fileno())
        if stat.S_ISREG(found.st_mode):
            if found.st_size > most:
                raise too_large
            return stream.read()
        if ordinary:
            raise OSError(errno.EINVAL, "no ordinary file", os.fspath(path))
        data = b""
        while part := stream.read(1 << 16):
            data += part
            if len(data) > most:
                raise too_large
        return data


def read_text(path: str | os.PathLike[str], most: int = MOST, *, ordinary: bool = True) -> str:
    """The text of a UTF-8 file; arguments as for :func:`read_bytes`.

    Raises:
        OSError: It cannot be read, is larger, or is no ordinary file.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_bytes(path, most, ordinary=ordinary).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def seal(path: str | os.PathLike[str]) -> Path:
    """Write the checksum of a file beside it, so that whoever reads it can tell that it is as it was written.

    Raises:
        OutputError: The checksum cannot be written.
    """
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return write_atomic(_seal_of(path), f"{digest}  {Path(path).name}\n")


def unseal(path: str | os.PathLike[str]) -> None:
    """Take away the checksum of a file that is about to be written anew."""
    _seal_of(path).unlink(missing_ok=True)


def check_seal(path: str | os.PathLike[str], content: bytes) -> None:
    """Make sure that what a file with a checksum beside it holds is what was written.

    Raises:
        OSError: The checksum cannot be read.
        ValueError: The file was changed, or its checksum was.
    """
    place = _seal_of(path)
    if not place.exists():
        return
    named = read_bytes(place).split(b" ")[0].decode("ascii", errors="replace")
    if named != hashlib.sha256(content).hexdigest():
        raise ValueError(f"it is not what {place.name} was made for; copy both again, or remove that if you changed it")


def _seal_of(path: str | os.PathLike[str]) -> Path:
    return Path(path).with_name(Path(path).name + SEAL)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from prunekit.core.errors import OutputError

SEAL = ".sha256"
"""How the name of a file ends that holds the checksum of another, as ``sha256sum --check`` reads it."""

TEMPORARY = ".unwritten-"
"""How names of files begin that are not whole; one that is left was its writer's when that was killed."""


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write ``content`` under a temporary name beside ``path``, then rename it.

    Raises:
        OutputError: The file cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content

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


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file."""
    return Path(path).read_text(encoding="utf-8")


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


def check_seal(path: str | os.PathLike[str]) -> None:
    """Make sure that a file with a checksum beside it is as it was written.

    Raises:
        OSError: The file cannot be read.
        ValueError: It was changed, or its checksum was.
    """
    place = _seal_of(path)
    if not place.exists():
        return
    named = place.read_bytes().split(b" ")[0].decode("ascii", errors="replace")
    if named != hashlib.sha256(Path(path).read_bytes()).hexdigest():
        raise ValueError(f"it is not what {place.name} was made for; copy both again, or remove that if you changed it")


def _seal_of(path: str | os.PathLike[str]) -> Path:
    return Path(path).with_name(Path(path).name + SEAL)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

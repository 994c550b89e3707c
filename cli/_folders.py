"""The folders of a run: its output, which appears whole or not at all, and the cache of base weights."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from prunekit.core.errors import OutputError

__all__ = ["cache_folder", "new_folder"]


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool = False, mark: str = "results.json") -> Iterator[Path]:
    """A folder under a temporary name beside ``target`` that takes its place if all went well.

    Args:
        target: The folder to make.
        overwrite: Whether a folder that holds ``mark`` may be replaced.
        mark: A file that only a finished run has.

    Raises:
        OutputError: There is something at ``target`` that may not be replaced, or the place cannot
            be written.
    """
    _check_free(target, overwrite, mark)
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target)
        temporary.mkdir()
    except OSError as error:
        raise OutputError(f"an output folder must be writable, got {target} ({error}); choose another") from error
    try:
        yield temporary
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # innermost first; one that is not empty stays
            with contextlib.suppress(OSError):
                parent.rmdir()


def _check_free(target: Path, overwrite: bool, mark: str) -> None:
    if not target.name:
        raise OutputError(f"an output folder must have a name, got {str(target)!r}; for example outputs/first")
    try:
        if not target.is_symlink() and not target.exists():
            return
        if target.is_symlink() or not target.is_dir():
            raise OutputError(f"an output folder must be a folder, got {target}, which is none; choose another")
        if not any(target.iterdir()):
            return
        finished = (target / mark).is_file()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"an output folder must be readable, got {target} ({error}); choose another") from error
    if not finished:
        raise OutputError(f"an output folder must be new or empty, got {target} with other files in it; choose another")
    if not overwrite:
        raise OutputError(f"an output folder must be new, got {target} with a finished run; add --overwrite")


def _swap(temporary: Path, target: Path) -> None:
    try:
        if not target.exists():
            os.replace(temporary, target)
            return
        old = _beside(target)
        os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"an output folder must be writable, got {target} ({error}); choose another") from error


def cache_folder() -> Path:
    """Where trained base weights are kept: ``$PRUNEKIT_CACHE``, else ``~/.cache/prunekit``."""
    named = os.environ.get("PRUNEKIT_CACHE")
    return Path(named).expanduser() if named else Path("~/.cache/prunekit").expanduser()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}-{secrets.token_hex(4)}")

"""The folders of a run: its output, which appears whole or not at all, and the cache of base weights."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from prunekit.core.errors import OutputError

__all__ = ["cache_folder", "new_folder"]

logger = logging.getLogger("prunekit.folders")


@contextlib.contextmanager
def new_folder(
    target: Path, *, overwrite: bool = False, mark: str = "results.json", keep: Sequence[str] = ()
) -> Iterator[Path]:
    """A folder under a temporary name beside ``target`` that takes its place if all went well.

    Args:
        target: The folder to make.
        overwrite: Whether a folder that holds ``mark``, or nothing but what a stopped run kept, may be replaced.
        mark: A file that only a finished run has.
        keep: Names in the folder that are kept where things went wrong, if the first of them is there: in
            ``target``, or, where that holds a finished run, in a new folder beside it with ``-stopped`` in its name.

    Raises:
        OutputError: There is something at ``target`` that may not be replaced, or the place cannot
            be written.
    """
    _check_free(target, overwrite, mark, keep)
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target)
        temporary.mkdir()
    except OSError as error:
        raise OutputError(f"an output folder must be writable, got {target} ({error}); choose another") from error
    try:
        try:
            yield temporary
        except BaseException:
            _rescue(temporary, target, mark, keep)
            raise
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # innermost first; one that is not empty stays
            with contextlib.suppress(OSError):
                parent.rmdir()


def _rescue(temporary: Path, target: Path, mark: str, keep: Sequence[str]) -> None:
    """Move what shall be kept of an unfinished folder to where it is found again."""
    found = [temporary / name for name in keep if (temporary / name).exists()]
    if not found or found[0].name != keep[0]:
        return
    place = _beside_finished(target) if (target / mark).exists() else target
    try:
        place.mkdir(exist_ok=True)
        for path in found:
            if (place / path.name).is_dir():
                shutil.rmtree(place / path.name)
            os.replace(path, place / path.name)
    except OSError as error:
        logger.warning("what was found so far could not be kept in %s (%s)", place, error)
    else:
        logger.warning("what was found so far is kept in %s", ", ".join(str(place / path.name) for path in found))


def _beside_finished(target: Path) -> Path:
    """A new folder: what an earlier run left is not ours to replace."""
    names = (f"{target.name}-stopped" + (f"-{k}" if k else "") for k in itertools.count())
    return next(place for place in map(target.with_name, names) if not place.exists())


def _check_free(target: Path, overwrite: bool, mark: str, keep: Sequence[str]) -> None:
    if not target.name:
        raise OutputError(f"an output folder must have a name, got {str(target)!r}; for example outputs/first")
    try:
        if not target.is_symlink() and not target.exists():
            return
        if target.is_symlink() or not target.is_dir():
            raise OutputError(f"an output folder must be a folder, got {target}, which is none; choose another")
        names = {path.name for path in target.iterdir()}
        if not names:
            return
        finished = (target / mark).is_file()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"an output folder must be readable, got {target} ({error}); choose another") from error
    stopped = bool(keep) and keep[0] in names and names <= set(keep)
    if not finished and not stopped:
        raise OutputError(f"an output folder must be new or empty, got {target} with other files in it; choose another")
    if not overwrite:
        what = "a finished run" if finished else "what a stopped run left"
        raise OutputError(f"an output folder must be new, got {target} with {what}; add --overwrite")


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

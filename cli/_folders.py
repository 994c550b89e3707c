"""The folders of a run: its output, which appears when all is done, the one it works in, and the cache."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from prunekit.core._files import TEMPORARY
from prunekit.core.errors import ConfigError, OutputError

__all__ = ["cache_folder", "find_folder", "is_working", "new_folder", "partial_folder", "work_folder"]

logger = logging.getLogger("prunekit.folders")

_LOCK_FILE = ".lock"


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool = False, mark: str = "results.json") -> Iterator[Path]:
    """A folder under a temporary name beside ``target`` that takes its place if all went well.

    Args:
        target: The folder to make.
        overwrite: Whether a folder that holds ``mark`` may be replaced.
        mark: A file that only a finished folder has.

    Raises:
        OutputError: There is something at ``target`` that may not be replaced, or the place cannot
            be written.
    """
    _check_free(target, overwrite, mark)
    with _parents(target):
        temporary = _beside(target)
        _make(temporary, target)
        try:
            yield temporary
            _swap(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def work_folder(
    target: Path, *, overwrite: bool = False, resume: bool = False, mark: str = "results.json", worth: Sequence[str]
) -> Iterator[Path]:
    """The folder ``NAME.partial`` beside ``target``, which takes its place if all went well.

    What was stopped or killed on the way stays there, and is gone on with by ``resume``.

    Args:
        target: The folder to make.
        overwrite: Whether a finished folder, and what a stopped run left, may be replaced.
        resume: Whether to go on with what a stopped run left, if there is such.
        mark: A file that only a finished run has.
        worth: Names in the folder that make it worth keeping where things went wrong.

    Raises:
        OutputError: There is something that may not be replaced, another process works in the folder, or the
            place cannot be written.
    """
    _check_free(target, overwrite or resume, mark)
    partial = partial_folder(target)
    with _parents(target):
        if partial.exists() and not (overwrite or resume):
            raise OutputError(
                f"an output folder must be new, got what a stopped run left in {partial}; add --resume to go on with "
                "it, or --overwrite to begin anew"
            )
        _refuse_links(partial)
        partial.mkdir(exist_ok=True) if partial.is_dir() else _make(partial, target)
        with _locked(partial):
            with _writable(target):
                _tidy(partial, target, mark, keep=resume or not overwrite)
            try:
                yield partial
            except BaseException as error:
                _leave(partial, worth, hint=not isinstance(error, ConfigError))
                raise
            (partial / _LOCK_FILE).unlink(missing_ok=True)
            _swap(partial, target)


def partial_folder(target: Path) -> Path:
    """Where a run works until it is done."""
    return target.with_name(f"{target.name}.partial")


def find_folder(target: Path) -> Path:
    """The folder of a run; of one that is not done, the folder that it works in or was stopped in."""
    partial = partial_folder(target) if target.name else target
    return partial if not target.exists() and partial.is_dir() else target


def is_working(partial: Path) -> bool | None:
    """Whether a process works in such a folder; None where that cannot be told.

    The lock itself is not tried: the process that is about to take it would find it taken.
    """
    try:
        number = (partial / _LOCK_FILE).stat().st_ino
    except OSError:
        return False  # who is stopped takes it away
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):  # not Linux
        return None
    return True if any("FLOCK" in line and f":{number} " in line for line in locks) else None


def _tidy(partial: Path, target: Path, mark: str, *, keep: bool) -> None:
    """Remove what killed processes left, and all else too where nothing is to be kept."""
    old = _old(target)
    if old.exists():  # a run was killed while it took the place of another
        shutil.rmtree(old) if target.exists() else os.replace(old, target)
    if not keep:
        _empty(partial)
    (partial / mark).unlink(missing_ok=True)
    for path in partial.rglob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _refuse_links(partial: Path) -> None:
    """Make sure that what is written, replaced or removed in a folder from elsewhere stays in it.

    Raises:
        OutputError: The folder is a link, or there is one in it.
    """
    with _writable(partial):
        found = partial if partial.is_symlink() else next((p for p in partial.rglob("*") if p.is_symlink()), None)
        if found is not None:
            raise OutputError(
                f"the folder of a stopped run may hold no links, got {found}, which leads to {os.readlink(found)}; "
                "remove it"
            )


def _leave(partial: Path, worth: Sequence[str], *, hint: bool) -> None:
    """Keep what an interrupted run made if there is something in it."""
    if any((partial / name).exists() for name in worth):
        (partial / _LOCK_FILE).unlink(missing_ok=True)
        if hint:
            logger.warning("what was done so far is kept in %s; add --resume to go on with it", partial)
    else:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """One process at a time; the lock ends with its process, however that ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with _writable(partial):
        stream = open(partial / _LOCK_FILE, "w")  # noqa: SIM115  closed below
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"a run's folder may be used by one process at a time, got {partial} in use by another; wait for it, "
                "or choose another --out"
            ) from None
        yield


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK_FILE:
            path.unlink()


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[None]:
    """The folder that ``target`` is to stand in; parents that were made and stay empty go again."""
    made = [parent for parent in target.parents if not parent.exists()]
    with _writable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for parent in made:  # innermost first; one that is not empty stays
            with contextlib.suppress(OSError):
                parent.rmdir()


def _make(folder: Path, target: Path) -> None:
    with _writable(target):
        folder.mkdir()


@contextlib.contextmanager
def _writable(target: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"an output folder must be writable, got {target} ({error}); choose another") from error


def _old(target: Path) -> Path:
    """Where a finished folder is while another takes its place."""
    return target.with_name(f".{target.name}.old")


def _check_free(target: Path, replace: bool, mark: str) -> None:
    if not target.name:
        raise OutputError(f"an output folder must have a name, got {str(target)!r}; for example outputs/first")
    try:
        if not target.is_symlink() and not target.exists():
            return
        if target.is_symlink() or not target.is_dir():
            raise OutputError(f"an output folder must be a folder, got {target}, which is none; choose another")
        names = {path.name for path in target.iterdir()}
        finished = (target / mark).is_file()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"an output folder must be readable, got {target} ({error}); choose another") from error
    if names and not finished:
        raise OutputError(f"an output folder must be new or empty, got {target} with other files in it; choose another")
    if names and not replace:
        raise OutputError(f"an output folder must be new, got {target} with a finished run; add --overwrite")


def _swap(temporary: Path, target: Path) -> None:
    with _writable(target):
        if not target.exists():
            os.replace(temporary, target)
            return
        old = _old(target)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def cache_folder() -> Path:
    """Where trained base weights are kept: ``$PRUNEKIT_CACHE``, else ``~/.cache/prunekit``."""
    named = os.environ.get("PRUNEKIT_CACHE")
    return Path(named).expanduser() if named else Path("~/.cache/prunekit").expanduser()


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}-{secrets.token_hex(4)}")

"""Whose mistake an exception is: the user's own code, or ours and the libraries'."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

__all__ = ["place_of_user"]


def place_of_user(error: BaseException) -> str | None:
    """``file, line N`` in the user's own code that raised an error; None where prunekit had a hand in it.

    An error is the user's if no code of ours was called between his line and where it was raised.
    """
    if isinstance(error, SyntaxError) and error.filename and not _installed(error.filename):
        return f"{_short(error.filename)}, line {error.lineno}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == "prunekit":
            return None
        if not _installed(frame.f_code.co_filename):
            return f"{_short(frame.f_code.co_filename)}, line {line}"
    return None


def _installed(file: str) -> bool:
    """Whether a file belongs to Python or to a library, or is none."""
    parents = Path(file).resolve().parents
    if file.startswith("<") or any(folder.name in ("site-packages", "dist-packages") for folder in parents):
        return True
    return any(Path(sysconfig.get_path(name)).resolve() in parents for name in ("stdlib", "platstdlib"))


def _short(file: str) -> str:
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file

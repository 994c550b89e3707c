"""The one door through which a name in a file becomes code: ``package.module:function``, and how it is shut."""

from __future__ import annotations

import importlib
import os
from typing import Any

from prunekit.core._names import nearest
from prunekit.core._working_folder import working_folder
from prunekit.core.errors import InputError, UserCodeError

__all__ = ["VARIABLE", "load_object", "load_user_object", "user_code_refused"]

VARIABLE = "PRUNEKIT_NO_USER_CODE"
"""Environment variable that shuts the door; processes that are started inherit it."""


def user_code_refused() -> bool:
    """Whether only the code of prunekit and of the libraries that it names may be run."""
    return os.environ.get(VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def load_user_object(path: str, what: str = "function") -> Any:
    """The object at ``"package.module:name"``, where a file or a command may name one: the user's own Python.

    Raises:
        UserCodeError: No code of the user's own may be run.
        InputError: The path is malformed, or no such module or attribute exists.
    """
    if user_code_refused():
        raise UserCodeError(
            f"a {what} of your own may not be run under --no-user-code or {VARIABLE}, got {path!r}; read that code, "
            "then leave the option out, or name a {0} of prunekit's".format(what.split()[0])
        )
    return load_object(path, what)


def load_object(path: str, what: str = "function") -> Any:
    """The object at ``"package.module:name"``: the door to a user's own Python.

    The module is imported, so its top-level code runs, with the rights of this process. The working
    folder is searched last.

    Args:
        path: Where it is, e.g. ``"my_project.models:build"``.
        what: What it is for, for the messages.

    Raises:
        InputError: The path is malformed, or no such module or attribute exists.
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise InputError(f"a {what} must be written as package.module:name, got {path!r}")
    try:
        with working_folder():
            found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(missing + "."):
            raise  # the user's module exists and lacks something itself
        raise InputError(
            f"a {what} must lie in a module that can be imported, got {path!r} ({error}); "
            "run from the folder that holds it, or put that folder on PYTHONPATH"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InputError(f"a {what} must exist in its module, got {path!r}; {nearest(name, _public(found))}")
        found = getattr(found, name)
    return found


def _public(module: Any) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_")]

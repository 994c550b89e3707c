"""Names: the nearest known one to one that is not known, and objects by name."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prunekit.core.errors import InputError

__all__ = ["load_object", "nearest"]


def nearest(name: str, known: Iterable[str], most: int = 12) -> str:
    """A hint that ends an error message.

    Example:
        >>> nearest("torhc", ["torch", "mindspore"])
        "did you mean 'torch'?"
        >>> nearest("x", ["torch", "mindspore"])
        'known are mindspore, torch'
    """
    names = sorted(known)
    folded = {n.lower().replace("-", "_"): n for n in names}
    wanted = str(name).lower().replace("-", "_")
    close = difflib.get_close_matches(wanted, list(folded), n=6, cutoff=0.6)
    if close:
        # of names that are equally near, the one that begins alike: resnet2 is resnet20 rather than resnet32
        ratios = {other: difflib.SequenceMatcher(None, other, wanted).ratio() for other in close}
        best = max(close, key=lambda other: (ratios[other], len(os.path.commonprefix([other, wanted]))))
        return f"did you mean {folded[best]!r}?"
    if not names:
        return "none is known"
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return f"known are {', '.join(names[:most])}{more}"


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
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(missing + "."):
            raise  # the user's module exists and lacks something itself
        raise InputError(
            f"a {what} must lie in a module that can be imported, got {path!r} ({error}); "
            "run from the folder that holds it, or put that folder on PYTHONPATH"
        ) from error
    finally:
        if added:
            with contextlib.suppress(ValueError):
                sys.path.remove(here)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InputError(f"a {what} must exist in its module, got {path!r}; {nearest(name, _public(found))}")
        found = getattr(found, name)
    return found


def _public(module: Any) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_")]

"""The folder that a command runs in, as a place of modules."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["working_folder"]


@contextlib.contextmanager
def working_folder() -> Iterator[None]:
    """Within the context modules are searched for in the working folder too, last of all."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)

"""Packages that only some networks need."""

from __future__ import annotations

import importlib
from typing import Any

from prunekit.core.errors import MissingDependencyError

__all__ = ["import_optional"]


def import_optional(name: str, what: str, install: str) -> Any:
    """A package by its name.

    Args:
        name: ``"timm"``.
        what: What needs it, as messages say it: ``"models timm:NAME"``.
        install: What ``pip install`` takes.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # a package that it needs itself
            raise
        raise MissingDependencyError(
            f"{what} need {name}, which is not installed; run `pip install {install}`"
        ) from error

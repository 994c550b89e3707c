"""Names of exported files: how they end, and which format an ending stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prunekit.core._names import nearest
from prunekit.core.backend import ExportFormat
from prunekit.core.errors import ExportError

__all__ = ["export_target", "format_of"]


def export_target(path: str | os.PathLike[str], format: str, formats: Mapping[str, ExportFormat]) -> Path:
    """The file to write, with the ending of its format.

    Raises:
        ExportError: The format is unknown, or the file ends as that of another.
    """
    if format not in formats:
        raise ExportError(f"format must be a known one, got {format!r}; {nearest(str(format), formats)}")
    target, suffixes = Path(path), formats[format].suffixes
    if not target.suffix:
        return target.with_name(target.name + suffixes[0])
    if target.suffix.lower() not in suffixes:
        raise ExportError(f"a {format} file must end in {' or '.join(suffixes)}, got {target.name!r}; rename it")
    return target


def format_of(path: str | os.PathLike[str], formats: Mapping[str, ExportFormat]) -> str:
    """The format that a file's ending stands for.

    Raises:
        ExportError: It stands for none.
    """
    for name, kind in formats.items():
        if Path(path).suffix.lower() in kind.suffixes:
            return name
    endings = ", ".join(suffix for kind in formats.values() for suffix in kind.suffixes)
    raise ExportError(f"a file's ending must say its format, got {str(path)!r}; use {endings}, or give format=")

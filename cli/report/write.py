"""What `prunekit report` does: collect, then write a page or text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunekit.cli.report.collect import as_wrote, collect, report_folder
from prunekit.cli.report.page import page
from prunekit.cli.report.text import as_csv, as_json, as_markdown
from prunekit.core._files import write_atomic
from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError

__all__ = ["FORMATS", "REPORT_FILE", "report_text", "write_report"]

REPORT_FILE = "report.html"
FORMATS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "html": page, "md": as_markdown, "csv": as_csv, "json": as_json,
}  # fmt: skip


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write ``report.html`` of a run or a search, finished or not.

    Args:
        folder: Its output folder, or the name that the folder will have.
        output: File to write; by default ``report.html`` in the folder itself.

    Returns:
        The file.

    Raises:
        InputError: The folder is none of a run or a search, or its files were changed.
        MissingDependencyError: matplotlib is not installed.
        OutputError: The report cannot be written, or the study cannot be opened.
        StudyError: The study is damaged or foreign.
    """
    text = report_text(folder, "html")
    return write_atomic(output or report_folder(folder) / REPORT_FILE, text)


def report_text(folder: str | Path, format: str) -> str:
    """The report in a format.

    Args:
        folder: Output folder of a run or a search, or the name that the folder will have.
        format: ``html``, ``md`` (Markdown), ``csv`` (all candidates, or the widths) or ``json`` (everything).

    Raises:
        ConfigError: The format is unknown.
        InputError: The folder is none of a run or a search, or its files were changed.
        MissingDependencyError: matplotlib, which ``html`` needs, is not installed.
        OutputError: The study cannot be opened.
        StudyError: The study is damaged or foreign.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be a known one, got {format!r}; {nearest(format, FORMATS)}")
    data = collect(folder)
    with as_wrote(report_folder(folder)):
        return FORMATS[format](data)

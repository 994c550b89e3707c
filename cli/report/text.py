"""The report as text: Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from prunekit.cli.report.parts import Figure, Picture, Section, Table
from prunekit.cli.report.search_sections import candidate_lines
from prunekit.cli.report.sections import sections, subtitle, title

__all__ = ["as_csv", "as_json", "as_markdown"]

_TOP = 10


def as_markdown(data: Mapping[str, Any]) -> str:
    """The main figures, the front, the correlation, the best candidates and where all is from, as Markdown.

    Args:
        data: What :func:`prunekit.cli.report.collect.collect` gives.
    """
    lines = [f"# {_inline(title(data))}", "", _inline(subtitle(data)), ""]
    parts = [section for section in sections(data) if section.brief]
    if data["search"]:
        head, rows = candidate_lines(data["search"], _TOP)
        parts.insert(-1, Section("Best candidates", [Table(head, rows)]))  # provenance stands last
    for section in parts:
        told = [part for part in section.parts if not isinstance(part, Picture)]
        if told:
            lines += [f"## {section.title}", ""]
        for part in told:
            lines += [_inline(part), ""] if isinstance(part, str) else [*_table(part), ""]
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    numbers = [any(isinstance(row[k], Figure) for row in table.rows) for k in range(len(table.head))]
    rule = " | ".join("---:" if n else "---" for n in numbers)
    rows = ["| " + " | ".join(_inline(str(cell)) for cell in row) + " |" for row in [table.head, *table.rows]]
    return [rows[0], f"| {rule} |", *rows[1:]]


def _inline(text: str) -> str:
    """Text that Markdown takes as it stands, on one line."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def as_csv(data: Mapping[str, Any]) -> str:
    """Every candidate, or of a run without a search the width of every group, as CSV (RFC 4180).

    Args:
        data: What :func:`prunekit.cli.report.collect.collect` gives.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)  # lines end with CRLF, as the RFC has it
    search = data["search"]
    if search is None:
        writer.writerow(("name", "before", "after"))
        writer.writerows((g["name"], g["before"], g["after"]) for g in data["widths"])
        return stream.getvalue()
    names = list(dict.fromkeys(name for c in search["candidates"] for name in c["figures"]))
    front = set(search["front"])
    writer.writerow(("index", "generation", "score", *names, "front", "seconds", "seed", "vector"))
    for c in search["candidates"]:
        figures = [c["figures"].get(name) for name in names]
        vector = " ".join(f"{number:.17g}" for number in c["vector"] or ())
        on_front = int(c["index"] in front) if front else None
        writer.writerow((c["index"], c["generation"], c["score"], *figures, on_front, c["seconds"], c["seed"], vector))
    return stream.getvalue()


def as_json(data: Mapping[str, Any]) -> str:
    """Everything, as one JSON document.

    Args:
        data: What :func:`prunekit.cli.report.collect.collect` gives.
    """
    return json.dumps(_finite(data), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(data: Any) -> Any:
    """The same with null for what JSON has no word for."""
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data

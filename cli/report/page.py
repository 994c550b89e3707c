"""The report as one HTML file that needs no other and asks for none."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from prunekit.cli.report.parts import Figure, Picture, Section, Table
from prunekit.cli.report.sections import sections, subtitle, title

__all__ = ["page"]


def page(data: Mapping[str, Any]) -> str:
    """The page.

    Args:
        data: What :func:`prunekit.cli.report.collect.collect` gives.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    parts = sections(data)
    script = _file("page.js")
    return Template(_file("page.html")).substitute(
        title=escape(title(data)),
        subtitle=escape(subtitle(data)),
        style=_file("page.css"),
        script=script,
        # a script of another text is not run, wherever it comes from
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        contents="".join(f'<a href="#part-{k}">{escape(part.title)}</a>' for k, part in enumerate(parts)),
        body="\n".join(_section(k, part) for k, part in enumerate(parts)),
        config=escape(data["config"] or "(config.yml is missing)"),
    )


def _file(name: str) -> str:
    return resources.files("prunekit.cli.report").joinpath(name).read_text(encoding="utf-8")


def _section(number: int, section: Section) -> str:
    inside = "\n".join(_part(part) for part in section.parts)
    return f'<section id="part-{number}">\n<h2>{escape(section.title)}</h2>\n{inside}\n</section>'


def _part(part: str | Table | Picture) -> str:
    if isinstance(part, str):
        return f'<p class="quiet">{escape(part)}</p>'
    if isinstance(part, Picture):
        caption = f"<figcaption>{escape(part.caption)}</figcaption>" if part.caption else ""
        return f"<figure>{part.draw()}{caption}</figure>"
    table = _table(part)
    return f"<details><summary>{escape(part.fold)}</summary>{table}</details>" if part.fold else table


def _table(table: Table) -> str:
    numbers = [any(isinstance(row[k], Figure) for row in table.rows) for k in range(len(table.head))]
    head = "".join(
        f'<th scope="col"{_kind(n)}>{escape(name)}</th>' for name, n in zip(table.head, numbers, strict=True)
    )
    body = "\n".join(_row(row, numbers) for row in table.rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _row(cells: Sequence[Any], numbers: Sequence[bool]) -> str:
    return "<tr>" + "".join(_cell(cell, n) for cell, n in zip(cells, numbers, strict=True)) + "</tr>"


def _cell(cell: Any, number: bool) -> str:
    known = isinstance(cell, Figure) and cell.value is not None and math.isfinite(cell.value)
    value = f' data-value="{cell.value!r}"' if known else ""
    return f"<td{_kind(number)}{value}>{escape(str(cell))}</td>"


def _kind(number: bool) -> str:
    return ' class="n"' if number else ""

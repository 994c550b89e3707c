"""What a report is made of, whatever its form: sections of notes, tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Figure", "Picture", "Section", "Table", "count", "figure", "label", "percent", "seconds", "share"]


@dataclass(frozen=True)
class Figure:
    """A number in a table.

    Attributes:
        text: As it is shown.
        value: By which it is sorted; None sorts last.
    """

    text: str
    value: float | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """Lines under heads; a column that holds a :class:`Figure` is one of numbers.

    Attributes:
        head: Names of the columns.
        rows: Cells, each a text or a figure.
        fold: Where the table is long: what to call it while it is folded away.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    fold: str = ""


@dataclass(frozen=True)
class Picture:
    """Something drawn.

    Attributes:
        draw: Gives its SVG, or a paragraph that says why there is none.
        caption: What is to be seen.
    """

    draw: Callable[[], str]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading.

    Attributes:
        title: The heading.
        parts: Notes (texts), tables and pictures, in order.
        brief: Whether a short form of the report has it too.
    """

    title: str
    parts: Sequence[str | Table | Picture] = field(default_factory=tuple)
    brief: bool = True


def label(name: str) -> str:
    """What a figure is called where it is shown."""
    return _LABELS.get(name, name.replace("_", " "))


def count(value: float | None) -> Figure:
    """A whole number."""
    return Figure("-", None) if value is None else Figure(f"{value:,.0f}", value)


def percent(value: float | None) -> Figure:
    """A share as a percentage."""
    return Figure("-", None) if value is None else Figure(f"{value:.2%}", value)


def share(part: float, whole: float) -> Figure:
    """How much of a whole a part is."""
    return Figure(f"{part / whole:.1%}", part / whole)


def seconds(value: float | None) -> Figure:
    """A time."""
    return Figure("-", None) if value is None else Figure(f"{value:.2f}", value)


def figure(name: str, value: Any) -> Figure | str:
    """A figure of a network, as its name asks for; what is no number is shown as it stands."""
    if value is None:
        return Figure("-", None)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value) if not isinstance(value, bool) else "yes" if value else "no"
    return Figure(_FORMS.get(name, _other)(value), value)


def _other(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _counted(value: float) -> str:
    return f"{value:,.0f}"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:,.1f} kB"


_LABELS = {"macs": "MACs", "flops": "FLOPs", "params": "parameters", "ratio": "share of the MACs"}
_FORMS: dict[str, Callable[[float], str]] = {
    **dict.fromkeys(("macs", "flops", "params"), _counted),
    **dict.fromkeys(("memory", "bandwidth", "bytes"), _kilobytes),
    **dict.fromkeys(("score", "top1", "accuracy", "median_of_random", "best", "mean", "trained"), "{:.2%}".format),
    "latency": lambda value: f"{1000 * value:.3f} ms",
    "ratio": "{:.4f}".format,
    "part": "{:.3f}".format,
    "hypervolume": "{:.6g}".format,
}

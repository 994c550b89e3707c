"""The pictures of a run, and what all pictures share: SVG that stands inside a page, light or dark."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from prunekit.core.errors import MissingDependencyError

__all__ = [
    "ACCENT", "AFTER", "BEFORE", "DOTS", "THIRD", "curve_picture", "figure", "legend", "require_matplotlib", "svg",
    "twin", "widths_picture",
]  # fmt: skip

# matplotlib is given these; in the page the names take their place, so that the page's colours hold
BEFORE, AFTER, ACCENT, THIRD, DOTS = "#c3ccd6", "#1f6f8b", "#b5541c", "#6a4c93", "#8a97a5"
_INK = "#1c2733"
_NAMES = {
    BEFORE: "var(--before)", AFTER: "var(--after)", ACCENT: "var(--accent)", THIRD: "var(--third)",
    DOTS: "var(--dots)", _INK: "currentColor",
}  # fmt: skip


def widths_picture(groups: Sequence[Mapping[str, Any]]) -> str:
    """Bars of the width of each group, before and after.

    Args:
        groups: Mappings with ``name``, ``before`` and ``after``.
    """
    picture, axes = figure(8.0, 0.9 + 0.26 * len(groups))
    places = range(len(groups))
    axes.barh(places, [g["before"] for g in groups], height=0.8, color=BEFORE, label="before")
    axes.barh(places, [g["after"] for g in groups], height=0.5, color=AFTER, label="after")
    axes.set_yticks(places)
    axes.set_yticklabels([str(g["name"]) for g in groups], fontsize=8, parse_math=False)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    most = max(g["before"] for g in groups)
    for place, group in enumerate(groups):
        text = f"{group['after']} of {group['before']}"
        axes.text(group["before"] + 0.01 * most, place, text, va="center", fontsize=7, color=_INK)
    axes.set_xlim(0, most * 1.13)
    axes.set_xlabel("channels")
    legend(axes)
    return svg(picture, "Channels of each group before and after pruning")


def curve_picture(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Training loss and validation accuracy over all epochs, stage after stage.

    Args:
        epochs: Mappings with ``stage``, ``loss`` and, where it was measured, ``val_top1``.
    """
    if not epochs:
        return "<p>Nothing was trained in this run.</p>"
    picture, axes = figure(8.0, 3.0)
    steps = range(1, len(epochs) + 1)
    axes.plot(steps, [e["loss"] for e in epochs], color=ACCENT, marker="o", markersize=3, label="training loss")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    losses = [e["loss"] for e in epochs if e["loss"] is not None and math.isfinite(e["loss"])]
    axes.set_ylim(0, 1.08 * max(losses, default=0) or 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    scored = [(step, e.get("val_top1")) for step, e in zip(steps, epochs, strict=True)]
    measured = [(step, 100 * top1) for step, top1 in scored if top1 is not None]
    lines = list(axes.get_lines())
    if measured:
        right = twin(axes, "accuracy (%)")
        right.plot(*zip(*measured, strict=True), color=AFTER, marker="s", markersize=3, label="validation accuracy")
        lines += right.get_lines()
    for step, (last, now) in enumerate(zip(epochs, epochs[1:], strict=False), start=1):
        if last["stage"] != now["stage"]:
            axes.axvline(step + 0.5, color=BEFORE, linewidth=1, linestyle="--")
    legend(axes, lines)
    return svg(picture, "Training loss and validation accuracy by epoch")


def require_matplotlib() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "a report needs matplotlib, which is not installed; run `pip install 'prunekit[report]'`"
        ) from error


def figure(width: float, height: float) -> tuple[Any, Any]:
    """An empty picture of that size in inches, and its axes."""
    require_matplotlib()
    from matplotlib.figure import Figure

    # a Figure of our own, not pyplot's: no display, and no state shared with the caller
    with _style("picture"):
        picture = Figure(figsize=(width, height), layout="constrained")
        axes = picture.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return picture, axes


def twin(axes: Any, label: str) -> Any:
    """Axes over the same places with a scale of their own on the right."""
    with _style("picture"):
        right = axes.twinx()
    right.set_ylabel(label)
    right.spines["top"].set_visible(False)
    return right


def legend(axes: Any, lines: Sequence[Any] | None = None, columns: int = 4) -> None:
    """A legend above the axes: of all that has a label, or of these lines."""
    handles, labels = axes.get_legend_handles_labels()
    if lines is not None:
        handles, labels = list(lines), [line.get_label() for line in lines]
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=8,
        labelcolor=_INK,
    )  # fmt: skip


def svg(picture: Any, label: str) -> str:
    """A picture as an SVG element.

    Args:
        picture: What :func:`figure` gave.
        label: What it shows, for those who do not see it; no two on a page may have the same.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _style(label):
        picture.savefig(stream, format="svg", metadata=nothing, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    for color, name in _NAMES.items():
        text = text.replace(f": {color}", f": {name}")
    return text


def _style(label: str) -> Any:
    import matplotlib

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    # the salt keeps the ids of two pictures on one page apart, and the file the same from run to run
    return matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif", **dict.fromkeys(ink, _INK)}
    )

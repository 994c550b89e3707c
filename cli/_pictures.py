"""The pictures of the report, as SVG that stands inside an HTML page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from prunekit.core.errors import MissingDependencyError

__all__ = ["curve_picture", "require_matplotlib", "widths_picture"]

_BEFORE, _AFTER, _ACCENT = "#c3ccd6", "#1f6f8b", "#b5541c"


def widths_picture(groups: Sequence[Mapping[str, Any]]) -> str:
    """Bars of the width of each group, before and after.

    Args:
        groups: Mappings with ``name``, ``before`` and ``after``.
    """
    if not groups:
        return "<p>No group of this network can be cut.</p>"
    figure, axes = _figure(8.0, 0.9 + 0.26 * len(groups))
    places = range(len(groups))
    axes.barh(places, [g["before"] for g in groups], height=0.8, color=_BEFORE, label="before")
    axes.barh(places, [g["after"] for g in groups], height=0.5, color=_AFTER, label="after")
    axes.set_yticks(places)
    axes.set_yticklabels([str(g["name"]) for g in groups], fontsize=8, parse_math=False)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    most = max(g["before"] for g in groups)
    for place, group in enumerate(groups):
        text = f"{group['after']} of {group['before']}"
        axes.text(group["before"] + 0.01 * most, place, text, va="center", fontsize=7)
    axes.set_xlim(0, most * 1.13)
    axes.set_xlabel("channels")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
    return _svg(figure, "Channels of each group before and after pruning")


def curve_picture(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Training loss and validation accuracy over all epochs, stage after stage.

    Args:
        epochs: Mappings with ``stage``, ``loss`` and, where it was measured, ``val_top1``.
    """
    if not epochs:
        return "<p>Nothing was trained in this run.</p>"
    figure, axes = _figure(8.0, 3.0)
    steps = range(1, len(epochs) + 1)
    axes.plot(steps, [e["loss"] for e in epochs], color=_ACCENT, marker="o", markersize=3, label="training loss")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    scored = [(step, e.get("val_top1")) for step, e in zip(steps, epochs, strict=True)]
    measured = [(step, 100 * top1) for step, top1 in scored if top1 is not None]
    lines = list(axes.get_lines())
    if measured:
        right = axes.twinx()
        right.plot(*zip(*measured, strict=True), color=_AFTER, marker="s", markersize=3, label="validation accuracy")
        right.set_ylabel("accuracy (%)")
        right.spines["top"].set_visible(False)
        lines += right.get_lines()
    for step, (last, now) in enumerate(zip(epochs, epochs[1:], strict=False), start=1):
        if last["stage"] != now["stage"]:
            axes.axvline(step + 0.5, color=_BEFORE, linewidth=1, linestyle="--")
    labels = [line.get_label() for line in lines]
    axes.legend(lines, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
    return _svg(figure, "Training loss and validation accuracy by epoch")


def require_matplotlib() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "a report needs matplotlib, which is not installed; run `pip install prunekit[report]`"
        ) from error


def _figure(width: float, height: float) -> tuple[Any, Any]:
    require_matplotlib()
    from matplotlib.figure import Figure

    # a Figure of our own, not pyplot's: no display, and no state shared with the caller
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, label: str) -> str:
    import matplotlib

    stream = io.StringIO()
    # the salt keeps the ids of two pictures on one page apart, and the file the same from run to run
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)

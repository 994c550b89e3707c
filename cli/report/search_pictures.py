"""The pictures of a search: fronts, history, generations, correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from prunekit.cli.report.findings import by_index
from prunekit.cli.report.parts import label
from prunekit.cli.report.pictures import ACCENT, AFTER, BEFORE, DOTS, THIRD, figure, legend, svg, twin

__all__ = ["correlation_picture", "front_picture", "generations_picture", "history_picture", "shown_generations"]

_MOST_DOTS = 2000  # more only make the page heavy
_UNITS = {"memory": (1e3, "kB"), "bandwidth": (1e3, "kB"), "latency": (1e-3, "ms")}
_LOOKS = ((THIRD, "s", 9), (ACCENT, "^", 7), (AFTER, "o", 4))  # the last generation is always the dots


def shown_generations(generations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first, a middle and the last generation that have a front; fewer where there are fewer."""
    having = [generation for generation in generations if generation.get("front")]
    places = sorted({0, len(having) // 2, len(having) - 1}) if having else []
    return [having[place] for place in places]


def front_picture(search: Mapping[str, Any], cost: str) -> str:
    """The fronts of the first, a middle and the last generation, over all candidates.

    Args:
        search: As :func:`prunekit.cli.report.findings.collect_search` tells it.
        cost: Which cost to show against the score.
    """
    known = by_index(search["candidates"])
    dots = [c for c in _thinned(search["candidates"]) if cost in c["figures"]]
    scale, unit = _unit(cost, [c["figures"][cost] for c in dots])
    picture, axes = figure(8.0, 4.2)
    axes.plot(
        [c["figures"][cost] / scale for c in dots], [100 * c["score"] for c in dots], "o", color=DOTS, markersize=3,
        alpha=0.5, markeredgewidth=0, label="candidates",
    )  # fmt: skip
    shown = shown_generations(search["generations"])
    for generation, (color, marker, size) in zip(shown, _LOOKS[-len(shown) :], strict=True):
        members = sorted((known[index] for index in generation["front"]), key=lambda c: c["figures"][cost])
        axes.plot(
            [c["figures"][cost] / scale for c in members], [100 * c["score"] for c in members], marker=marker,
            color=color, markersize=size, markerfacecolor="none" if size > 4 else color, linewidth=1.2,
            linestyle="-" if len(search["costs"]) == 1 else "none",
            label=f"front, generation {generation['generation']}",
        )  # fmt: skip
    axes.set_xlabel(f"{label(cost)} ({unit})" if unit else label(cost))
    axes.set_ylabel("score (%)")
    legend(axes)
    return svg(picture, f"Pareto fronts of {label(cost)} and score by generation")


def history_picture(search: Mapping[str, Any]) -> str:
    """Score of every candidate in the order of the search, with the best so far."""
    candidates = list(enumerate(search["candidates"]))
    # scores of few batches are not comparable with whole ones
    best = accumulate((c["score"] if c["figures"].get("part", 1) == 1 else float("-inf") for _, c in candidates), max)
    curve = [(place, 100 * value) for place, value in enumerate(best) if value > float("-inf")]
    picture, axes = figure(8.0, 3.0)
    for whole, color, text in ((True, AFTER, "score"), (False, DOTS, "score by fewer batches")):
        dots = _thinned([(place, c) for place, c in candidates if (c["figures"].get("part", 1) == 1) == whole])
        if dots:
            axes.plot(
                [place for place, _ in dots], [100 * c["score"] for _, c in dots], "o", color=color, markersize=3,
                alpha=0.45, markeredgewidth=0, label=text,
            )  # fmt: skip
    if curve:
        axes.step(*zip(*curve, strict=True), where="post", color=ACCENT, linewidth=1.5, label="best so far")
    for place, (last, now) in enumerate(zip(candidates, candidates[1:], strict=False), start=1):
        if last[1]["generation"] != now[1]["generation"] and len(search["generations"]) <= 60:
            axes.axvline(place - 0.5, color=BEFORE, linewidth=0.7, linestyle="--", zorder=0)
    axes.set_xlabel("candidate" + (" (dashed lines part generations)" if len(search["generations"]) > 1 else ""))
    axes.set_ylabel("score (%)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes)
    return svg(picture, "Score of every candidate and the best so far")


def generations_picture(generations: Sequence[Mapping[str, Any]]) -> str:
    """Best and mean score of each generation, and the hypervolume where it was noted."""
    picture, axes = figure(8.0, 3.0)
    for key, color, marker in (("best", AFTER, "o"), ("mean", DOTS, "s")):
        points = [(g["generation"], 100 * g[key]) for g in generations if g.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=3, label=f"{key} score")
    axes.set_xlabel("generation")
    axes.set_ylabel("score (%)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    lines = list(axes.get_lines())
    volumes = [(g["generation"], g["hypervolume"]) for g in generations if g.get("hypervolume") is not None]
    if volumes:
        right = twin(axes, "hypervolume")
        right.plot(*zip(*volumes, strict=True), color=ACCENT, marker="^", markersize=3, label="hypervolume")
        lines += right.get_lines()
    legend(axes, lines)
    return svg(picture, "Scores and hypervolume by generation")


def correlation_picture(found: Mapping[str, Any]) -> str:
    """Scores of trained candidates beside their accuracies."""
    picture, axes = figure(5.5, 4.0)
    sides = found["coefficients"]
    of_score = next((name for name in sides if name != "unadapted"), "")
    for name, key, color, marker in ((of_score, "score", AFTER, "o"), ("unadapted", "unadapted", THIRD, "x")):
        points = [(100 * p[key], 100 * p["trained"]) for p in found["pairs"] if p[key] is not None]
        if not points:
            continue
        text = "score" if key == "score" else "score without adapting"
        if name in sides:
            text += f": τ = {sides[name]['kendall']:.2f}, r = {sides[name]['pearson']:.2f}"
        axes.plot(*zip(*points, strict=True), marker, color=color, markersize=5, label=text)
    axes.set_xlabel("score (%)")
    axes.set_ylabel("accuracy after training (%)")
    legend(axes, columns=1)
    return svg(picture, "Score and accuracy after training")


def _unit(cost: str, values: Sequence[float]) -> tuple[float, str]:
    if cost in _UNITS:
        return _UNITS[cost]
    most = max(values, default=0)
    return next(((scale, name) for scale, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if most >= scale), (1, ""))


def _thinned(items: Sequence[Any]) -> list[Any]:
    """At most so many of them, evenly spread."""
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), _MOST_DOTS)).round().astype(int))
    return [items[place] for place in places]

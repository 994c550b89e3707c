"""The sections on a search: its fronts, its history, how well scores foretold accuracies, and its candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from prunekit.cli.report.findings import by_index, ranked
from prunekit.cli.report.parts import Figure, Picture, Section, Table, count, figure, label, percent, seconds
from prunekit.cli.report.search_pictures import (
    correlation_picture,
    front_picture,
    generations_picture,
    history_picture,
    shown_generations,
)

__all__ = ["MOST_ROWS", "search_sections"]

MOST_ROWS = 500
_SIDES = {
    "adapted": "statistics adapted", "unadapted": "statistics as they were", "generated": "generated weights",
    "score": "score of the search",
}  # fmt: skip
_OWN = ("generation", "candidates", "best", "mean", "hypervolume", "front", "objectives")


def search_sections(search: Mapping[str, Any]) -> tuple[list[Section], list[Section]]:
    """Sections to stand before the widths, and after the costs."""
    return [_fronts(search)], [_history(search), _correlation(search), _candidates(search)]


def _fronts(search: Mapping[str, Any]) -> Section:
    if not search["front"]:
        return Section("Pareto front by generation")
    known = by_index(search["candidates"])
    costs = search["costs"]
    numbers = ", ".join(str(g["generation"]) for g in shown_generations(search["generations"]))
    text = (
        f"Candidates that no other one beats in score, {', '.join(map(label, costs))} at once, up to generation "
        f"{numbers}; faint dots are all candidates."
    )
    pictures = [Picture(partial(front_picture, search, cost)) for cost in costs]
    members = [known[index] for index in search["front"]]
    trained = {pair["index"]: pair["trained"] for pair in (search["correlation"] or {}).get("pairs", [])}
    head = ["candidate", "generation", "score", *map(label, costs), *(["trained"] if trained else [])]
    lines = [
        (
            count(c["index"]), count(c["generation"]), percent(c["score"]),
            *(figure(cost, c["figures"].get(cost)) for cost in costs),
            *([percent(trained.get(c["index"]))] if trained else []),
        )
        for c in members
    ]  # fmt: skip
    return Section("Pareto front by generation", [text, *pictures, Table(head, lines)])


def _history(search: Mapping[str, Any]) -> Section:
    generations = search["generations"]
    parts: list[str | Table | Picture] = [
        Picture(
            partial(history_picture, search), "Score of every candidate in the order of the search; the best so far"
        )
    ]
    if len(generations) < 2:
        return Section("Search history", parts, brief=False)
    told = [key for key in ("candidates", "best", "mean", "hypervolume") if any(key in g for g in generations)]
    told += [
        key
        for key in dict.fromkeys(k for g in generations for k in g)
        if key not in _OWN and all(isinstance(g.get(key), (int, float, type(None))) for g in generations)
    ]
    head = ["generation", *map(label, told), *(["front"] if search["front"] else [])]
    lines = [
        (
            count(g["generation"]), *(figure(key, g.get(key)) for key in told),
            *([count(len(g.get("front") or []))] if search["front"] else []),
        )
        for g in generations
    ]  # fmt: skip
    parts.append(Picture(partial(generations_picture, generations), "By generation"))
    return Section("Search history", [*parts, Table(head, lines, fold="Generations as a table")], brief=False)


def _correlation(search: Mapping[str, Any]) -> Section:
    found = search["correlation"]
    if not found:
        return Section("Correlation")
    pairs, sides = found["pairs"], found["coefficients"]
    epochs = f" for {found['epochs']:g} epochs" if found["epochs"] is not None else ""
    text = f"{len(pairs)} candidates were trained{epochs}; their scores beside the accuracy on the test images."
    parts: list[str | Table | Picture] = [text, Picture(partial(correlation_picture, found))]
    if sides:
        lines = [
            (_SIDES.get(name, name), count(side["points"]), *(_interval(side, key) for key in ("kendall", "pearson")))
            for name, side in sides.items()
        ]
        parts.append(Table(("score", "candidates", "Kendall's τ (95 %)", "Pearson's r (95 %)"), lines))
    bare = any(pair["unadapted"] is not None for pair in pairs)
    head = ("candidate", "score", *(["without adapting"] if bare else []), "trained, test images")
    points = [
        (
            count(pair["index"]), percent(pair["score"]), *([percent(pair["unadapted"])] if bare else []),
            percent(pair["trained"]),
        )
        for pair in pairs
    ]  # fmt: skip
    return Section("Correlation", [*parts, Table(head, points)])


def _interval(side: Mapping[str, Any], key: str) -> Figure:
    low, high = side[f"{key}_interval"]
    return Figure(f"{side[key]:.2f} [{low:.2f}, {high:.2f}]", side[key])


def _candidates(search: Mapping[str, Any]) -> Section:
    head, lines = candidate_lines(search, MOST_ROWS)
    everyone = len(search["candidates"])
    text = f"All {everyone:,} scores." if everyone <= MOST_ROWS else (
        f"The best {MOST_ROWS:,} of {everyone:,} scores; prunekit report DIR --format csv prints all."
    )  # fmt: skip
    return Section("Candidates", [text, Table(head, lines, fold="Scores of all candidates")], brief=False)


def candidate_lines(search: Mapping[str, Any], most: int) -> tuple[Sequence[str], list[Sequence[Any]]]:
    """Heads and lines of the best candidates."""
    front = set(search["front"])
    chosen = ranked(search["candidates"], search["front"])[:most]
    names = list(dict.fromkeys(name for c in chosen for name in c["figures"]))
    head = ("candidate", "generation", "score", *map(label, names), *(["front"] if front else []), "seconds")
    lines: list[Sequence[Any]] = []
    for c in chosen:
        cells = [figure(n, c["figures"][n]) if n in c["figures"] else Figure("-", None) for n in names]
        on_front = [Figure("yes", 1) if c["index"] in front else Figure("", 0)] if front else []
        lines.append(
            (count(c["index"]), count(c["generation"]), percent(c["score"]), *cells, *on_front, seconds(c["seconds"]))
        )
    return head, lines

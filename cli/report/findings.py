"""What a search found, read from its study: candidates, generations, fronts, scores beside trained accuracies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from prunekit.core.correlation import correlate
from prunekit.core.errors import StudyError
from prunekit.core.study import Study

__all__ = ["COSTS", "by_index", "collect_search", "ranked"]

COSTS = ("macs", "flops", "params", "memory", "bandwidth", "latency")
"""Figures of a candidate that are better the smaller they are."""

_LEAST_PAIRS = 4  # fewer have no correlation
_TRAINED = ("fine_tuned", "trained", "test_accuracy", "trained_accuracy")


def collect_search(study: Study | None, figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is known of a search; None where there was none.

    Args:
        study: Its study, where it has one.
        figures: What the method said of its result; empty before the end.

    Returns:
        - ``candidates``: in the order in which they were tried: ``index``, ``generation``, ``score``, ``seconds``,
          ``seed``, ``figures`` by name, and ``vector``.
        - ``best``: the best of them, without its vector; None without candidates.
        - ``costs``: names of the figures that fronts are made of, beside the score; empty for a search that has
          one objective.
        - ``generations``: for each its number as ``generation``, how many ``candidates`` it has, their ``best`` and
          ``mean`` score, the ``front`` up to then (indices), ``hypervolume`` and whatever else the method noted.
        - ``front``: indices of the last front.
        - ``correlation``: ``pairs`` of ``index``, ``score`` and ``trained`` accuracy (and ``unadapted``), and
          ``coefficients`` by what was correlated; None where fewer than one was trained.

    Raises:
        StudyError: The study is damaged.
    """
    notes, pairs = _notes(study, "generation"), _notes(study, "correlation")
    # after the notes: these may name candidates that a search at work has only just scored
    candidates = _candidates(study) if study is not None else _of_results(figures)
    if not candidates:
        return None
    costs = _costs(candidates, notes, figures)
    generations = _generations(candidates, notes, costs)
    fronts = [generation["front"] for generation in generations if generation.get("front")]
    best = ranked(candidates)[0]
    return {
        "candidates": candidates,
        "best": {key: value for key, value in best.items() if key != "vector"},
        "costs": costs,
        "generations": generations,
        "front": fronts[-1] if fronts else [],
        "correlation": _correlation(figures, pairs),
    }


def ranked(candidates: Sequence[Mapping[str, Any]], front: Sequence[int] = ()) -> list[Mapping[str, Any]]:
    """Candidates, best first: those of a front, then those scored in full, then by score."""
    chosen = set(front)
    return sorted(
        candidates,
        key=lambda c: (c["index"] not in chosen, -c["figures"].get("part", 1.0), -c["score"], c["index"]),
    )


def by_index(candidates: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Candidates by their number; of one that was scored more than once, the last score."""
    return {candidate["index"]: candidate for candidate in candidates}


def _candidates(study: Study) -> list[dict[str, Any]]:
    return [
        {
            "index": c.index, "generation": c.generation, "score": c.score, "seconds": c.seconds, "seed": c.seed,
            "figures": {k: v for k, v in c.figures.items() if isinstance(v, (int, float))}, "vector": list(c.vector),
        }
        for c in study
    ]  # fmt: skip


def _of_results(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Candidates of a search that left no study, from the strategies among its figures."""
    return [
        {
            "index": line["index"], "generation": 0, "score": line["score"], "seconds": None, "seed": None,
            "figures": {k: v for k, v in line.items() if k not in ("index", "score")}, "vector": None,
        }
        for line in figures.get("strategies") or []
    ]  # fmt: skip


def _notes(study: Study | None, kind: str) -> dict[int, dict[str, Any]]:
    """Notes of a kind, by number."""
    if study is None:
        return {}
    try:
        found = {int(name): dict(data) for name, data in study.notes(kind).items()}
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise StudyError(
            f"notes on a {kind} must be what a search wrote, got changed ones in {study.path} ({error})"
        ) from error
    return dict(sorted(found.items()))


def _costs(
    candidates: Sequence[Mapping[str, Any]], notes: Mapping[int, Mapping[str, Any]], figures: Mapping[str, Any]
) -> list[str]:
    """The costs that the search weighed against the score: those it names, or one that differs among candidates."""
    known = [name for name in COSTS if all(name in c["figures"] for c in candidates)]
    named = figures.get("objectives") or next((n["objectives"] for n in notes.values() if n.get("objectives")), None)
    if named:
        return [name for name in known if name in named]
    return [name for name in known if len({c["figures"][name] for c in candidates}) > 1][:1]


def _generations(
    candidates: Sequence[Mapping[str, Any]], notes: Mapping[int, Mapping[str, Any]], costs: Sequence[str]
) -> list[dict[str, Any]]:
    ordered = sorted(candidates, key=lambda c: c["generation"])
    members = {number: list(group) for number, group in groupby(ordered, key=lambda c: c["generation"])}
    found: list[dict[str, Any]] = []
    front: list[Mapping[str, Any]] = []
    for number in sorted({*members, *notes}):
        here, note = members.get(number, []), notes.get(number, {})
        scores = [c["score"] for c in here]
        line: dict[str, Any] = {"generation": number, "candidates": len(here)}
        line |= {"best": max(scores), "mean": sum(scores) / len(scores)} if scores else {}
        if costs:
            front = _front([*front, *here], costs)
            line["front"] = [c["index"] for c in front]
        found.append({**line, **note})
    return found


def _front(candidates: Sequence[Mapping[str, Any]], costs: Sequence[str]) -> list[Mapping[str, Any]]:
    """Those that none of the others beats in every respect, by the first cost."""
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting  # takes a while to load

    if not candidates:
        return []
    values = np.array([[-c["score"], *(c["figures"][name] for name in costs)] for c in candidates], dtype=np.float64)
    chosen = NonDominatedSorting().do(values, only_non_dominated_front=True)
    return sorted((candidates[int(k)] for k in chosen), key=lambda c: (c["figures"][costs[0]], c["index"]))


def _correlation(figures: Mapping[str, Any], notes: Mapping[int, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Scores beside accuracies after training: as the method gives them, as it noted them so far, or of its front."""
    told = figures.get("correlation") or {}
    lines = told.get("candidates") or list(notes.values()) or figures.get("front") or []
    pairs = [pair for pair in map(_pair, lines) if pair is not None]
    if not pairs:
        return None
    coefficients = {
        key: dict(value) for key, value in told.items() if isinstance(value, Mapping) and "kendall" in value
    }
    if not coefficients and len(pairs) >= _LEAST_PAIRS:
        trained = [pair["trained"] for pair in pairs]
        coefficients = {"score": correlate([pair["score"] for pair in pairs], trained).to_dict()}
    return {"epochs": told.get("epochs"), "pairs": pairs, "coefficients": coefficients}


def _pair(line: Any) -> dict[str, Any] | None:
    if not isinstance(line, Mapping):
        return None
    trained = next((line[key] for key in _TRAINED if line.get(key) is not None), None)
    score = line.get("score", line.get("accuracy"))
    if trained is None or score is None:
        return None
    return {"index": line["index"], "score": score, "unadapted": line.get("unadapted"), "trained": trained}

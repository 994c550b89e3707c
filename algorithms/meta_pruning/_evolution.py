"""The evolution: parents are the best so far, children their mutants and crossings within the budget."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.meta_pruning._settings import MetaPruningSettings
from prunekit.algorithms.meta_pruning._space import Space, Taken
from prunekit.core.candidates import Candidate

__all__ = ["evolve", "ranked"]

IntArray = NDArray[np.int64]
Score = Callable[[IntArray, int], Sequence[Candidate]]
"""The candidates of vectors ``(n, length)`` of a generation, in their order."""
Tell = Callable[[int, dict[str, Any]], object]


def evolve(space: Space, score: Score, settings: MetaPruningSettings, seed: int, tell: Tell) -> list[Candidate]:
    """Search; what comes of it follows from the settings, the seed and the scores alone.

    A child that misses the budget, or was proposed before, is drawn again, so often at most; random networks take the
    places that are left. The search ends early where no new network can be found.

    Args:
        space: The vectors that are allowed.
        score: Scores vectors.
        settings: How many of what.
        seed: Of the draws.
        tell: Called after each generation with its number and its figures.

    Returns:
        All candidates, in the order in which they were proposed.
    """
    found: list[Candidate] = []
    kept: list[Candidate] = []
    taken = Taken()
    for generation in range(settings.generations):
        rng = np.random.default_rng([seed, generation])
        vectors, counts = _propose(space, kept[: settings.top_k], settings, rng, taken)
        if not vectors:
            tell(generation, {"candidates": 0, **_summary(kept)})
            break
        scored = list(score(np.array(vectors), generation))
        found += scored
        kept = ranked([*kept, *scored])[: settings.keep]
        scores = [c.score for c in scored]
        here = {"best": max(scores), "mean": statistics.fmean(scores)}
        tell(generation, {"candidates": len(scored), **here, **_summary(kept), **counts})
    return found


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates from the best score to the worst; of equal ones the earlier comes first."""
    return sorted(candidates, key=lambda c: (-c.score, c.index))


def _propose(
    space: Space, parents: Sequence[Candidate], settings: MetaPruningSettings, rng: np.random.Generator, taken: Taken
) -> tuple[list[IntArray], dict[str, int]]:
    """The vectors of a generation, and how many came of what."""
    mutants: list[IntArray] = []
    crossed: list[IntArray] = []
    if parents:
        vectors = np.array([c.vector for c in parents], dtype=np.int64)
        mutants = space.mutate(vectors, settings.mutations, settings.mutation, rng, taken)
        crossed = space.cross(vectors, settings.crossovers, rng, taken)
    rest = space.draw(settings.population - len(mutants) - len(crossed), rng, taken)
    counts = {"mutants": len(mutants), "crossovers": len(crossed), "random": len(rest)}
    return [*mutants, *crossed, *rest], counts


def _summary(kept: Sequence[Candidate]) -> dict[str, float]:
    return {"best_so_far": kept[0].score, "kept_mean": statistics.fmean(c.score for c in kept)} if kept else {}

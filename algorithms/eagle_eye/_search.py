"""The ways through the candidates: all in full, by successive halving, or bred from those that scored well."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.eagle_eye._space import Space
from prunekit.core.candidates import Candidate, Proposal
from prunekit.core.ledger import Ledger

__all__ = ["Rung", "Scorer", "breed", "halve", "plan_rungs", "score_all"]

FloatArray = NDArray[np.float64]

_SHARE = 0.25  # of the cost of scoring all in full; well below a third, as cutting is paid for on every rung
_VALIDATION = 2  # a held-out batch holds twice the images of a training batch
_LEAST_POPULATION, _MOST_POPULATION = 4, 20


@dataclass(frozen=True)
class Rung:
    """How a number of candidates is scored.

    Attributes:
        count: Candidates.
        bn_batches: Batches for the batch norm statistics.
        validation_batches: Held-out batches.
        part: Cost of one such score, as a share of a whole evaluation's.
    """

    count: int
    bn_batches: int
    validation_batches: int
    part: float


class Scorer:
    """Scores vectors by a whole evaluation, or by a part of one.

    Args:
        ledger: Where scores come from.
        space: What vectors mean.
        whole: A whole evaluation.
    """

    def __init__(self, ledger: Ledger, space: Space, whole: Rung) -> None:
        self.whole = whole
        self._ledger, self._space = ledger, space

    def __call__(
        self, vectors: FloatArray, indices: Sequence[int], rung: Rung | None = None, generation: int = 0
    ) -> list[Candidate]:
        """The candidates of vectors, ``(n, length)``."""
        rung = rung or self.whole
        options = {"bn_batches": rung.bn_batches, "validation_batches": rung.validation_batches}
        part = {"part": rung.part} if rung.part < 1 else {}
        ratios = self._space.ratios(vectors)
        return self._ledger.score(
            [
                Proposal(tuple(vector.tolist()), index, generation, {"ratio": float(ratio), **part}, options)
                for vector, index, ratio in zip(vectors, indices, ratios, strict=True)
            ]
        )


def score_all(score: Scorer, vectors: FloatArray) -> list[Candidate]:
    """Every candidate, in full."""
    return score(vectors, range(len(vectors)))


def plan_rungs(count: int, bn_batches: int, validation_batches: int) -> list[Rung]:
    """The rungs of successive halving (Jamieson and Talwalkar, 2016); the last one scores in full.

    Together they cost at most a third of scoring all in full, as long as a first look can be cheap enough: with
    fewer than some five batches it cannot, and one candidate is left to the last rung.

    Args:
        count: Candidates.
        bn_batches: Batches for batch norm statistics in a whole evaluation.
        validation_batches: Held-out batches in a whole evaluation.
    """

    def rung(n: int, bn: int, validation: int) -> Rung:
        bn, validation = min(bn_batches, max(1, bn)), max(1, validation)
        whole = bn_batches + _VALIDATION * validation_batches
        return Rung(n, bn, validation, (bn + _VALIDATION * validation) / whole)

    first = rung(count, bn_batches // 20, validation_batches // 6)
    if first.part >= 1:
        return [rung(count, bn_batches, validation_batches)]
    second = rung(max(1, count // 4), bn_batches // 5, validation_batches // 2)
    for rungs in ([first, second], [first]):
        left = _SHARE * count - sum(r.count * r.part for r in rungs)
        if left >= 1 and rungs[-1].part < 1 and (len(rungs) == 1 or second.part > first.part):
            break
    return [*rungs, rung(min(rungs[-1].count, max(1, math.floor(left))), bn_batches, validation_batches)]


def halve(score: Scorer, vectors: FloatArray) -> tuple[list[Candidate], list[Rung]]:
    """Few batches for all, more for the best, everything for the best of these.

    Returns:
        All scores in the order in which they were given, and the rungs.
    """
    rungs = plan_rungs(len(vectors), score.whole.bn_batches, score.whole.validation_batches)
    found: list[Candidate] = []
    chosen = list(range(len(vectors)))
    for generation, rung in enumerate(rungs):
        here = score(vectors[chosen[: rung.count]], chosen[: rung.count], rung, generation)
        found += here
        chosen = [c.index for c in sorted(here, key=lambda c: (-c.score, c.figures["loss"], c.index))]
    return found, rungs


def breed(score: Scorer, vectors: FloatArray, space: Space, seed: int) -> tuple[list[Candidate], int]:
    """A genetic algorithm whose children are moved to the budget; as many scores as there are vectors.

    Args:
        score: Scores a vector.
        vectors: Random candidates: the first of them are the first generation, others take the place of
            children that miss the budget or were scored already.
        space: The candidates that are allowed.
        seed: Of the algorithm.

    Returns:
        All scores in the order in which they were given, and how many are of the first generation.
    """
    size = min(len(vectors), _MOST_POPULATION, max(_LEAST_POPULATION, len(vectors) // 3))
    if size == len(vectors):
        return score_all(score, vectors), size
    algorithm = _genetic_algorithm(space, vectors[:size], seed)
    seen: set[bytes] = set()
    found: list[Candidate] = []
    for generation in itertools.count():
        children = algorithm.ask()
        wishes = space.shift(np.array([child.X for child in children], dtype=np.float64)) if found else vectors[:size]
        taken = np.array(_distinct(wishes, vectors, space, seen)[: len(vectors) - len(found)])
        scored = score(taken, range(len(found), len(found) + len(taken)), generation=generation)
        found += scored
        if len(found) == len(vectors):
            return found, size
        for child, candidate in zip(children, scored, strict=True):
            child.X, child.F = np.array(candidate.vector), np.array([-candidate.score])
        algorithm.tell(infills=children)
    raise AssertionError("the loop ends by returning")


def _genetic_algorithm(space: Space, first: FloatArray, seed: int) -> Any:
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination

    length = space.encoding.length
    problem = Problem(n_var=length, n_obj=1, xl=np.full(length, space.low), xu=np.full(length, space.high))
    # doubles are taken out by widths, which pymoo does not know
    algorithm = GA(pop_size=len(first), sampling=first, eliminate_duplicates=False)
    algorithm.setup(problem, termination=NoTermination(), seed=seed)
    return algorithm


def _distinct(wishes: FloatArray, spare: FloatArray, space: Space, seen: set[bytes]) -> list[FloatArray]:
    """The wishes, with unseen spare vectors in the place of those that miss the budget or were seen."""
    taken: list[FloatArray] = []
    for wish in wishes:
        for vector in (wish, *spare):
            if space.within(vector[None])[0] and space.key(vector) not in seen:
                seen.add(space.key(vector))
                taken.append(vector)
                break
    return taken

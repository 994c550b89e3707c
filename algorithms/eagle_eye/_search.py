"""The ways through the candidates: all in full, by successive halving, or bred from those that scored well."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.eagle_eye._space import Space
from prunekit.algorithms.evaluation import Evaluator
from prunekit.core.candidates import Candidate, Candidates
from prunekit.core.method import Task
from prunekit.core.strategies import strategy_line

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
    """Scores vectors, and hands each score on as soon as it is there.

    Args:
        task: What the search works on.
        space: What vectors mean.
        evaluator: What scores their networks.
        kept: What keeps the scores.
    """

    def __init__(self, task: Task, space: Space, evaluator: Evaluator, kept: Candidates) -> None:
        self._task, self._space, self._evaluator, self._kept = task, space, evaluator, kept

    @property
    def whole(self) -> Rung:
        """A whole evaluation."""
        return Rung(1, self._evaluator.bn_batches, self._evaluator.validation_batches, 1.0)

    def __call__(self, index: int, vector: FloatArray, rung: Rung | None = None) -> Candidate:
        """The score of a vector."""
        rung = rung or self.whole
        plan = self._space.encoding.decode(vector)
        score = self._evaluator(plan, bn_batches=rung.bn_batches, validation_batches=rung.validation_batches)
        figures = {"ratio": float(self._space.ratios(vector[None])[0]), "loss": score.loss}
        figures |= {"part": rung.part} if rung.part < 1 else {}
        rates = tuple(float(rate) for rate in vector)
        candidate = Candidate(index, rates, score.top1, figures, seconds=score.seconds)
        self._kept.add(candidate)
        self._task.say(strategy_line(candidate))
        if self._task.log is not None:
            self._task.log.write(
                "candidate", index=index, score=candidate.score, seconds=candidate.seconds, **candidate.figures
            )
        return candidate


def score_all(score: Scorer, vectors: FloatArray) -> list[Candidate]:
    """Every candidate, in full."""
    return [score(index, vector) for index, vector in enumerate(vectors)]


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
    for rung in rungs:
        here = [score(index, vectors[index], rung) for index in chosen[: rung.count]]
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
    while len(found) < len(vectors):
        children = algorithm.ask()
        wishes = space.shift(np.array([child.X for child in children], dtype=np.float64)) if found else vectors[:size]
        taken = _distinct(wishes, vectors, space, seen)[: len(vectors) - len(found)]
        for child, vector in zip(children, taken, strict=False):
            found.append(score(len(found), vector))
            child.X, child.F = vector, np.array([-found[-1].score])
        if len(found) < len(vectors):
            algorithm.tell(infills=children)
    return found, size


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

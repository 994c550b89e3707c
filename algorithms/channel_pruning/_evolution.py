"""The search for widths by a genetic algorithm, of pymoo: for installs without an agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.problems.static import StaticProblem

from prunekit.core.rollouts import Decisions
from prunekit.core.shift import shift_to_budget

__all__ = ["evolution_search"]

FloatArray = NDArray[np.float64]

_PARTS = 5  # at least so many generations
_PATIENCE = 4  # candidates are drawn up to so many times the number of evaluations: many are met again


def evolution_search(
    decisions: Decisions, evaluate: Callable[[NDArray[np.int64]], Sequence[float]], *, rollouts: int, seed: int
) -> None:
    """Let a population of shares evolve, each brought to the budget before it is scored.

    Args:
        decisions: What is decided, and the budget.
        evaluate: The accuracies at group widths, ``(n, G)``; it remembers what it was asked.
        rollouts: Different candidates to score; fewer where the search meets no others.
        seed: Of all that is drawn.
    """
    size = max(4, min(20, rollouts // _PARTS))
    problem = Problem(n_var=len(decisions), n_obj=1, xl=decisions.lbound, xu=1.0)
    algorithm = GA(pop_size=size)
    algorithm.setup(problem, termination=("n_gen", _PATIENCE * rollouts), seed=seed)
    seen: set[tuple[int, ...]] = set()
    for _ in range(max(_PATIENCE * rollouts // size, 1)):
        population = algorithm.ask()
        if population is None or len(population) == 0:
            return
        kept = _at_budget(decisions, np.asarray(population.get("X"), dtype=np.float64))
        some = _until(kept, seen, rollouts)
        scores = evaluate(decisions.widths(kept[:some]))
        if len(seen) == rollouts:
            return
        population.set("X", np.clip(kept / decisions.sizes, decisions.lbound, 1.0))
        Evaluator().eval(StaticProblem(problem, F=-np.array(scores, dtype=np.float64)[:, None]), population)
        algorithm.tell(infills=population)


def _until(kept: NDArray[np.int64], seen: set[tuple[int, ...]], most: int) -> int:
    """How many rows, ``(n, D)``, may be scored until ``most`` different ones are seen; they are added to ``seen``."""
    for place, row in enumerate(kept, start=1):
        seen.add(tuple(row.tolist()))
        if len(seen) == most:
            return place
    return len(kept)


def _at_budget(decisions: Decisions, shares: FloatArray) -> NDArray[np.int64]:
    """Channels per decision, ``(n, D)``, near shares that are all moved alike until the budget is met."""
    moved = shift_to_budget(
        shares, decisions.lbound, 1.0, lambda table: decisions.macs(decisions.rounded(table)), decisions.target
    )
    return np.stack([decisions.fit(row) for row in decisions.rounded(moved)])

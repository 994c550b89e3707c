"""The search: generation after generation is proposed, scored, and told to the evolution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.prune_ea._evolution import Evolution
from prunekit.algorithms.prune_ea._front import Front, hypervolume
from prunekit.algorithms.prune_ea._objectives import Objectives
from prunekit.algorithms.prune_ea._settings import PruneEASettings
from prunekit.algorithms.prune_ea._tables import Tables
from prunekit.algorithms.prune_ea._variation import Variation
from prunekit.core.candidates import Candidate, Proposal
from prunekit.core.encoding import ZeroOneEncoding
from prunekit.core.ledger import Ledger
from prunekit.core.method import Task

__all__ = ["Found", "Search"]


@dataclass
class Found:
    """What a search knows so far.

    Attributes:
        candidates: All models, in the order of the search.
        front: Those on the Pareto front.
        generations: Of each its ``generation``, the ``hypervolume`` after it, the ``front`` after it (indices, by
            cost), how many models were ``evaluated`` by then, and the ``objectives``.
        tables: Their files.
    """

    front: Front
    tables: Tables
    candidates: list[Candidate] = field(default_factory=list)
    generations: list[dict[str, Any]] = field(default_factory=list)


class Search:
    """One search.

    It is a function of settings, seed and scores: run again on the same study it proposes the same models, and what
    is scored there is looked up.

    Args:
        task: What to work on.
        settings: How.
        encoding: What vectors mean.
        objectives: What models are worth.
    """

    def __init__(
        self, task: Task, settings: PruneEASettings, encoding: ZeroOneEncoding, objectives: Objectives
    ) -> None:
        self._task, self._settings = task, settings
        self._encoding, self._objectives = encoding, objectives

    def run(self) -> Found:
        """All generations; fewer where no new models are found any more.

        Raises:
            OutputError: The study or a file cannot be written.
            PrunekitError: An evaluation failed.
        """
        s, task = self._settings, self._task
        variation = Variation(self._encoding, s.crossover, s.mutation)
        evolution = Evolution(variation, s.random_models, s.num_individual, len(self._objectives.names), task.seed)
        found = Found(Front(len(self._objectives.names)), Tables(task.folder, self._objectives.names))
        known = task.study.notes("generation")
        if known:
            task.say(f"going on after {len(known)} generations")
        with Ledger(
            task.study, task.executor, self._encoding.decode, total=s.evaluations, seed=task.seed, log=task.log
        ) as ledger:
            for generation in range(s.num_generation + 1):
                bits = evolution.ask()
                if not len(bits):
                    task.say(f"no new models are found after {len(found.candidates)}; the search ends")
                    break
                candidates = ledger.score(self._proposals(bits, generation))
                values = self._objectives.values(candidates)
                evolution.tell(values)
                found.candidates += candidates
                found.tables.add(candidates)
                found.front.add(candidates, values)
                self._note(found, generation, known.get(str(generation)))
        return found

    def _proposals(self, bits: NDArray[np.bool_], generation: int) -> list[Proposal]:
        costs = self._objectives.figures(bits)
        vectors = bits.astype(np.int64).tolist()
        return [Proposal(tuple(v), generation=generation, figures=f) for v, f in zip(vectors, costs, strict=True)]

    def _note(self, found: Found, generation: int, known: dict[str, Any] | None) -> None:
        """Keep what the generation came to, and tell it, unless an earlier run did so."""
        if known is not None:
            found.generations.append(known)
            return
        front = [c.index for c in found.front.by_cost()]
        line = {
            "generation": generation,
            "hypervolume": hypervolume(found.front.values),
            "front": front,
            "evaluated": len(found.candidates),
            "objectives": list(self._objectives.names),
        }
        found.generations.append(line)
        found.tables.write(found.front.by_cost())
        self._task.study.note("generation", generation, line)
        if self._task.log is not None:
            self._task.log.write("generation", **line)
        self._task.say(
            f"generation {generation} of {self._settings.num_generation}: {len(found.candidates)} models, "
            f"{len(front)} on the Pareto front, hypervolume {line['hypervolume']:.4f}"
        )

"""PruneEA: which channels stay is a list of bits, and NSGA-III evolves it towards small and accurate networks.

The method of Vega's EA pruning; the evolution is that of Deb and Jain, "An Evolutionary Many-Objective Optimization
Algorithm Using Reference-Point-Based Nondominated Sorting Approach, Part I", IEEE Transactions on Evolutionary
Computation, 2014.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from prunekit.algorithms.evaluation import check_batches, held_batches
from prunekit.algorithms.prune_ea._objectives import Objectives
from prunekit.algorithms.prune_ea._search import Found, Search
from prunekit.algorithms.prune_ea._settings import PruneEASettings
from prunekit.algorithms.prune_ea._training import Judge, check_training, latency_of, spread, train_front
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Candidate, Evaluation
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import Rank, ZeroOneEncoding
from prunekit.core.errors import ConfigError
from prunekit.core.importance.score import needs
from prunekit.core.method import Outcome, SearchMethod, Task
from prunekit.core.prune import check_prunable, score_model
from prunekit.core.settings import Section

__all__ = ["PruneEA"]

_VEGA = ("resnet20", "resnet32", "resnet56")  # of the zoo


class PruneEA(SearchMethod):
    """The search; its keys are those of :class:`PruneEASettings`.

    An encoding has a bit for each channel: of the CIFAR ResNets of the zoo in Vega's order (464, 688 and 1136 bits),
    of any other network one segment per channel group. A segment without a 1 keeps its most important channel, and
    what is evaluated and kept is the encoding that says so.
    """

    name: ClassVar[str] = "prune_ea"
    Settings: ClassVar[type[Section]] = PruneEASettings
    settings: PruneEASettings

    def check(self, coupling: Coupling, *, model: str = "") -> None:
        """Make sure that the encoding has the length that the settings name.

        Raises:
            ConfigError: It has another.
            NothingToPruneError: No channel may be cut.
        """
        check_prunable(coupling)
        bits = _encoding(coupling, model).length
        if self.settings.length not in (None, bits):
            raise ConfigError(
                f"length must be the number of bits of the network's encoding, got length={self.settings.length} where "
                f"{model or 'the network'} has {bits}; use length={bits}, or leave it out"
            )

    def check_data(self, loaders: Loaders) -> None:
        """Make sure that there are ``bn_batches`` batches.

        Raises:
            DataError: There are fewer.
        """
        if self.settings.evaluation == "recalibrate":
            check_batches(loaders.calibration, self.settings.bn_batches, "bn_batches")

    def run(self, task: Task) -> Outcome:
        """Search, train the models of the Pareto front, and take the most accurate one within ``macs``.

        ``reports.csv`` and ``output.csv`` are written anew after each generation, and at the end.

        Raises:
            ConfigError: ``length`` is not that of the network, or it cannot be built from scratch.
            DataError: There are fewer batches than ``bn_batches``.
            PrunekitError: An evaluation or a training failed.
        """
        begin = time.monotonic()
        self.check(task.analysis.coupling, model=task.model)
        check_training(task, self.settings)
        encoding = _encoding(task.analysis.coupling, task.model, self._rank(task))
        objectives = Objectives(self.settings.objectives, encoding, self._latency(task))
        task.executor.prepare(lambda: self.evaluation(task))
        found = Search(task, self.settings, encoding, objectives).run()
        seconds = time.monotonic() - begin
        trained = self._train(task, encoding, objectives, found)
        found.tables.write(found.front.by_cost(), trained)
        best, fits = choose(found.front.by_cost(), self.settings.macs * objectives.full["macs"], trained)
        self._say(task, best, fits, best.figures["macs"] / objectives.full["macs"], trained.get(best.index))
        figures: dict[str, Any] = {
            "index": best.index,
            "score": best.score,
            "ratio": best.figures["macs"] / objectives.full["macs"],
            "fits": fits,
            "trained": best.index in trained,
            "objectives": list(objectives.names),
            "hypervolume": [line["hypervolume"] for line in found.generations],
            "generations": found.generations,
            "front": [_line(c, trained.get(c.index, {})) for c in found.front.by_cost()],
            "evaluated": len(found.candidates),
            "evaluation_seconds": sum(c.seconds for c in found.candidates),
            "search_seconds": seconds,
        }
        return Outcome(encoding.decode(best.vector, model=task.model), task.analysis, figures)

    def evaluation(self, task: Task) -> Evaluation:
        """What scores this method's requests: with statistics taken anew, or after a short training."""
        return Judge(task, self.settings)

    def _rank(self, task: Task) -> Rank:
        """Scores that decide the repair; kept, so that a search that goes on repairs as before."""
        criterion = self.settings.importance

        def scores() -> dict[str, list[float]]:
            most = max(1, self.settings.bn_batches)
            data = held_batches(task.loaders.calibration, most, "bn_batches") if needs(criterion) else None
            found = score_model(task.analysis, criterion, data=data, seed=task.seed)
            return {name: np.asarray(values).tolist() for name, values in found.items()}

        kept: dict[str, list[float]] = task.study.once("importance", criterion, scores)
        return kept

    def _latency(self, task: Task) -> float | None:
        """Seconds that the unpruned network takes, where that matters."""
        if "latency" not in self.settings.objectives:
            return None
        seconds = task.study.once("latency", "original", lambda: latency_of(task.analysis, task.analysis.model))
        return float(seconds)

    def _train(
        self, task: Task, encoding: ZeroOneEncoding, objectives: Objectives, found: Found
    ) -> dict[int, dict[str, float]]:
        """The second phase: figures of what was fully trained, by index."""
        if task.finetune.epochs == 0 or self.settings.train_front == 0:
            return {}
        front = found.front.by_cost()
        chosen, _ = choose(front, self.settings.macs * objectives.full["macs"])
        models = spread(front, self.settings.train_front, chosen)
        return train_front(task, self.settings, [(c, encoding.decode(c.vector, model=task.model)) for c in models])

    def _say(self, task: Task, best: Candidate, fits: bool, share: float, trained: Mapping[str, float] | None) -> None:
        if not fits:
            task.say(f"no model of the front keeps {self.settings.macs:g} of the MACs or less; the smallest is taken")
        text = f"model {best.index} of the front is taken: {best.score:.2%} in the search, {share:.4f} of the MACs"
        if trained is not None:
            text += f"; fully trained it has {trained['trained_accuracy']:.2%} of the held-out images"
        task.say(text)


def choose(
    front: Sequence[Candidate], budget: float, trained: Mapping[int, Mapping[str, float]] | None = None
) -> tuple[Candidate, bool]:
    """The model to go on with, and whether it is within the budget; where none is, it is the smallest one.

    Args:
        front: The Pareto front.
        budget: Most multiply-accumulates.
        trained: Figures of fully trained models by index: where there are some within the budget, the most accurate
            of them is taken, else the one of the best score.
    """
    within = [c for c in front if c.figures["macs"] <= budget]
    if not within:
        return min(front, key=lambda c: (c.figures["macs"], -c.score, c.index)), False
    known = trained or {}
    accuracy = {c.index: known[c.index]["trained_accuracy"] for c in within if c.index in known}
    pool = [c for c in within if c.index in accuracy] or within
    return min(pool, key=lambda c: (-accuracy.get(c.index, c.score), -c.score, c.figures["macs"], c.index)), True


def _encoding(coupling: Coupling, model: str, rank: Rank | None = None) -> ZeroOneEncoding:
    return ZeroOneEncoding.vega(coupling, rank=rank) if model in _VEGA else ZeroOneEncoding(coupling, rank=rank)


def _line(candidate: Candidate, trained: Mapping[str, float]) -> dict[str, Any]:
    figures = {key: value for key, value in candidate.figures.items() if key != "loss"}
    return {"index": candidate.index, "score": candidate.score, **figures, **trained}

"""EagleEye: random pruning strategies within a budget, judged by accuracy once batch norm statistics are adapted.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.correlation_study import spread
from prunekit.algorithms.eagle_eye._search import Rung, Scorer, breed, halve, plan_rungs, score_all
from prunekit.algorithms.eagle_eye._settings import EagleEyeSettings
from prunekit.algorithms.eagle_eye._space import Space
from prunekit.algorithms.eagle_eye._study import study
from prunekit.algorithms.evaluation import Evaluator, check_batches, count_batches, held_batches
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Candidate, Evaluation
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import PruningRateEncoding, eagleeye_layers
from prunekit.core.encoding.base import Rank
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.importance.score import layers_to_watch, needs
from prunekit.core.ledger import Ledger
from prunekit.core.method import Outcome, SearchMethod, Task
from prunekit.core.prune import score_model
from prunekit.core.settings import Section
from prunekit.core.strategies import StrategyFile, best_first, strategy_line

__all__ = ["EagleEye"]


class EagleEye(SearchMethod):
    """The search; its keys are those of :class:`EagleEyeSettings`.

    A strategy is a vector of pruning rates, one per group of channels (for ``mobilenetv1`` and ``resnet50`` of the
    zoo, those of the published strategies), of which the channels of the lowest L1 norm go.
    """

    name: ClassVar[str] = "eagle_eye"
    Settings: ClassVar[type[Section]] = EagleEyeSettings
    strategies: ClassVar[bool] = True
    settings: EagleEyeSettings

    def check(self, coupling: Coupling, *, model: str = "") -> None:
        """Make sure that there are as many candidates as asked for, or that the given strategy fits.

        Raises:
            BudgetError: The target cannot be reached, or by too few networks.
            PlanError: The given strategy has another number of rates than the network.
        """
        encoding = _encoding(coupling, model)
        if self.settings.strategy is not None:
            encoding.widths(np.array(self.settings.strategy))
            return
        space = self._space(encoding)
        space.check()
        space.draw(self.settings.candidates, seed=0)

    def check_data(self, loaders: Loaders) -> None:
        """Make sure that there are ``bn_batches`` batches.

        Raises:
            DataError: There are fewer.
        """
        if self.settings.strategy is None:
            check_batches(loaders.calibration, self.settings.bn_batches, "bn_batches")

    def run(self, task: Task) -> Outcome:
        """Score candidates and take the best.

        Each score is kept in ``output_file`` as soon as it is known.

        Raises:
            BudgetError: The target cannot be reached, or by too few networks.
            DataError: There are fewer batches than ``bn_batches``.
            InputError: The network's weights, activations or answers are not finite.
        """
        _check_finite(task)
        encoding = _encoding(task.analysis.coupling, task.model, self._rank(task))
        space = self._space(encoding)
        if self.settings.strategy is not None:
            return self._given(task, space)
        space.check()
        begin = time.monotonic()
        draws = space.draw(self.settings.candidates, task.seed)
        task.say(f"{draws.drawn:,} strategies drawn for {len(draws.vectors)} candidates")
        whole = Rung(1, self.settings.bn_batches, count_batches(task.loaders.validation), 1.0)
        with self._ledger(task, encoding, whole) as ledger:
            found, random, cost = self._search(Scorer(ledger, space, whole), draws.vectors, space, task.seed)
        best = best_first(found)[0]
        task.say(f"best is {strategy_line(best)}, {best.figures['ratio']:.4f} of the MACs")
        figures: dict[str, Any] = {
            "index": best.index,
            "score": best.score,
            "ratio": best.figures["ratio"],
            "drawn": draws.drawn,
            "shifted": draws.shifted,
            "evaluated": len({c.index for c in found}),
            "cost": cost,  # in whole evaluations
            "resumed": len(ledger) - ledger.evaluated,
            "evaluation_seconds": sum(c.seconds for c in found),
            "search_seconds": time.monotonic() - begin,
            "median_of_random": statistics.median(c.score for c in random),
            "median_part": random[0].figures.get("part", 1.0),
            "strategies": [_line(c) for c in found],
        }
        if self.settings.correlation:
            latest = list({c.index: c for c in found}.values())
            chosen = spread(latest, self.settings.correlation)
            evaluator = Evaluator(task.analysis, task.loaders, self.settings.bn_batches)
            figures["correlation"] = study(task, encoding, evaluator, chosen, self.settings.correlation_epochs)
        return Outcome(encoding.decode(best.vector, model=task.model), task.analysis, figures)

    def evaluation(self, task: Task) -> Evaluation:
        """Accuracy on the held-out images once batch norm statistics are adapted."""
        return Evaluator(task.analysis, task.loaders, self.settings.bn_batches).answer

    def _ledger(self, task: Task, encoding: PruningRateEncoding, whole: Rung) -> Ledger:
        total = self.settings.candidates
        if self.settings.search == "halving":
            total = sum(rung.count for rung in plan_rungs(total, whole.bn_batches, whole.validation_batches))
        file = None if task.folder is None else StrategyFile(task.folder / self.settings.output_file)

        def scored(candidate: Candidate) -> None:
            if file is not None:
                file.add(candidate)
            task.say(strategy_line(candidate))

        task.executor.prepare(lambda: self.evaluation(task))
        return Ledger(
            task.study, task.executor, lambda vector: encoding.decode(vector, model=task.model),
            total=total, seed=task.seed, scored=scored, log=task.log,
        )  # fmt: skip

    def _search(
        self, score: Scorer, vectors: NDArray[np.float64], space: Space, seed: int
    ) -> tuple[list[Candidate], list[Candidate], float]:
        """All scores, those of random candidates under equal terms, and the cost in whole evaluations."""
        if self.settings.search == "halving":
            found, rungs = halve(score, vectors)
            return found, found[: len(vectors)], sum(r.count * r.part for r in rungs)
        if self.settings.proposals == "evolution":
            found, first = breed(score, vectors, space, seed)
            return found, found[:first], float(len(found))
        found = score_all(score, vectors)
        return found, found, float(len(found))

    def _given(self, task: Task, space: Space) -> Outcome:
        """The plan of the strategy that the settings hold."""
        rates = np.array(self.settings.strategy, dtype=np.float64)
        plan = space.encoding.decode(rates, model=task.model)
        return Outcome(plan, task.analysis, {"ratio": float(space.ratios(rates[None])[0])})

    def _space(self, encoding: PruningRateEncoding) -> Space:
        s = self.settings
        return Space(encoding, s.min_rate, s.max_rate, s.flops_target, s.tolerance)

    def _rank(self, task: Task) -> Rank:
        most = max(1, self.settings.bn_batches)
        watched = needs(self.settings.importance)
        data = held_batches(task.loaders.calibration, most, "bn_batches") if watched else None
        return score_model(task.analysis, self.settings.importance, data=data, seed=task.seed)


def _check_finite(task: Task) -> None:
    """Look at the base network itself: its answers may be finite where a framework's ReLU makes 0 of NaN."""
    backend, model = task.analysis.backend, task.analysis.model
    for name, value in backend.get_state(model, copy=False).items():
        if not np.isfinite(value).all():
            raise InputError(f"the base network must be finite, got nan or infinity in {name!r}; did training diverge?")
    for part, loader in (("calibration", task.loaders.calibration), ("validation", task.loaders.validation)):
        first = list(itertools.islice(iter(loader), 1))
        outputs = backend.activations(model, first, layers_to_watch(task.analysis.coupling)) if first else {}
        for layer, values in outputs.items():
            if not np.isfinite(values).all():
                raise InputError(
                    f"activations must be finite, got nan or infinity from {layer!r} for the first {part} batch; "
                    "are the images finite?"
                )


def _encoding(coupling: Coupling, model: str, rank: Rank | None = None) -> PruningRateEncoding:
    layers: Sequence[str] | None
    try:
        layers = eagleeye_layers(model)
    except ConfigError:  # no published vector: a rate for each group
        layers = None
    return PruningRateEncoding(coupling, rank, layers=layers)


def _line(candidate: Candidate) -> dict[str, float]:
    figures = {key: candidate.figures[key] for key in ("ratio", "part") if key in candidate.figures}
    return {"index": candidate.index, "score": candidate.score, **figures}

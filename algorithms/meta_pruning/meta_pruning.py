"""MetaPruning: a network that generates weights for any channel widths, and an evolution that scores widths by it.

Liu et al., "MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning", ICCV 2019.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.correlation_study import spread, train_each
from prunekit.algorithms.evaluation import Evaluator, check_batches
from prunekit.algorithms.meta_pruning._evolution import evolve, ranked
from prunekit.algorithms.meta_pruning._net import (
    NET_FOLDER,
    Generator,
    NetRecord,
    is_net,
    load_net,
    read_record,
    save_net,
    train_net,
)
from prunekit.algorithms.meta_pruning._settings import MetaPruningSettings
from prunekit.algorithms.meta_pruning._space import Space
from prunekit.algorithms.meta_pruning._vectors import TOP_FILE, top_entry, top_line
from prunekit.core._files import write_atomic
from prunekit.core.analysis import Analysis
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Candidate, Evaluation, Proposal, Request
from prunekit.core.correlation import correlate
from prunekit.core.coupling.groups import Coupling
from prunekit.core.errors import InputError
from prunekit.core.ledger import Ledger
from prunekit.core.method import Outcome, SearchMethod, Task
from prunekit.core.settings import Section

__all__ = ["MetaPruning"]

IntArray = NDArray[np.int64]


class MetaPruning(SearchMethod):
    """The search; its keys are those of :class:`MetaPruningSettings`.

    A vector holds ids of 31 channel scales (see :class:`prunekit.core.encoding.ChannelScaleEncoding`): for
    ``mobilenetv1``, ``mobilenetv2_metapruning`` and ``resnet50`` of the zoo those of the published vectors, else one
    for each group of channels whose width may vary. It is in canonical form, the lowest id of each width, so that
    no network is scored twice. What is found is the architecture alone: it is trained from scratch.
    """

    name: ClassVar[str] = "meta_pruning"
    Settings: ClassVar[type[Section]] = MetaPruningSettings
    strategies: ClassVar[bool] = True
    trained: ClassVar[bool] = False
    settings: MetaPruningSettings

    def check(self, coupling: Coupling, *, model: str = "") -> None:
        """Make sure that there is a population within the budget, and that the given vector or PruningNet fits.

        Raises:
            BudgetError: The budget cannot be reached, or by too few networks.
            CheckpointError: The given PruningNet is another network's.
            PlanError: The given vector is none of the network's.
        """
        space = self._space(coupling, model)
        if self.settings.vector is not None:
            space.encoding.widths(self.settings.vector)
            return
        if self.settings.pruning_net is not None:
            folder = Path(self.settings.pruning_net).expanduser()
            read_record(folder, coupling.graph.fingerprint(), space, self.settings.hidden)
        space.check(self.settings.population)

    def check_data(self, loaders: Loaders) -> None:
        """Make sure that there are ``bn_batches`` batches.

        Raises:
            DataError: There are fewer.
        """
        if self.settings.vector is None:
            check_batches(loaders.calibration, self.settings.bn_batches, "bn_batches")

    def train(self, task: Task) -> dict[str, Any]:
        """Train the PruningNet, and leave it in the folder ``pruning_net`` of the task's.

        Returns:
            ``hidden``, ``genes``, ``recipe``, ``history`` and ``seconds`` of it.
        """
        task = dataclasses.replace(task, analysis=_untrained(task))
        _, record = self._net(task, self._space(task.analysis.coupling, task.model))
        return dict(vars(record))

    def run(self, task: Task) -> Outcome:
        """Train the PruningNet, unless there is one, search with it, and take the best.

        Raises:
            BudgetError: The budget cannot be reached, or by too few networks.
            CheckpointError: The PruningNet that the settings name is another network's.
            DataError: There are fewer batches than ``bn_batches``.
        """
        space = self._space(task.analysis.coupling, task.model)
        if self.settings.vector is not None:
            return self._given(task, space)
        space.check(self.settings.population)
        task = dataclasses.replace(task, analysis=_untrained(task))  # a PruningNet begins as the network itself does
        net, record = self._net(task, space)
        generate = Generator(task.analysis, net)
        begin = time.monotonic()
        task.executor.prepare(lambda: self._score(task, generate))
        history: dict[int, dict[str, Any]] = {}

        def tell(generation: int, figures: dict[str, Any]) -> None:
            history[generation] = figures
            task.study.note("generation", generation, figures)
            task.say(_line(generation, figures))

        with self._ledger(task, space) as ledger:

            def score(vectors: IntArray, generation: int) -> Sequence[Candidate]:
                figures = space.figures(vectors)
                rows = zip(vectors.tolist(), figures, strict=True)
                return ledger.score([Proposal(tuple(v), None, generation, f, self._options) for v, f in rows])

            found = evolve(space, score, self.settings, task.seed, tell)
        top = [top_entry(c) for c in ranked(found)[: self.settings.top]]
        self._show(task, top)
        figures: dict[str, Any] = {
            **top[0],
            "top": top,
            "resumed": len(ledger) - ledger.evaluated,
            "evaluated": len(found),
            "evaluation_seconds": sum(c.seconds for c in found),
            "search_seconds": time.monotonic() - begin,
            "median_of_random": statistics.median(c.score for c in found if c.generation == 0),
            "generations": list(history.values()),
            "pruning_net": {key: getattr(record, key) for key in ("hidden", "recipe", "history", "seconds")},
        }
        if self.settings.correlation:
            figures["correlation"] = self._correlation(task, space, spread(found, self.settings.correlation))
        return self._outcome(task, space, top[0]["vector"], figures)

    def evaluation(self, task: Task) -> Evaluation:
        """Accuracy on the held-out images with generated weights, once batch norm statistics are taken.

        Raises:
            CheckpointError: There is no PruningNet of that network, neither in the task's folder nor where the
                settings say.
        """
        space = self._space(task.analysis.coupling, task.model)
        net, _ = load_net(self._home(task), task.analysis, space, self.settings.hidden)
        return self._score(task, Generator(task.analysis, net))

    @property
    def _options(self) -> Mapping[str, Any]:
        return {"bn_batches": self.settings.bn_batches}

    def _score(self, task: Task, generate: Generator) -> Evaluation:
        evaluator = Evaluator(task.analysis, task.loaders, self.settings.bn_batches)

        def score(request: Request) -> dict[str, float]:
            try:
                found = evaluator.score(generate(request.plan))
            except InputError:  # a generated network that overflows is a bad one, and no reason to end the search
                return {"score": 0.0}
            return {"score": found.top1, "loss": found.loss}

        return score

    def _space(self, coupling: Coupling, model: str) -> Space:
        return Space(coupling, model, self.settings.flops_range, self.settings.convention)

    def _home(self, task: Task) -> Path:
        """Where the PruningNet is: in the task's own folder, once it is there."""
        own = None if task.folder is None else task.folder / NET_FOLDER
        if self.settings.pruning_net is not None and (own is None or not is_net(own)):
            return Path(self.settings.pruning_net).expanduser()
        return Path(NET_FOLDER) if own is None else own

    def _net(self, task: Task, space: Space) -> tuple[Any, NetRecord]:
        """The PruningNet: of the folder, of another folder, or trained now; and left in the folder."""
        s = self.settings
        own = None if task.folder is None else task.folder / NET_FOLDER
        if s.pruning_net is None and (own is None or not is_net(own)):
            net, record = train_net(task, space, s.hidden, s.recipe(task.seed))
        else:
            home = self._home(task)
            net, record = load_net(home, task.analysis, space, s.hidden)
            task.say(f"PruningNet: that of {home}")
        if own is not None and not is_net(own):
            save_net(own, task.analysis, net, record)
        return net, record

    def _ledger(self, task: Task, space: Space) -> Ledger:
        return Ledger(
            task.study, task.executor, lambda vector: space.encoding.decode(vector, model=task.model),
            total=self.settings.population * self.settings.generations, seed=task.seed, log=task.log,
        )  # fmt: skip

    def _show(self, task: Task, top: Sequence[dict[str, Any]]) -> None:
        lines = [top_line(place, entry) for place, entry in enumerate(top, start=1)]
        for line in lines:
            task.say(line)
        if task.folder is not None:
            write_atomic(task.folder / TOP_FILE, "".join(f"{line}\n" for line in lines))

    def _given(self, task: Task, space: Space) -> Outcome:
        """The network of the vector that the settings hold."""
        vector = np.array([self.settings.vector])
        figures = {"vector": vector[0].tolist(), **space.figures(vector)[0]}
        return self._outcome(task, space, figures["vector"], figures)

    def _outcome(self, task: Task, space: Space, vector: Sequence[int], figures: Mapping[str, Any]) -> Outcome:
        return Outcome(space.encoding.decode(vector, model=task.model), _untrained(task), figures)

    def _correlation(self, task: Task, space: Space, chosen: Sequence[Candidate]) -> dict[str, Any]:
        """Train candidates from scratch and correlate their scores with the accuracy on the test images."""
        backend, epochs = task.analysis.backend, self.settings.correlation_epochs
        recipe = dataclasses.replace(task.finetune, epochs=task.finetune.epochs if epochs is None else epochs)
        recipe = dataclasses.replace(recipe, distill_weight=0.0)  # there is no trained teacher

        def train(candidate: Candidate) -> dict[str, float]:
            small = backend.apply(_untrained(task), space.encoding.decode(candidate.vector), check=False)
            backend.fit(small, task.loaders.train, recipe)
            accuracy = backend.evaluate(small, task.loaders.test)["top1"]
            return {"index": candidate.index, "score": candidate.score, "trained": accuracy}

        lines = train_each(
            task, chosen, train, lambda line: f"score:{line['score']:.4f}, trained from scratch:{line['trained']:.4f}"
        )
        scores, accuracies = ([line[key] for line in lines] for key in ("score", "trained"))
        found = correlate(scores, accuracies, seed=task.seed).to_dict()
        return {"epochs": recipe.epochs, "candidates": lines, "generated": found}


def _untrained(task: Task) -> Analysis:
    """The network anew, or the task's own where it does not say how to make one."""
    analysis = task.analysis
    if task.build is None:
        return analysis
    return Analysis(analysis.backend, task.build(), analysis.example, analysis.coupling)


def _line(generation: int, figures: Mapping[str, Any]) -> str:
    if not figures["candidates"]:
        return f"generation {generation}: no new network within the budget can be found; the search ends"
    return (
        f"generation {generation}: {figures['candidates']} networks, best {figures['best_so_far']:.4f} so far, "
        f"mean {figures['mean']:.4f}, mean of those kept {figures['kept_mean']:.4f}"
    )

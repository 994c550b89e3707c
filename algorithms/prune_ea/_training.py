"""How models are judged during the search, and how those of the front are fully trained after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunekit.algorithms.evaluation import Evaluator
from prunekit.algorithms.prune_ea._settings import PruneEASettings
from prunekit.core.analysis import Analysis
from prunekit.core.candidates import Candidate, Request
from prunekit.core.errors import ConfigError, InputError, TrainingError
from prunekit.core.method import Task
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe
from prunekit.core.store import WEIGHTS_FILE

__all__ = ["FRONT_FOLDER", "Judge", "check_training", "latency_of", "spread", "train_front"]

FRONT_FOLDER = "front"

_RUNS, _WARMUP = 20, 5  # of forward passes where latency is an objective


def latency_of(analysis: Analysis, model: Any) -> float:
    """Median seconds of a forward pass of one example."""
    return analysis.backend.latency(model, analysis.example, runs=_RUNS, warmup=_WARMUP).median


class Judge:
    """Scores requests: the model is cut, then its statistics are taken anew or it is trained for a short while.

    Args:
        task: The base network, the data, and the recipe of short trainings.
        settings: Which of the two, and how long.

    Raises:
        DataError: There are fewer batches than asked for.
    """

    def __init__(self, task: Task, settings: PruneEASettings) -> None:
        self._task, self._short = task, settings.evaluation == "train"
        self._epochs, self._timed = settings.epochs, "latency" in settings.objectives
        self._evaluator = Evaluator(task.analysis, task.loaders, 0 if self._short else settings.bn_batches)

    def __call__(self, request: Request) -> Mapping[str, float]:
        """Figures of a model: ``score``, ``loss``, and ``latency`` in seconds where that is an objective."""
        analysis = self._task.analysis
        small = analysis.backend.apply(analysis, request.plan, check=False)
        figures = self._trained(small, request.seed) if self._short else self._scored(small)
        return {**figures, "latency": latency_of(analysis, small)} if self._timed else figures

    def _scored(self, small: Any) -> dict[str, float]:
        score = self._evaluator.score(small)
        return {"score": score.top1, "loss": score.loss}

    def _trained(self, small: Any, seed: int) -> dict[str, float]:
        recipe = dataclasses.replace(self._task.finetune, epochs=self._epochs, seed=seed)
        try:
            _fit(self._task, small, recipe, show=False)
            return self._scored(small)
        except (TrainingError, InputError):  # a training that diverges is a bad score, and no reason to end the search
            return {"score": 0.0}


def check_training(task: Task, settings: PruneEASettings) -> None:
    """Make sure that models of the front can start from scratch where they are to.

    Raises:
        ConfigError: Nothing tells how the network is built.
    """
    if settings.from_scratch and settings.train_front != 0 and task.build is None:
        raise ConfigError("from_scratch needs a task that can build its network, got one without; set build")


def spread(front: Sequence[Candidate], wanted: str | int, chosen: Candidate) -> list[Candidate]:
    """The models of the front to train: all, or so many from its cheap to its expensive end and the chosen one.

    Args:
        front: Models from the cheapest to the most expensive one.
        wanted: ``"all"``, or how many.
        chosen: A model of the front that is always among them.
    """
    if wanted == "all" or int(wanted) >= len(front):
        return list(front)
    count = int(wanted)
    if count <= 1:
        return [chosen][:count]
    places = [round(k * (len(front) - 1) / (count - 1)) for k in range(count)]
    mine = front.index(chosen)
    if mine not in places:
        places[min(range(count), key=lambda k: abs(places[k] - mine))] = mine
    return [front[place] for place in places]


def train_front(
    task: Task, settings: PruneEASettings, models: Sequence[tuple[Candidate, PruningPlan]]
) -> dict[int, dict[str, float]]:
    """Fully train models, each once: one whose weights and figures are kept already is not trained again.

    Args:
        task: What the search works on; weights go to the folder ``front/<index>`` in its folder.
        settings: The method's settings.
        models: What to train.

    Returns:
        By index: ``trained_accuracy`` on the held-out images and ``test_accuracy`` on those of the test set; nothing
        of a model whose training diverged.
    """
    known = task.study.notes(FRONT_FOLDER)
    found: dict[int, dict[str, float]] = {}
    for number, (candidate, plan) in enumerate(models):
        place = None if task.folder is None else task.folder / FRONT_FOLDER / str(candidate.index)
        kept = known.get(str(candidate.index))
        if kept is None or (kept and place is not None and not (place / WEIGHTS_FILE).is_file()):
            task.say(f"training model {candidate.index} of the front, {number + 1} of {len(models)}")
            kept = _train(task, settings, plan, place)
            task.study.note(FRONT_FOLDER, candidate.index, kept)  # after its weights: what is noted is complete
            if task.log is not None:
                task.log.write("front", index=candidate.index, score=candidate.score, **kept)
        if kept:
            found[candidate.index] = kept
    return found


def _train(task: Task, settings: PruneEASettings, plan: PruningPlan, place: Path | None) -> dict[str, float]:
    analysis, backend = task.analysis, task.analysis.backend
    if settings.from_scratch and task.build is not None:
        analysis = dataclasses.replace(analysis, model=task.build())
    small = backend.apply(analysis, plan, check=False)
    try:
        _fit(task, small, task.finetune)
    except TrainingError as error:  # of others the training may go well: the search was too long to lose it
        task.say(f"this model is left out: {error}")
        return {}
    figures = {
        "trained_accuracy": backend.evaluate(small, task.loaders.validation)["top1"],
        "test_accuracy": backend.evaluate(small, task.loaders.test)["top1"],
    }
    if place is not None:
        backend.save(small, place)
    return figures


def _fit(task: Task, small: Any, recipe: Recipe, **options: Any) -> None:
    if recipe.distill_weight > 0:
        options["teacher"] = task.analysis.model
    task.analysis.backend.fit(small, task.loaders.train, recipe, **options)

"""The methods of a run: each turns a base network into a plan and a smaller network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.cli._prune_keys import PruneKeys
from prunekit.cli.job import Job, identity
from prunekit.cli.workers import make_executor
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.cost import Cost
from prunekit.core.errors import ConfigError, TraceError
from prunekit.core.executor.ray import check_ray
from prunekit.core.logs import RunLog
from prunekit.core.method import Outcome, SearchMethod, Task
from prunekit.core.plan import PruningPlan
from prunekit.core.prune import check_prunable, score_model, select
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_algorithm, list_algorithms
from prunekit.core.study import STUDY_FILE, Study

__all__ = ["Bench", "Method", "prepare_method", "prepare_search", "prepare_training", "trains_base"]


@dataclass
class Bench:
    """Where a method works: it trains and tests here, and what it did is remembered.

    Attributes:
        job: The job.
        log: Log of the run.
        say: Tells the user what happens.
        base: The base network.
        epochs: One dict per epoch of every training: its figures, and ``stage``.
        stages: ``{"stage": …, "top1": …}`` for each test, in order.
        found: What a search wants to be known of what it found.
    """

    job: Job
    log: RunLog
    say: Callable[[str], None]
    base: Any
    epochs: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    def train(self, stage: str, model: Any, recipe: Recipe, **options: Any) -> None:
        """Train a network in place, with the base network as its teacher where the recipe has one."""
        if recipe.epochs == 0:
            return
        self.say(f"{stage}: {recipe.epochs:g} epochs")
        self.log.write("stage", name=stage)
        if recipe.distill_weight > 0:
            options["teacher"] = self.base
        loaders = self.job.loaders
        result = self.job.backend.fit(
            model, loaders.train, recipe, validation=loaders.validation, log=self.log, **options
        )
        self.epochs += [{"stage": stage, **line} for line in result.history]

    def test(self, stage: str, model: Any) -> None:
        """Measure the accuracy on the test set."""
        figures = self.job.backend.evaluate(model, self.job.loaders.test)
        self.stages.append({"stage": stage, "top1": figures["top1"]})
        self.log.write("test", stage=stage, **figures)
        self.say(f"{stage}: {figures['top1']:.2%} of the test set")

    def recalibrate(self, model: Any) -> None:
        """Take batch norm statistics anew, where the configuration asks for it."""
        most = self.job.config.recalibrate
        if most and self.job.backend.recalibrate(model, self.job.loaders.calibration, most):
            self.test("recalibrated", model)


Method = Callable[[Bench], "tuple[Any, PruningPlan]"]
"""Given a bench, a smaller network and the plan that made it."""


def prepare_method(job: Job, folder: Path) -> tuple[Analysis, Method]:
    """Analyse the network of a job and make sure, before any training, that its method can work on it.

    Args:
        job: The job.
        folder: Where the method may leave files.

    Returns:
        The analysis of an untrained network, and the method.

    Raises:
        BudgetError: The budget cannot be reached.
        NothingToPruneError: No channel may be cut.
        TraceError: The network does not run on its input.
    """
    name, untrained = job.config.method.name, job.build()
    if name == "prune":
        keys = PruneKeys.model_validate(job.config.method.keys)
        policies = {"attention": keys.attention, "grouped": keys.grouped, "ignore": keys.ignore}
        analysis = _analyse(job, untrained, **policies)
        check_prunable(analysis.coupling)
        if keys.latency is None:  # whether a budget can be reached does not depend on the weights
            _select(job, analysis, keys, "l2")
        return analysis, lambda bench: _prune(bench, analysis, keys)
    analysis = _analyse(job, untrained)
    if name == "none":
        return analysis, lambda bench: _keep(bench, analysis)
    check_prunable(analysis.coupling)
    if name == "uni_pruning":
        algorithm = get_algorithm(name)(_settings(job, folder))
        algorithm.check_reachable(analysis.coupling)
        return analysis, lambda bench: _uni_prune(bench, analysis, algorithm)
    method = get_algorithm(name)(job.config.method.keys)
    _check(method, analysis, job)
    return analysis, lambda bench: _search(bench, analysis, method, folder)


def _analyse(job: Job, model: Any, **policies: Any) -> Analysis:
    """The analysis of a network on an image of the data."""
    try:
        return analyse(job.backend, model, job.example(), **policies)
    except TraceError as error:
        raise TraceError(
            f"{error}; here it is an image of {job.config.data.name}: set data.name, data.size or model.options to "
            "what fits"
        ) from error


def prepare_search(job: Job, folder: Path) -> tuple[Analysis, Callable[[Bench], Outcome]]:
    """Analyse the network of a job and make sure, before any training, that its method can search it.

    Args:
        job: The job.
        folder: Where the search may leave files.

    Raises:
        BudgetError: The budget cannot be reached.
        ConfigError: The method does not search.
        NothingToPruneError: No channel may be cut.
    """
    name = job.config.method.name
    kind = _kind(name)
    if kind is None or not kind.strategies:
        raise ConfigError(
            f"method.name must be a search that leaves strategies, such as eagle_eye, got {name!r}; use `prunekit run`"
        )
    analysis, method = _prepared(job, kind)
    return analysis, lambda bench: _find(bench, analysis, method, folder)


def prepare_training(job: Job, folder: Path) -> tuple[Analysis, Callable[[RunLog, Callable[[str], None]], dict]]:
    """Analyse the network of a job and make sure that its method trains something of its own for it.

    Args:
        job: The job.
        folder: Where that is left.

    Returns:
        The analysis of an untrained network, and the training, given a log and what tells the user.

    Raises:
        BudgetError: The budget of the search that is to come cannot be reached.
        ConfigError: The method trains nothing of its own.
        NothingToPruneError: No channel may be cut.
    """
    name = job.config.method.name
    kind = _kind(name)
    if kind is None or kind.train is SearchMethod.train:
        raise ConfigError(
            f"method.name must be one that trains a network of its own, such as meta_pruning, got {name!r}; use "
            "`prunekit run`"
        )
    analysis, method = _prepared(job, kind)

    def training(log: RunLog, say: Callable[[str], None]) -> dict:
        config = job.config
        return method.train(
            Task(
                analysis, job.loaders, model=config.model.name, folder=folder, finetune=config.finetune,
                seed=config.seed, say=say, log=log, build=job.build,
            )
        )  # fmt: skip

    return analysis, training


def trains_base(job: Job) -> bool:
    """Whether the search of a job starts from the trained base network."""
    kind = _kind(job.config.method.name)
    return kind is None or kind.trained


def _kind(name: str) -> type[SearchMethod] | None:
    """The class of a method that searches."""
    kind = get_algorithm(name) if name in list_algorithms() else None
    return kind if isinstance(kind, type) and issubclass(kind, SearchMethod) else None


def _prepared(job: Job, kind: type[SearchMethod]) -> tuple[Analysis, SearchMethod]:
    analysis = analyse(job.backend, job.build(), job.example())
    check_prunable(analysis.coupling)
    method = kind(job.config.method.keys)
    _check(method, analysis, job)
    return analysis, method


def _check(method: SearchMethod, analysis: Analysis, job: Job) -> None:
    method.check(analysis.coupling, model=job.config.model.name)
    method.check_data(job.loaders)
    if job.config.executor.name == "ray" and not {"strategy", "vector"} & set(job.config.method.keys):
        check_ray()  # before the training, not after it


def _find(bench: Bench, analysis: Analysis, method: SearchMethod, folder: Path) -> Outcome:
    """Look for a plan."""
    job, config = bench.job, bench.job.config
    with Study(folder / STUDY_FILE, identity(config)) as study, make_executor(config, folder) as executor:
        outcome = method.run(
            Task(
                _on(analysis, bench.base), job.loaders, model=config.model.name, folder=folder,
                finetune=config.finetune, seed=config.seed, say=bench.say, log=bench.log, study=study,
                executor=executor, build=job.build,
            )
        )  # fmt: skip
        used = not study.empty
    if not used:  # the method had nothing to score
        (folder / STUDY_FILE).unlink()
    bench.found = dict(outcome.figures)
    return outcome


def _search(bench: Bench, analysis: Analysis, method: SearchMethod, folder: Path) -> tuple[Any, PruningPlan]:
    """Look for a plan, cut, then fine-tune."""
    config = bench.job.config
    outcome = _find(bench, analysis, method, folder)
    small, plan = _cut(bench, outcome.analysis, outcome.plan)
    if config.finetune.epochs > 0:
        how, done = ("fine-tuning", "fine-tuned") if method.trained else ("training from scratch", "trained")
        bench.train(how, small, outcome.finetune or config.finetune)
        bench.test(done, small)
    _recover(bench, small)
    return small, plan


def _uni_prune(bench: Bench, analysis: Analysis, algorithm: Any) -> tuple[Any, PruningPlan]:
    """Soft pruning during fine-tuning, then the cut."""
    config = bench.job.config
    model = bench.job.backend.clone(bench.base)
    mine = _on(analysis, model)
    schedule = algorithm.schedule(mine)
    bench.train("fine-tuning with UniPruning", model, config.finetune, callbacks=[schedule])
    schedule.train_end()
    bench.say(f"UniPruning {schedule.selection}")
    small, plan = _cut(bench, mine, schedule.selection.plan)
    _recover(bench, small)
    return small, plan


def _settings(job: Job, folder: Path) -> dict[str, Any]:
    return {
        **job.config.method.keys,
        "output_path": str(folder),
        "input_size": [job.config.latency.batch, *job.shape],
        "epoch_size": max(1, math.ceil(job.config.finetune.epochs)),
    }


def _prune(bench: Bench, analysis: Analysis, keys: PruneKeys) -> tuple[Any, PruningPlan]:
    """One cut by importance and budget, then fine-tuning."""
    mine = _on(analysis, bench.base)
    small, plan = _cut(bench, mine, _select(bench.job, mine, keys, keys.importance))
    if bench.job.config.finetune.epochs > 0:
        bench.train("fine-tuning", small, bench.job.config.finetune)
        bench.test("fine-tuned", small)
    _recover(bench, small)
    return small, plan


def _select(job: Job, analysis: Analysis, keys: PruneKeys, importance: str) -> PruningPlan:
    data = _Few(job.loaders.calibration, job.config.recalibrate or 100)
    scores = score_model(analysis, importance, data=data, seed=job.config.seed)
    return select(analysis, keys.budget, scores, scope=keys.scope, align=keys.align, min_channels=keys.min_channels)


def _keep(bench: Bench, analysis: Analysis) -> tuple[Any, PruningPlan]:
    """No pruning: the base network goes through the same steps, for comparison."""
    plan = PruningPlan.full(analysis.coupling)
    same = bench.job.backend.apply(_on(analysis, bench.base), plan)
    if bench.job.config.finetune.epochs > 0:
        bench.train("fine-tuning", same, bench.job.config.finetune)
        bench.test("fine-tuned", same)
    _recover(bench, same)
    return same, plan


def _cut(bench: Bench, analysis: Analysis, plan: PruningPlan) -> tuple[Any, PruningPlan]:
    """Cut, test, recalibrate; the plan comes back with the model's name and what it achieved."""
    widths = np.stack([analysis.coupling.widths, plan.widths(analysis.coupling)])
    costs = Cost(analysis.coupling).of(widths, ("params", "macs", "flops"))
    achieved = {metric: [int(before), int(after)] for metric, (before, after) in costs.items()}
    plan = replace(plan, model=bench.job.config.model.name, achieved={**plan.achieved, **achieved})
    small = bench.job.backend.apply(analysis, plan)
    bench.test("cut", small)
    bench.recalibrate(small)
    return small, plan


def _recover(bench: Bench, small: Any) -> None:
    if bench.job.config.recover.epochs > 0:
        bench.train("further training", small, bench.job.config.recover)
        bench.test("trained further", small)


def _on(analysis: Analysis, model: Any) -> Analysis:
    """The same groups for another network of the same architecture."""
    return Analysis(analysis.backend, model, analysis.example, analysis.coupling)


@dataclass(frozen=True)
class _Few:
    """The first batches of a loader; can be iterated more than once."""

    loader: Iterable[Any]
    most: int

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), self.most)

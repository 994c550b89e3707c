"""Automatic channel pruning in both frameworks: what the searchers find, and that they keep to the budget."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _house import python

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)


from prunekit.algorithms.channel_pruning import ChannelPruning
from prunekit.algorithms.channel_pruning._auto import ROLLOUTS_FILE, Rollouts, check_reachable, search_widths
from prunekit.algorithms.channel_pruning._ddpg import ddpg_search
from prunekit.algorithms.channel_pruning._evolution import evolution_search
from prunekit.algorithms.channel_pruning.settings import ChannelPruningSettings
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.batches import Loaders
from prunekit.core.cost import Cost
from prunekit.core.errors import BudgetError, ConfigError, DataError
from prunekit.core.method import Task
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_backend
from prunekit.core.rollouts import Decisions
from prunekit.core.strategies import read_strategies

BACKENDS = [
    "torch",
    pytest.param("mindspore", marks=pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")),
]
SEARCHERS = ["ddpg", "evolution"]


@dataclasses.dataclass(frozen=True)
class Bench:
    """A small network, its data, and scores of its channels."""

    analysis: Analysis
    loaders: Loaders
    rank: dict[str, Any]

    def task(self, folder: Path | None = None, **fields: Any) -> Task:
        return Task(self.analysis, self.loaders, model="resnet20", folder=folder, **fields)

    def search(self, folder: Path | None = None, seed: int = 0, **keys: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return search_widths(self.task(folder, seed=seed), auto(**keys), self.rank)


def auto(**keys: Any) -> ChannelPruningSettings:
    given = {"cp_nb_rlouts": 3, "cp_nb_rlouts_min": 1, "cp_nb_batches": 2, **keys}
    return ChannelPruningSettings(prune_option="auto", **given)


@pytest.fixture(scope="module", params=BACKENDS)
def bench(request: pytest.FixtureRequest) -> Bench:
    backend: Any = get_backend(request.param)
    loaders = backend.loaders("digits", 16, limit=96)
    model = backend.build_model("resnet20", seed=0, in_channels=1)
    backend.fit(model, loaders.train, Recipe(epochs=1, lr=0.1, steps_per_epoch=5))
    analysis = analyse(backend, model, backend.example((1, 1, 8, 8)), probe=False)
    norms = np.random.default_rng(0)
    return Bench(analysis, loaders, {g.name: norms.random(g.size) for g in analysis.groups})


def conv_macs(analysis: Analysis, widths: np.ndarray) -> float:
    cost = Cost(analysis.coupling, "pocketflow")
    return float(cost.of(widths, ("macs",))["macs"][0] / cost.full(("macs",))["macs"])


# ---------------------------------------------------------------- in both frameworks


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_search_ends_at_its_budget_and_keeps_what_it_scored(bench: Bench, searcher: str, tmp_path: Path) -> None:
    widths, figures = bench.search(tmp_path, cp_auto_searcher=searcher, cp_preserve_ratio=0.4)
    assert 0.99 * 0.4 <= conv_macs(bench.analysis, widths) <= 0.4 * (1 + 1e-9)
    assert figures["achieved"] == conv_macs(bench.analysis, widths)
    assert figures["rollouts"] >= figures["evaluated"] >= 2
    kept = read_strategies(tmp_path / ROLLOUTS_FILE)
    assert len(kept) == figures["evaluated"]
    assert max(c.score for c in kept) == figures["score"]
    decided = Decisions(bench.analysis.coupling, 0.4)
    for candidate in kept:
        rounded = decided.widths(np.rint((1 - np.array(candidate.vector)) * decided.sizes).astype(int))
        assert conv_macs(bench.analysis, rounded) == candidate.figures["ratio"]
        assert decided.near(candidate.figures["ratio"] * decided.full)


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_the_same_seed_finds_the_same(bench: Bench, searcher: str) -> None:
    first, figures = bench.search(seed=3, cp_auto_searcher=searcher)
    random.random(), np.random.random()  # nothing is drawn from what all share
    again, others = bench.search(seed=3, cp_auto_searcher=searcher)
    assert first.tolist() == again.tolist()
    assert {**figures, "seconds": 0} == {**others, "seconds": 0}


def test_a_score_is_that_of_the_cut_network(bench: Bench) -> None:
    settings, decisions = auto(), Decisions(bench.analysis.coupling, 0.5)
    task = bench.task()
    rollouts = Rollouts(task, settings, decisions, bench.rank)
    widths = decisions.widths(decisions.fit(decisions.least))
    score = rollouts(widths)
    assert rollouts(widths) == score and len(task.study) == 1 and rollouts.asked == 2
    plan = task.study.plan(0)
    for name, kept in plan.kept.items():
        best = np.argsort(-bench.rank[name])[: len(kept)]
        assert set(kept) == set(best.tolist())
    backend: Any = bench.analysis.backend
    small = backend.apply(bench.analysis, plan)
    backend.recalibrate(small, bench.loaders.calibration, 2)
    assert backend.evaluate(small, bench.loaders.validation)["top1"] == pytest.approx(score, abs=1e-9)


def test_a_search_that_is_stopped_keeps_what_it_scored(bench: Bench, tmp_path: Path) -> None:
    def stop(text: str) -> None:
        if text.startswith("3 networks"):
            raise KeyboardInterrupt

    task = bench.task(tmp_path, say=stop)
    with pytest.raises(KeyboardInterrupt):
        search_widths(task, auto(cp_auto_searcher="evolution", cp_nb_rlouts=10), bench.rank)
    assert len(read_strategies(tmp_path / ROLLOUTS_FILE)) == 3


def test_too_few_batches_are_an_error(bench: Bench) -> None:
    with pytest.raises(DataError, match="batches"):
        bench.search(cp_nb_batches=100, cp_auto_searcher="evolution")


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_share_out_of_reach_is_refused_before_any_training(bench: Bench, searcher: str) -> None:
    settings = auto(cp_preserve_ratio=0.001, cp_auto_searcher=searcher)
    with pytest.raises(BudgetError, match=r"cp_preserve_ratio must lie in the reachable range \[0\.\d+, 1\]"):
        check_reachable(bench.analysis.coupling, settings)


# ---------------------------------------------------------------- the searchers


@cache
def resnet20() -> Decisions:
    backend: Any = get_backend("torch")
    model = backend.build_model("resnet20", in_channels=1)
    return Decisions(analyse(backend, model, backend.example((1, 1, 14, 14)), probe=False).coupling, 0.5)


class Hidden:
    """An accuracy that falls with the distance from widths that nobody was told."""

    def __init__(self, seed: int) -> None:
        self.decisions = resnet20()
        rng = np.random.default_rng(seed)
        shares = rng.uniform(self.decisions.lbound, 1.0, len(self.decisions))
        self.best = self.decisions.fit(self.decisions.rounded(shares)) / self.decisions.sizes
        self.seen: list[float] = []

    def __call__(self, widths: np.ndarray) -> float:
        shares = widths[self.decisions.groups] / self.decisions.sizes
        self.seen.append(1 - float(np.abs(shares - self.best).mean()))
        return self.seen[-1]


def by_ddpg(decisions: Decisions, evaluate: Callable[[np.ndarray], float]) -> None:
    ddpg_search(decisions, evaluate, rollouts=30, warmup=8, seed=0)


def by_evolution(decisions: Decisions, evaluate: Callable[[np.ndarray], float]) -> None:
    evolution_search(decisions, lambda table: [evaluate(row) for row in table], rollouts=30, seed=0)


@pytest.mark.parametrize("search", [pytest.param(by_ddpg, marks=pytest.mark.slow), by_evolution])
def test_a_search_learns(search: Callable[..., None]) -> None:
    from prunekit.core.rollouts.env import PruningEnv

    later, best = [], []
    for seed in (0, 1):
        rng, drawn, tried = np.random.default_rng(seed), Hidden(100 + seed), Hidden(100 + seed)
        env = PruningEnv(drawn.decisions, drawn)
        for _ in range(30):
            env.reset()
            while not env.step(np.array([rng.uniform(drawn.decisions.lbound, 1.0)]))[2]:
                pass
        search(tried.decisions, tried)
        assert len(tried.seen) >= 30
        best.append(max(tried.seen) - np.median(drawn.seen))
        later.append(np.median(tried.seen[-10:]) - np.median(drawn.seen))
    assert min(best) > 0
    assert np.mean(later) > 0.02  # not luck alone: by the end it does better as a rule


def test_ddpg_leaves_the_random_numbers_of_others_alone() -> None:
    import torch

    hidden = Hidden(0)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    ddpg_search(hidden.decisions, hidden, rollouts=4, warmup=1, seed=5)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    disturbed = Hidden(0)

    def evaluate(widths: np.ndarray) -> float:
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        return disturbed(widths)

    ddpg_search(disturbed.decisions, evaluate, rollouts=4, warmup=1, seed=5)
    assert disturbed.seen == hidden.seen


def test_evolution_scores_as_many_networks_as_asked_for() -> None:
    hidden = Hidden(1)
    different = set()

    def evaluate(widths: np.ndarray) -> list[float]:
        different.update(map(tuple, widths.tolist()))
        return [hidden(row) for row in widths]

    evolution_search(hidden.decisions, evaluate, rollouts=23, seed=0)
    assert len(different) == 23


def test_an_agent_that_would_never_learn_is_refused() -> None:
    with pytest.raises(ConfigError, match="cp_nb_rlouts_min must be below cp_nb_rlouts.*got 50 and 40"):
        ChannelPruning({"prune_option": "auto", "cp_nb_rlouts": 40})
    ChannelPruning({"prune_option": "auto", "cp_nb_rlouts": 40, "cp_auto_searcher": "evolution"})


# ---------------------------------------------------------------- without the extra

_BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("gymnasium", "stable_baselines3"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())

import numpy as np
from prunekit.algorithms.channel_pruning._auto import check_reachable, search_widths
from prunekit.algorithms.channel_pruning.settings import ChannelPruningSettings
from prunekit.core.analysis import analyse
from prunekit.core.errors import MissingDependencyError
from prunekit.core.method import Task
from prunekit.core.registry import get_backend

backend = get_backend("torch")
loaders = backend.loaders("digits", 16, limit=64)
analysis = analyse(backend, backend.build_model("resnet20", in_channels=1), backend.example((1, 1, 8, 8)), probe=False)
keys = {"prune_option": "auto", "cp_nb_rlouts": 4, "cp_nb_rlouts_min": 1, "cp_nb_batches": 2}
for use in (
    lambda: check_reachable(analysis.coupling, ChannelPruningSettings(**keys)),
    lambda: __import__("prunekit.core.rollouts.env"),
):
    try:
        use()
    except MissingDependencyError as error:
        print(error)
rank = {g.name: np.arange(g.size) for g in analysis.groups}
settings = ChannelPruningSettings(cp_auto_searcher="evolution", **keys)
print(search_widths(Task(analysis, loaders), settings, rank)[1])
"""


def test_without_the_extra_there_is_a_clear_error_and_evolution_works(tmp_path: Path) -> None:
    done = python(_BLOCKED, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, figures = done.stdout.splitlines()
    for message in (first, second):
        assert "pip install 'prunekit[rl]'" in message and "cp_auto_searcher: evolution" in message
    assert "'searcher': 'evolution'" in figures and "'evaluated': 4" in figures

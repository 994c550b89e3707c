"""EagleEye in both frameworks: which candidates it draws, how it scores them, and which it takes."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)

from prunekit.algorithms.correlation_study import spread
from prunekit.algorithms.eagle_eye import EagleEye
from prunekit.algorithms.eagle_eye._search import breed, plan_rungs
from prunekit.algorithms.eagle_eye._space import Space
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Candidate
from prunekit.core.cost import Cost
from prunekit.core.encoding import PruningRateEncoding
from prunekit.core.errors import BudgetError, ConfigError, DataError, InputError, PlanError
from prunekit.core.method import Outcome, Task
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_algorithm, get_backend
from prunekit.core.strategies import read_strategies

BACKENDS = [
    "torch",
    pytest.param("mindspore", marks=pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")),
]
KEYS: dict[str, Any] = {"candidates": 4, "bn_batches": 2, "flops_target": 0.5}


@dataclasses.dataclass(frozen=True)
class Bench:
    """A small network and its data in one framework."""

    analysis: Analysis
    loaders: Loaders

    def task(self, folder: Path | None = None, **fields: Any) -> Task:
        recipe = Recipe(epochs=1, lr=0.05, steps_per_epoch=2)
        return Task(self.analysis, self.loaders, model="resnet20", folder=folder, finetune=recipe, **fields)

    def search(self, folder: Path | None = None, seed: int = 0, **keys: Any) -> Outcome:
        return EagleEye({**KEYS, **keys}).run(self.task(folder, seed=seed))


def make(name: str) -> Bench:
    if name == "torch":
        torch.set_num_threads(1)  # more of them only wait for each other over images of 8 x 8
    backend: Any = get_backend(name)
    loaders = backend.loaders("digits", 16, limit=96)
    model = backend.build_model("resnet20", seed=0, in_channels=1)
    backend.fit(model, loaders.train, Recipe(epochs=1, lr=0.1, steps_per_epoch=5))
    return Bench(analyse(backend, model, backend.example((1, 1, 8, 8)), probe=False), loaders)


@pytest.fixture(scope="module", params=BACKENDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    yield make(request.param)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def space() -> Space:
    backend: Any = get_backend("torch")
    model = backend.build_model("resnet20", seed=0, in_channels=1)
    coupling = analyse(backend, model, backend.example((1, 1, 8, 8)), probe=False).coupling
    return Space(PruningRateEncoding(coupling), 0.0, 0.7, 0.5, 0.005)


def test_the_registry_knows_it() -> None:
    assert get_algorithm("eagle_eye") is EagleEye


# ---------------------------------------------------------------- a search


def test_a_search_scores_candidates_within_the_budget_and_takes_the_best(bench: Bench, tmp_path: Path) -> None:
    said: list[str] = []
    task = dataclasses.replace(bench.task(tmp_path), say=said.append)
    outcome = EagleEye(KEYS).run(task)
    found = read_strategies(tmp_path / "search_results" / "pruning_strategies.txt")
    assert [c.index for c in found] == [0, 1, 2, 3]
    coupling, figures = bench.analysis.coupling, outcome.figures
    widths = PruningRateEncoding(coupling).widths([c.vector for c in found])
    assert len(np.unique(widths, axis=0)) == 4
    cost = Cost(coupling, "eagleeye")
    ratios = cost.of(widths, ("macs",))["macs"] / cost.full(("macs",))["macs"]
    assert (np.abs(ratios - 0.5) <= 0.005).all()
    assert ratios.tolist() == pytest.approx([c.figures["ratio"] for c in found])
    best = max(found, key=lambda c: (c.score, -c.index))
    assert (figures["index"], figures["score"]) == (best.index, best.score)
    assert outcome.plan.widths(coupling).tolist() == widths[best.index].tolist()
    assert figures["evaluated"] == 4 and figures["drawn"] >= 4 and figures["cost"] == 4
    assert figures["median_of_random"] == pytest.approx(np.median([c.score for c in found]))
    assert [line for line in said if line.startswith("strategy")] == [
        f"strategy index:{c.index}, score:{c.score:.3f}" for c in found
    ]
    assert outcome.analysis is bench.analysis


def test_a_score_is_the_accuracy_once_statistics_are_taken_anew(bench: Bench, tmp_path: Path) -> None:
    outcome = bench.search(tmp_path)
    backend = bench.analysis.backend
    small = backend.apply(bench.analysis, outcome.plan)
    assert backend.recalibrate(small, bench.loaders.calibration, 2) == 2
    assert backend.evaluate(small, bench.loaders.validation)["top1"] == pytest.approx(outcome.figures["score"])
    again = Cost(analyse(backend, small, bench.analysis.example, probe=False).coupling, "eagleeye").full(("macs",))
    full = Cost(bench.analysis.coupling, "eagleeye").full(("macs",))
    assert again["macs"] / full["macs"] == pytest.approx(outcome.figures["ratio"])


def test_the_base_network_is_not_changed_and_a_seed_repeats(bench: Bench, tmp_path: Path) -> None:
    backend = bench.analysis.backend
    before = backend.get_state(bench.analysis.model)
    files = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        bench.search(tmp_path / name, seed=seed, candidates=2)
        files.append((tmp_path / name / "search_results" / "pruning_strategies.txt").read_text())
    assert files[0] == files[1] != files[2]
    after = backend.get_state(bench.analysis.model)
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")
def test_a_seed_draws_the_same_networks_in_both_frameworks(tmp_path: Path) -> None:
    vectors, widths = [], []
    for name in ("torch", "mindspore"):
        bench = make(name)
        bench.search(tmp_path / name, seed=5, candidates=3)
        found = read_strategies(tmp_path / name / "search_results" / "pruning_strategies.txt")
        vectors.append([c.vector for c in found])
        widths.append(PruningRateEncoding(bench.analysis.coupling).widths(vectors[-1]).tolist())
    assert vectors[0] == vectors[1]
    assert widths[0] == widths[1]


def test_halving_scores_all_a_little_and_few_in_full(bench: Bench, tmp_path: Path) -> None:
    outcome = bench.search(tmp_path, candidates=8, bn_batches=5, search="halving")
    found = read_strategies(tmp_path / "search_results" / "pruning_strategies.txt")
    assert [c.index for c in found[:8]] == list(range(8))
    assert all(c.figures["part"] < 1 for c in found[:8])
    whole = [c for c in found if "part" not in c.figures]
    assert 1 <= len(whole) < 8
    assert outcome.figures["index"] in {c.index for c in whole}
    assert outcome.figures["score"] == max(c.score for c in whole)
    assert outcome.figures["evaluated"] == 8
    assert outcome.figures["median_part"] == found[0].figures["part"]


def test_evolution_scores_as_many_within_the_budget(bench: Bench, tmp_path: Path) -> None:
    bench.search(tmp_path / "r", candidates=6)
    outcome = bench.search(tmp_path / "e", candidates=6, proposals="evolution")
    bred, random = (read_strategies(tmp_path / n / "search_results" / "pruning_strategies.txt") for n in ("e", "r"))
    assert [c.index for c in bred] == list(range(6)) and outcome.figures["cost"] == 6
    assert [c.vector for c in bred[:4]] == [c.vector for c in random[:4]]
    assert [c.vector for c in bred] != [c.vector for c in random]
    assert all(abs(c.figures["ratio"] - 0.5) <= 0.005 for c in bred)
    assert len(np.unique(PruningRateEncoding(bench.analysis.coupling).widths([c.vector for c in bred]), axis=0)) == 6


def test_the_study_fine_tunes_candidates_and_correlates(bench: Bench) -> None:
    outcome = bench.search(candidates=5, correlation=4, correlation_epochs=1)
    study = outcome.figures["correlation"]
    scores = {line["index"]: line["score"] for line in outcome.figures["strategies"]}
    assert len({line["index"] for line in study["candidates"]}) == 4
    assert all(line["score"] == pytest.approx(scores[line["index"]]) for line in study["candidates"])
    assert max(scores.values()) == max(line["score"] for line in study["candidates"])
    assert all(0 <= line["fine_tuned"] <= 1 for line in study["candidates"])
    for side in ("adapted", "unadapted"):
        low, high = study[side]["kendall_interval"]
        assert study[side]["points"] == 4 and low <= study[side]["kendall"] <= high


def test_a_given_strategy_is_cut_without_a_search(bench: Bench) -> None:
    coupling = bench.analysis.coupling
    rates = [0.5] * len(coupling.groups)
    method = EagleEye({"strategy": rates})
    method.check(coupling, model="resnet20")
    outcome = method.run(bench.task())
    assert outcome.plan.widths(coupling).tolist() == PruningRateEncoding(coupling).widths(rates)[0].tolist()
    assert 0 < outcome.figures["ratio"] < 0.5
    state = bench.analysis.backend.get_state(bench.analysis.model)
    first = coupling.groups[coupling.index["conv1"]] if "conv1" in coupling.index else coupling.groups[0]
    producer = first.producers[0]
    if len(first.producers) == 1:  # of a group of one layer, the filters of the largest L1 norm stay
        norms = np.abs(state[f"{producer.layer}.weight"]).reshape(first.size, -1).sum(axis=1)
        kept = set(outcome.plan.kept[first.name])
        assert min(norms[list(kept)]) >= max(norms[[i for i in range(first.size) if i not in kept]])


# ---------------------------------------------------------------- the ways through the candidates


@pytest.mark.parametrize(
    ("count", "bn", "validation"), list(itertools.product([8, 20, 100, 1000], [20, 50, 100], [4, 24, 80]))
)
def test_halving_costs_a_third_at_most(count: int, bn: int, validation: int) -> None:
    rungs = plan_rungs(count, bn, validation)
    assert sum(r.count * r.part for r in rungs) <= count / 3
    assert sum(r.count * (r.bn_batches + r.validation_batches) for r in rungs) <= count * (bn + validation) / 3
    assert rungs[0].count == count and rungs[-1].part == 1
    assert [r.count for r in rungs] == sorted((r.count for r in rungs), reverse=True)
    assert all(a.part < b.part for a, b in itertools.pairwise(rungs))


@pytest.mark.parametrize(("count", "bn", "validation"), [(1, 1, 1), (3, 2, 1), (2, 0, 1), (4, 5, 3)])
def test_halving_of_little_still_ends_in_a_whole_score(count: int, bn: int, validation: int) -> None:
    rungs = plan_rungs(count, bn, validation)
    assert rungs[0].count == count and rungs[-1].part == 1 and rungs[-1].count >= 1
    assert (rungs[-1].bn_batches, rungs[-1].validation_batches) == (bn, validation)


def test_evolution_learns_what_random_draws_do_not(space: Space) -> None:
    goal = space.draw(1, seed=99).vectors[0]

    def score(vectors: np.ndarray, indices: Iterable[int], generation: int = 0) -> list[Candidate]:
        scores = -np.abs(vectors - goal).sum(axis=1)
        return [Candidate(*line, {"ratio": 0.5}) for line in zip(indices, map(tuple, vectors), scores, strict=True)]

    for seed in range(3):
        vectors = space.draw(100, seed).vectors
        found, first = breed(score, vectors, space, seed)  # type: ignore[arg-type]
        assert len(found) == 100 and first == 20
        assert space.within(np.array([c.vector for c in found])).all()
        assert len({space.key(np.array(c.vector)) for c in found}) == 100
        assert max(c.score for c in found) > max(c.score for c in score(vectors, range(100)))


def test_the_study_takes_candidates_of_all_scores() -> None:
    found = [Candidate(i, (0.1,), s) for i, s in enumerate([0.5, 0.1, 0.9, 0.3, 0.7])]
    assert [c.score for c in spread(found, 3)] == [0.9, 0.5, 0.1]
    assert {c.index for c in spread(found, 5)} == set(range(5))


# ---------------------------------------------------------------- the space


def test_draws_that_seldom_meet_the_budget_are_moved_to_it(space: Space) -> None:
    narrow = Space(space.encoding, 0.0, 0.7, 0.97, 0.005)
    draws = narrow.draw(20, seed=1)
    assert draws.shifted > 0 and len(draws.vectors) == 20
    assert narrow.within(draws.vectors).all()
    assert len(np.unique(space.encoding.widths(draws.vectors), axis=0)) == 20
    assert (draws.vectors >= 0).all() and (draws.vectors <= 0.7).all()


def test_uniform_draws_spread_over_the_whole_range(space: Space) -> None:
    vectors = space.draw(300, seed=0).vectors
    assert vectors.min() < 0.02 and vectors.max() > 0.68
    assert (vectors.std(axis=0) > 0.12).all()


def test_too_few_networks_are_told(space: Space) -> None:
    tight = Space(space.encoding, 0.0, 0.7, 0.5, 0.0)
    with pytest.raises(BudgetError, match=r"as many distinct networks as candidates=100000 says, got \d+ within 0"):
        tight.draw(100_000, seed=0)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"min_rate": 0.7, "max_rate": 0.7}, "min_rate must be below max_rate, got min_rate=0.7"),
        ({"min_rate": 0.8}, "min_rate must be below max_rate"),
        ({"max_rate": 1.0}, "less than 1"),
        ({"min_rate": -0.1}, "at least 0"),
        ({"flops_target": 0}, "greater than 0"),
        ({"flops_target": 1.5}, "at most 1"),
        ({"flops_target": float("nan")}, "finite"),
        ({"candidates": 0}, "at least 1"),
        ({"candidates": 1.5}, "whole number"),
        ({"tolerance": 1}, "less than 1"),
        ({"importance": "l3"}, "known are activation"),
        ({"search": "quarter"}, "full"),
        ({"search": "halving", "proposals": "evolution"}, "use search=full"),
        ({"correlation": 3}, "0 or lie from 4"),
        ({"correlation": 5, "candidates": 4}, "number of candidates (4), got 5"),
        ({"output_file": "../up.txt"}, "below the run's folder"),
        ({"output_file": "/etc/passwd"}, "below the run's folder"),
        ({"output_file": "C:\\x.txt"}, "below the run's folder"),
        ({"output_file": ""}, "below the run's folder"),
        ({"flop_target": 0.5}, "did you mean 'flops_target'?"),
        ({"strategy": [0.5, 1.0]}, "less than 1"),
    ],
)
def test_a_wrong_key_is_told(keys: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EagleEye(keys)
    assert part in str(caught.value)


@pytest.mark.parametrize(("target", "advice"), [(0.05, "raise max_rate"), (0.99, "lower min_rate")])
def test_a_target_out_of_reach_is_told_with_what_can_be_reached(space: Space, target: float, advice: str) -> None:
    method = EagleEye({"flops_target": target, "min_rate": 0.1, "max_rate": 0.6})
    with pytest.raises(BudgetError, match=rf"leave 0\.\d+ to 0\.\d+ of the MACs.*{advice}"):
        method.check(space.encoding.coupling)


def test_a_target_that_is_reached_is_accepted_before_training(space: Space) -> None:
    for target in (0.15, 0.5, 0.98):
        EagleEye({"flops_target": target, "candidates": 20}).check(space.encoding.coupling, model="resnet20")
        reached = Space(space.encoding, 0.0, 0.7, target, 0.005)
        assert reached.within(reached.draw(20, seed=0).vectors).tolist() == [True] * 20


def test_a_list_of_the_wrong_length_is_told(space: Space) -> None:
    length = space.encoding.length
    with pytest.raises(PlanError, match=f"has {length} entries for this model, got {length - 1}"):
        EagleEye({"strategy": [0.5] * (length - 1)}).check(space.encoding.coupling)


def test_too_few_batches_are_told(bench: Bench) -> None:
    with pytest.raises(DataError, match=r"bn_batches=1000 batches, got \d+"):
        bench.search(bn_batches=1000)
    for part in ("calibration", "validation"):
        empty = dataclasses.replace(bench, loaders=dataclasses.replace(bench.loaders, **{part: []}))
        with pytest.raises(DataError, match="got 0"):
            empty.search()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_is_told(bench: Bench, bad: float, tmp_path: Path) -> None:
    backend = bench.analysis.backend
    state = backend.get_state(bench.analysis.model)
    name = next(n for n, v in state.items() if v.ndim == 4)
    for key in (name, next(n for n, v in state.items() if n.endswith("bias") and v.ndim == 1)):
        model = backend.clone(bench.analysis.model)
        backend.set_state(model, {**state, key: np.full_like(state[key], bad)})
        analysis = dataclasses.replace(bench.analysis, model=model)
        with pytest.raises(InputError, match="finite"):
            EagleEye(KEYS).run(dataclasses.replace(bench.task(tmp_path), analysis=analysis))
    assert not os.listdir(tmp_path)


def test_images_that_are_not_finite_are_told(bench: Bench) -> None:
    for part in ("calibration", "validation"):
        batches = [(images * float("nan"), labels) for images, labels in getattr(bench.loaders, part)]
        broken = dataclasses.replace(bench, loaders=dataclasses.replace(bench.loaders, **{part: batches}))
        with pytest.raises(InputError, match=f"activations must be finite, got nan or infinity from .* {part} batch"):
            broken.search()

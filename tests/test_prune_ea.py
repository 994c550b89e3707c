"""PruneEA in both frameworks: what it proposes, what it keeps, and that going on changes nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _prune_ea import BACKENDS, IF_THERE, KEYS, TOTAL, Bench, Counting, make

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)

from prunekit.algorithms.prune_ea import PruneEA
from prunekit.algorithms.prune_ea._variation import Variation
from prunekit.core.analysis import analyse
from prunekit.core.cost import Cost
from prunekit.core.encoding import ZeroOneEncoding
from prunekit.core.errors import ConfigError, DataError
from prunekit.core.executor import LocalExecutor
from prunekit.core.logs import RunLog
from prunekit.core.method import Outcome
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_algorithm, get_backend
from prunekit.core.store import read_plan
from prunekit.core.study import Study

# what MindSpore takes long for, and says little more about than the search that is among the quick tests
SLOW_THERE = pytest.mark.parametrize(
    "bench",
    [
        "torch",
        pytest.param("mindspore", marks=[pytest.mark.slow, IF_THERE]),
    ],
    indirect=True,
)
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module", params=BACKENDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    yield make(request.param)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small() -> Bench:
    """The same in PyTorch alone, for what needs no framework."""
    return make("torch")


@pytest.fixture(scope="module")
def encoding(small: Bench) -> ZeroOneEncoding:
    return ZeroOneEncoding.vega(small.analysis.coupling)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def entries(study: Study) -> list[tuple[Any, ...]]:
    return [(c.index, c.vector, c.score, c.generation, dict(c.figures)) for c in study]


def test_the_registry_knows_it() -> None:
    assert get_algorithm("prune_ea") is PruneEA


# ---------------------------------------------------------------- a search


def test_a_search_leaves_its_tables_its_front_and_its_trained_models(bench: Bench, tmp_path: Path) -> None:
    said: list[str] = []
    with Study() as study:
        outcome = bench.search(tmp_path, study=study, say=said.append)
        candidates = list(study)
    figures, coupling, backend = outcome.figures, bench.analysis.coupling, bench.analysis.backend
    assert figures["evaluated"] == len(candidates) == TOTAL
    assert [c.generation for c in candidates] == [0] * 4 + [1] * 4 + [2] * 4
    encoding = ZeroOneEncoding.vega(coupling)
    vectors = [c.vector for c in candidates]
    assert len(set(vectors)) == TOTAL and encoding.length == 464
    assert np.array_equal(encoding.repair_all(vectors), np.array(vectors, dtype=bool))  # what is stored is repaired

    reports, output = table(tmp_path / "reports.csv"), table(tmp_path / "output.csv")
    assert list(reports[0])[:4] == list(output[0])[:4] == ["encoding", "flops", "parameters", "accuracy"]
    costs = Cost(coupling).of(encoding.widths(vectors), ("macs", "params"))
    for row, c, macs, params in zip(reports, candidates, costs["macs"], costs["params"], strict=True):
        assert row["encoding"] == "".join(map(str, c.vector))
        assert (int(row["flops"]), int(row["parameters"]), float(row["accuracy"])) == (macs, params, c.score)
        assert int(row["generation"]) == c.generation

    front = {line["index"]: line for line in figures["front"]}
    error = np.array([[1 - c.score, c.figures["macs"]] for c in candidates])
    for c, mine in zip(candidates, error, strict=True):
        beaten = ((error <= mine).all(axis=1) & (error < mine).any(axis=1)).any()
        assert beaten == (c.index not in front) or (error == mine).all(axis=1).sum() > 1
    assert [int(row["index"]) for row in output] == list(front) == figures["generations"][-1]["front"]

    trained = [index for index, line in front.items() if "trained_accuracy" in line]
    assert len(trained) == min(2, len(front))
    assert [int(row["index"]) for row in output if row["trained_accuracy"]] == trained
    for index in trained:
        plan = read_plan(tmp_path / "front" / str(index))
        assert plan.kept == encoding.decode(candidates[index].vector).kept
        original = backend.build_model("resnet20", seed=0, in_channels=1)
        again = backend.load(original, tmp_path / "front" / str(index), bench.analysis.example)
        assert backend.evaluate(again, bench.loaders.test)["top1"] == pytest.approx(front[index]["test_accuracy"])
    assert outcome.plan.kept == encoding.decode(candidates[figures["index"]].vector).kept
    assert any(line.startswith("generation 2 of 2: 12 models") for line in said)


@SLOW_THERE
def test_a_score_is_the_accuracy_once_statistics_are_taken_anew(bench: Bench) -> None:
    outcome = bench.search(keys={"train_front": 0, "num_generation": 0})
    backend = bench.analysis.backend
    network = backend.apply(bench.analysis, outcome.plan)
    backend.recalibrate(network, bench.loaders.calibration, 2)
    assert backend.evaluate(network, bench.loaders.validation)["top1"] == pytest.approx(outcome.figures["score"])


@SLOW_THERE
def test_a_score_may_follow_a_short_training(bench: Bench) -> None:
    keys = {"evaluation": "train", "epochs": 0.5, "train_front": 0, "num_generation": 0, "random_models": 2}
    first, second = (bench.search(keys=keys) for _ in range(2))
    assert first.figures["front"] == second.figures["front"]
    backend = bench.analysis.backend
    network = backend.apply(bench.analysis, first.plan)
    recipe = dataclasses.replace(bench.task().finetune, epochs=0.5)
    backend.fit(network, bench.loaders.train, recipe, show=False)
    assert backend.evaluate(network, bench.loaders.validation)["top1"] == pytest.approx(first.figures["score"])


@SLOW_THERE
def test_the_base_network_and_the_generators_of_the_process_are_left_alone(bench: Bench) -> None:
    backend = bench.analysis.backend
    before, states = backend.get_state(bench.analysis.model), (random.getstate(), np.random.get_state()[1].tolist())
    bench.search(keys={"train_front": 1})
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    after = backend.get_state(bench.analysis.model)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_seed_proposes_the_same_first_models_in_both_frameworks(bench: Bench, encoding: ZeroOneEncoding) -> None:
    with Study() as study:
        Counting({**KEYS, "num_generation": 0, "train_front": 0}).run(bench.task(study=study, seed=5))
        found = [c.vector for c in study]
    drawn = Variation(encoding, 0.9, 0.2).first(4, np.random.default_rng([5, 0]))  # in PyTorch
    assert np.array_equal(np.array(found, dtype=bool), drawn)


@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        ("lenet5", "digits", {"size": 28}),
        pytest.param("mobilenetv1", "digits", {"size": 32}, marks=pytest.mark.slow),
        pytest.param("vgg16", "digits", {"size": 32}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("backend", ["torch", pytest.param("mindspore", marks=[pytest.mark.slow, IF_THERE])])
def test_any_network_has_a_segment_for_each_group(
    backend: str, model: str, data: str, options: dict[str, int], tmp_path: Path
) -> None:
    bench = make(backend, model, data, **options)
    coupling = bench.analysis.coupling
    method = PruneEA({**KEYS, "num_generation": 1, "train_front": 0, "length": int(coupling.widths.sum())})
    method.check(coupling, model=model)
    outcome = method.run(bench.task(tmp_path))
    row = table(tmp_path / "reports.csv")[0]
    assert len(row["encoding"]) == sum(group.size for group in coupling.groups)
    cut = analyse(bench.analysis.backend, bench.analysis.backend.apply(bench.analysis, outcome.plan),
                  bench.analysis.example, probe=False)  # fmt: skip
    ratio = Cost(cut.coupling).full(("macs",))["macs"] / Cost(coupling).full(("macs",))["macs"]
    assert ratio == pytest.approx(outcome.figures["ratio"])


def test_three_objectives_by_the_names_of_the_document(small: Bench, tmp_path: Path) -> None:
    keys = {"objectives": ["accuracy", "FLOPs", "Parameters", "bandwidth"], "num_individual": 8, "train_front": 0}
    outcome = small.search(tmp_path, keys)
    assert outcome.figures["objectives"] == ["accuracy", "macs", "params", "bandwidth"]
    row = table(tmp_path / "reports.csv")[0]
    vector = [int(bit) for bit in row["encoding"]]
    widths = ZeroOneEncoding.vega(small.analysis.coupling).widths(vector)
    assert int(row["bandwidth"]) == Cost(small.analysis.coupling).of(widths, ("bandwidth",))["bandwidth"][0]
    assert all(0 < value < 1 for value in outcome.figures["hypervolume"])


@SLOW_THERE
def test_latency_is_measured_on_the_cut_network(bench: Bench, tmp_path: Path) -> None:
    keys = {"objectives": ["accuracy", "latency"], "num_generation": 1, "train_front": 0}
    with Study() as study:
        outcome = bench.search(tmp_path, keys, study=study)
        full = study.notes("latency")["original"]
        assert all(0 < c.figures["latency"] < 100 * full for c in study)
    assert all(float(row["latency"]) > 0 for row in table(tmp_path / "output.csv"))
    assert {line["index"] for line in outcome.figures["front"]} <= set(range(8))


# ---------------------------------------------------------------- going on


def test_a_search_that_is_stopped_anywhere_ends_as_if_it_had_not_been(small: Bench, tmp_path: Path) -> None:
    keys = {**KEYS, "num_generation": 3, "train_front": 0, "objectives": ["accuracy", "macs", "params"]}

    def run(folder: Path, most: int = 10**9) -> tuple[int, Outcome | None]:
        method = Counting(keys, most)
        with Study(folder / "study.db", {"keys": 1}) as study, RunLog(folder) as log:
            try:
                outcome = method.run(small.task(folder, study=study, log=log))
            except KeyboardInterrupt:
                outcome = None
        return method.asked, outcome

    def left(folder: Path) -> tuple[Any, ...]:
        with Study(folder / "study.db") as study:
            files = [(folder / name).read_text() for name in ("reports.csv", "output.csv")]
            return entries(study), study.notes("generation"), files

    (tmp_path / "whole").mkdir()
    asked, whole = run(tmp_path / "whole")
    assert asked == 16 and whole is not None
    for most in (0, 1, 4, 7, 12, 15):
        folder = tmp_path / str(most)
        folder.mkdir()
        assert run(folder, most) == (most, None)
        again, outcome = run(folder)
        assert again == 16 - most  # nothing is evaluated twice
        assert left(folder) == left(tmp_path / "whole")
        assert outcome is not None and outcome.plan == whole.plan
        assert outcome.figures["front"] == whole.figures["front"]
        assert run(folder)[0] == 0


def test_front_models_are_trained_once(small: Bench, tmp_path: Path) -> None:
    trained: list[int] = []

    def say(text: str) -> None:
        if text.startswith("training model"):
            trained.append(int(text.split()[2]))
            if len(trained) == 2:
                raise KeyboardInterrupt

    keys = {**KEYS, "train_front": "all"}
    with Study(tmp_path / "study.db") as study:
        with pytest.raises(KeyboardInterrupt):
            Counting(keys).run(small.task(tmp_path, study=study, say=say))
        first = (tmp_path / "front" / str(trained[0]) / "weights.safetensors").read_bytes()
        figures = Counting(keys).run(small.task(tmp_path, study=study, say=say)).figures
    front = [line["index"] for line in figures["front"]]
    assert len(front) > 1 and trained[0] == front[0]
    assert trained == [front[0], front[1], *front[1:]]  # the second was interrupted
    assert (tmp_path / "front" / str(front[0]) / "weights.safetensors").read_bytes() == first
    assert all("trained_accuracy" in line for line in figures["front"]) and figures["trained"] is True


@SLOW_THERE
def test_models_of_the_front_may_start_from_scratch(bench: Bench, tmp_path: Path) -> None:
    backend: Any = bench.analysis.backend
    keys = {**KEYS, "num_generation": 0, "train_front": 1, "from_scratch": True}
    with pytest.raises(ConfigError, match="can build its network"):
        bench.search(keys=keys)
    frozen = Recipe(epochs=1, lr=1e-12, weight_decay=0.0, steps_per_epoch=1)
    built = backend.build_model("resnet20", seed=7, in_channels=1)
    outcome = Counting(keys).run(bench.task(tmp_path, finetune=frozen, build=lambda: backend.clone(built)))
    (place,) = (tmp_path / "front").iterdir()
    plan = read_plan(place)
    assert plan.kept == outcome.plan.kept
    wanted = backend.get_state(backend.apply(dataclasses.replace(bench.analysis, model=built), plan))
    got = backend.get_state(backend.load(built, place, bench.analysis.example))
    assert np.allclose(got["layer1.0.conv1.weight"], wanted["layer1.0.conv1.weight"], atol=1e-5)


# ---------------------------------------------------------------- golden


@pytest.mark.parametrize(("model", "name"), [("resnet20", "vega_resnet20_cifar"), ("resnet32", "vega_resnet32_cifar")])
def test_the_published_lengths_and_figures(model: str, name: str) -> None:
    data = json.loads((GOLDEN / f"{name}.json").read_text())
    backend: Any = get_backend("torch")
    coupling = analyse(
        backend, backend.build_model(model, seed=0), backend.example((1, 3, 32, 32)), probe=False
    ).coupling
    method = PruneEA({"length": data["length"]})
    method.check(coupling, model=model)
    encoding = ZeroOneEncoding.vega(coupling)
    mids, nodes = iter(data["mids"]), data["nodes"]
    blocks = len(data["mids"]) // 3
    order = [nodes[0], *(w for stage in range(3) for w in (*(next(mids) for _ in range(blocks)), nodes[stage + 1]))]
    assert list(encoding.segments) == order and encoding.length == data["length"]
    cost = Cost(coupling).of(encoding.widths(np.ones((1, encoding.length))), ("macs", "params"))
    assert (cost["macs"][0], cost["params"][0]) == (data["macs"], data["params"])
    with pytest.raises(ConfigError, match=f"has {data['length']}; use length={data['length']}"):
        PruneEA({"length": 100}).check(coupling, model=model)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"objectives": ["accuracy"]}, "objectives must be two or more, got ['accuracy']"),
        ({"objectives": ["accuracy", "FLOPs", "MACs"]}, "FLOPs are counted as MACs here"),
        ({"objectives": ["accuracy", "flop"]}, "did you mean 'flops'?"),
        ({"objectives": "accuracy"}, "a list"),
        ({"num_individual": 2, "objectives": ["accuracy", "macs", "params"]}, "number of objectives (3), got 2"),
        ({"num_individual": 1}, "at least 2"),
        ({"random_models": 1}, "at least 2"),
        ({"num_generation": -1}, "at least 0"),
        ({"crossover": 1.5}, "at most 1"),
        ({"mutation": -0.5}, "at least 0"),
        ({"evaluation": "guess"}, "recalibrate"),
        ({"importance": "l3"}, "known are activation"),
        ({"macs": 0}, "greater than 0"),
        ({"train_front": "some"}, "train_front"),
        ({"train_front": -1}, "at least 0"),
        ({"num_individuals": 4}, "did you mean 'num_individual'?"),
    ],
)
def test_a_wrong_key_is_told(keys: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PruneEA(keys)
    assert part in str(caught.value)


def test_too_few_batches_are_told_before_any_training(small: Bench) -> None:
    with pytest.raises(DataError, match=r"bn_batches=100 batches, got \d+; use bn_batches="):
        PruneEA({}).check_data(small.loaders)
    PruneEA({"evaluation": "train"}).check_data(small.loaders)


def test_a_training_that_diverges_is_a_bad_score_and_no_end(small: Bench, tmp_path: Path) -> None:
    steep = Recipe(epochs=1, lr=1e30, schedule="constant", steps_per_epoch=4)
    said: list[str] = []
    found = Counting({**KEYS, "num_generation": 0}).run(small.task(tmp_path, finetune=steep, say=said.append)).figures
    assert found["trained"] is False and any("the loss must stay finite" in line for line in said)
    assert not (tmp_path / "front").exists()
    keys = {**KEYS, "evaluation": "train", "num_generation": 0, "train_front": 0}
    outcome = PruneEA(keys).run(small.task(finetune=steep, executor=LocalExecutor()))
    assert outcome.figures["score"] == 0.0 and outcome.figures["evaluated"] == 4

"""Searches by MetaPruning in both frameworks, and the three steps of it as commands."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)

from prunekit.algorithms.meta_pruning import NET_FILE, NET_FOLDER, MetaPruning
from prunekit.algorithms.meta_pruning._evolution import ranked
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Request
from prunekit.core.cost import Cost
from prunekit.core.encoding import ChannelScaleEncoding
from prunekit.core.errors import CheckpointError, DataError
from prunekit.core.method import Outcome, Task
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_backend
from prunekit.core.study import STUDY_FILE, Study

BACKENDS = [
    "torch",
    pytest.param("mindspore", marks=pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")),
]
KEYS: dict[str, Any] = {
    "training": {"epochs": 1, "lr": 0.05, "steps_per_epoch": 3}, "flops_range": [0.2, 0.4], "population": 3,
    "generations": 2, "keep": 3, "top_k": 2, "mutations": 1, "crossovers": 1, "bn_batches": 2, "top": 2,
}  # fmt: skip
TOP = Path("search_results") / "top_vectors.txt"


# ---------------------------------------------------------------- a search in either framework


@dataclasses.dataclass(frozen=True)
class Bench:
    """A small network, untrained, and its data in one framework."""

    analysis: Analysis
    loaders: Loaders
    model: str

    def build(self, seed: int = 0) -> Any:
        return self.analysis.backend.build_model(self.model, seed=seed, in_channels=1)

    def task(self, folder: Path | None = None, **fields: Any) -> Task:
        recipe = Recipe(epochs=1, lr=0.05, steps_per_epoch=2)
        given = {"model": self.model, "folder": folder, "finetune": recipe, "build": self.build, **fields}
        return Task(self.analysis, self.loaders, **given)

    def search(self, folder: Path | None = None, **keys: Any) -> Outcome:
        return MetaPruning({**KEYS, **keys}).run(self.task(folder))


SIZES = {"torch": ("resnet20", 8), "mindspore": ("lenet5", 28)}  # MindSpore compiles each layer of each network


def make(name: str, model: str, size: int) -> Bench:
    backend: Any = get_backend(name)
    network = backend.build_model(model, seed=0, in_channels=1)
    analysis = analyse(backend, network, backend.example((1, 1, size, size)), probe=False)
    return Bench(analysis, backend.loaders("digits", 16, limit=96, size=size), model)


@pytest.fixture(scope="module", params=BACKENDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make(request.param, *SIZES[request.param])
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def searched(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, list[str]]:
    """A folder with a search in it, what came of it, and what it said."""
    folder = tmp_path_factory.mktemp("searched")
    said: list[str] = []
    with Study(folder / STUDY_FILE) as study:
        outcome = MetaPruning(KEYS).run(bench.task(folder, say=said.append, study=study))
    return folder, outcome, said


def test_a_search_scores_each_network_once_and_takes_the_best(bench: Bench, searched: Any) -> None:
    folder, outcome, said = searched
    with Study(folder / STUDY_FILE, read_only=True) as study:
        found, notes = list(study), study.notes("generation")
    coupling, figures = bench.analysis.coupling, outcome.figures
    assert len(found) == 6 and len({c.vector for c in found}) == 6
    best = ranked(found)[0]
    assert (figures["index"], figures["score"], figures["vector"]) == (best.index, best.score, list(best.vector))
    encoding = ChannelScaleEncoding(coupling)
    widths = encoding.widths([c.vector for c in found])
    assert outcome.plan.widths(coupling).tolist() == widths[best.index].tolist()
    cost = Cost(coupling)
    macs = cost.of(widths, ("macs",))["macs"]
    assert macs.tolist() == [c.figures["macs"] for c in found]
    assert ((macs >= 0.2 * cost.full(("macs",))["macs"]) & (macs <= 0.4 * cost.full(("macs",))["macs"])).all()
    assert sorted(notes) == ["0", "1"] and notes["1"]["best_so_far"] == best.score
    assert notes["0"]["mean"] == pytest.approx(np.mean([c.score for c in found if c.generation == 0]))
    assert [line for line in said if line.startswith("generation")][0].startswith("generation 0: 3 networks, best")
    assert all(c.figures["loss"] > 0 for c in found)


def test_the_vector_that_is_shown_means_what_the_search_scored(bench: Bench, searched: Any) -> None:
    folder, outcome, said = searched
    lines = (folder / TOP).read_text().splitlines()
    assert len(lines) == 2 and lines == [line for line in said if line.startswith("top ")]
    match = re.fullmatch(r"top 1: rngs = (\[.*\]), score: (0\.\d{4}), FLOPs: ([\d.]+)M, MACs: ([\d.]+)M", lines[0])
    assert match is not None
    vector = json.loads(match[1])
    method = MetaPruning({"vector": vector})
    method.check(bench.analysis.coupling, model=bench.model)
    given = method.run(bench.task())
    assert given.plan == outcome.plan
    for figure in ("macs", "flops", "ratio"):
        assert given.figures[figure] == outcome.figures[figure]
    assert float(match[3]) == pytest.approx(given.figures["flops"] / 1e6, abs=0.01)
    backend = bench.analysis.backend
    cut = analyse(backend, backend.apply(given.analysis, given.plan), bench.analysis.example, probe=False)
    assert Cost(cut.coupling).full(("macs",))["macs"] == outcome.figures["macs"]


def test_what_is_found_is_trained_from_scratch(bench: Bench, searched: Any) -> None:
    _, outcome, _ = searched
    backend = bench.analysis.backend
    fresh, theirs = backend.get_state(bench.build()), backend.get_state(outcome.analysis.model)
    assert outcome.analysis.model is not bench.analysis.model
    assert all(np.array_equal(fresh[name], theirs[name]) for name in fresh)


def test_another_process_finds_the_same_scores(bench: Bench, searched: Any) -> None:
    folder, _, _ = searched
    backend = bench.analysis.backend
    other = Analysis(backend, bench.build(seed=9), bench.analysis.example, bench.analysis.coupling)
    evaluation = MetaPruning(KEYS).evaluation(dataclasses.replace(bench.task(folder), analysis=other))
    with Study(folder / STUDY_FILE, read_only=True) as study:
        for candidate in list(study)[:2]:
            found = evaluation(Request(study.plan(candidate.index), candidate.vector, {}, 0))
            assert found["score"] == candidate.score
            assert found["loss"] == pytest.approx(candidate.figures["loss"], rel=1e-5)


def test_a_stopped_search_goes_on_without_training_or_scoring_again(bench: Bench, searched: Any) -> None:
    folder, outcome, _ = searched
    stamp = (folder / NET_FOLDER / NET_FILE).stat().st_mtime_ns
    (folder / TOP).unlink()
    said: list[str] = []
    with Study(folder / STUDY_FILE) as study:
        again = MetaPruning(KEYS).run(bench.task(folder, say=said.append, study=study))
        assert len(study) == 6
    assert said[0] == f"PruningNet: that of {folder / NET_FOLDER}"
    assert (folder / NET_FOLDER / NET_FILE).stat().st_mtime_ns == stamp
    assert again.plan == outcome.plan
    assert again.figures["resumed"] == 6 and again.figures["top"] == outcome.figures["top"]
    assert again.figures["pruning_net"] == outcome.figures["pruning_net"]
    assert len((folder / TOP).read_text().splitlines()) == 2


def test_a_pruning_net_says_what_it_is_and_starts_other_searches(bench: Bench, searched: Any, tmp_path: Path) -> None:
    folder, outcome, _ = searched
    data = json.loads((folder / NET_FOLDER / NET_FILE).read_text())
    assert data["fingerprint"] == bench.analysis.graph.fingerprint() and data["hidden"] == 32
    assert data["genes"] == [[g.name] for g in bench.analysis.groups]
    assert data["recipe"]["label_smoothing"] == 0.1 and len(data["history"]) == 1
    assert data["history"] == outcome.figures["pruning_net"]["history"]
    other = bench.search(tmp_path, pruning_net=str(folder / NET_FOLDER), generations=1)
    assert (tmp_path / NET_FOLDER / "weights.safetensors").read_bytes() == (
        folder / NET_FOLDER / "weights.safetensors"
    ).read_bytes()
    assert other.figures["generations"][0] == outcome.figures["generations"][0]


def test_the_same_seed_trains_the_same_pruning_net(bench: Bench, searched: Any, tmp_path: Path) -> None:
    folder, _, _ = searched
    found = MetaPruning(KEYS).train(bench.task(tmp_path))
    same = (folder / NET_FOLDER / "weights.safetensors").read_bytes()
    assert (tmp_path / NET_FOLDER / "weights.safetensors").read_bytes() == same
    assert found["history"][0]["step"] == 3
    # widths are drawn for each mini-batch: the last that were trained on are not those of the first
    widths = MetaPruning(KEYS).train(bench.task(tmp_path / "other", seed=1))
    assert (tmp_path / "other" / NET_FOLDER / "weights.safetensors").read_bytes() != same
    assert widths["recipe"]["seed"] == 1


def test_a_pruning_net_of_another_network_is_refused(bench: Bench, searched: Any, tmp_path: Path) -> None:
    folder, _, _ = searched
    [(other, size)] = {*SIZES.values()} - {SIZES[bench.analysis.backend.name]}
    theirs = make(bench.analysis.backend.name, other, size)
    home = str(folder / NET_FOLDER)
    with pytest.raises(CheckpointError, match=rf"of the network it was trained for \({bench.model}, fingerprint"):
        MetaPruning({**KEYS, "pruning_net": home, "flops_range": [0, 1]}).evaluation(theirs.task())
    with pytest.raises(CheckpointError, match="hidden=16; use hidden=32"):
        bench.search(tmp_path / "a", pruning_net=home, hidden=16)
    with pytest.raises(CheckpointError, match="readable pruning_net.json"):
        bench.search(tmp_path / "b", pruning_net=str(tmp_path))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("plan.json", "weights.safetensors", NET_FILE):
        (copy / name).write_bytes((folder / NET_FOLDER / name).read_bytes())
    (copy / "weights.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(CheckpointError, match="copy the whole folder again"):
        bench.search(tmp_path / "c", pruning_net=str(copy))
    (copy / NET_FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="must be what prunekit wrote"):
        bench.search(tmp_path / "d", pruning_net=str(copy))


def test_too_few_batches_are_told_before_any_training(bench: Bench) -> None:
    with pytest.raises(DataError, match="bn_batches=100 batches, got 6"):
        MetaPruning({**KEYS, "bn_batches": 100}).check_data(bench.loaders)


@pytest.mark.slow
def test_the_study_trains_candidates_from_scratch_and_correlates(bench: Bench, tmp_path: Path) -> None:
    home = tmp_path / "net"
    outcome = bench.search(home, correlation=4, correlation_epochs=0.5)
    found = outcome.figures["correlation"]
    assert found["epochs"] == 0.5 and len({line["index"] for line in found["candidates"]}) == 4
    assert max(line["score"] for line in found["candidates"]) == outcome.figures["score"]
    low, high = found["generated"]["kendall_interval"]
    assert found["generated"]["points"] == 4 and low <= found["generated"]["kendall"] <= high


# ---------------------------------------------------------------- commands


SMALL = [
    "training={epochs: 0}",
    "finetune={epochs: 1, lr: 0.05}",
    "latency={batch: 2, runs: 2, warmup: 0}",
    "export.formats=[]",
]


def call(*arguments: object, code: int = 0) -> str:
    from typer.testing import CliRunner

    from prunekit.cli.main import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def options(backend: str, **keys: Any) -> list[str]:
    model, size = SIZES[backend]
    method = f"method={json.dumps({'name': 'meta_pruning', **KEYS, **keys})}"
    data = f"data={{name: digits, limit: 96, batch_size: 16, size: {size}}}"
    changes = [part for change in [*SMALL, data, f"model.name={model}", method] for part in ("--set", change)]
    return ["meta_pruning_resnet20", "--backend", backend, *changes]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_three_steps_by_command(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    net, found, done = (tmp_path / name for name in ("net", "found", "done"))
    assert f"PruningNet: {net}/pruning_net" in call("train", *options(backend), "--out", net)
    assert {p.name for p in net.iterdir()} == {"config.yml", "log.jsonl", "pruning_net", "training.json"}
    assert not (tmp_path / "cache").exists()  # no base network was trained
    assert "is done" in call("train", *options(backend), "--out", net, "--resume")

    said = call("search", *options(backend, pruning_net=str(net / "pruning_net")), "--out", found)
    assert "top 1: rngs = [" in said and "base network" not in said
    data = json.loads((found / "search.json").read_text())
    assert len(data["top"]) == 2 and data["top"][0]["score"] == data["score"]

    processes = ("--set", "executor={name: processes, workers: 2}")
    call("search", *options(backend, pruning_net=str(net / "pruning_net")), *processes, "--out", tmp_path / "spread")
    assert (tmp_path / "spread" / TOP).read_bytes() == (found / TOP).read_bytes()

    call("evaluate", found, "--top", 2, "--out", done)
    results = json.loads((done / "results.json").read_text())
    assert results["method"]["vector"] == data["top"][1]["vector"]
    assert results["after"]["macs"] == data["top"][1]["macs"]
    assert [stage["stage"] for stage in results["stages"]] == ["original", "cut", "trained"]
    assert f"of {results['reload']['images']} right" in call("evaluate", done)
    text = str(data["top"][0]["vector"])
    call("evaluate", found, "--vector", f"rngs = {text}", "--out", tmp_path / "by-hand")
    again = json.loads((tmp_path / "by-hand" / "results.json").read_text())
    assert again["after"]["macs"] == data["macs"]
    assert again["reload"]["same"] is True


@pytest.mark.parametrize("text", ["18, 23, 2", "[18, 23, 2]", "rngs = [18, 23, 2]", "18,23,2,", " rngs=[18,23, 2] "])
def test_a_vector_is_read_as_it_is_shown(text: str) -> None:
    from prunekit.cli.meta import parse_vector

    assert parse_vector(text) == [18, 23, 2]


@pytest.mark.parametrize("text", ["", "a, b", "18 23", "1.5, 2", "-1, 2"])
def test_what_is_no_vector_is_told(text: str) -> None:
    from prunekit.cli.meta import parse_vector
    from prunekit.core.errors import InputError

    with pytest.raises(InputError, match="ids with commas between them"):
        parse_vector(text)


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (["train", "eagle_eye_resnet20"], "such as meta_pruning, got 'eagle_eye'"),
        (["train", "meta_pruning_resnet20", "--set", "method.flops_range=[0.001, 0.002]"], "use a range between these"),
        (["train", "meta_pruning_resnet20", "--set", "method.bn_batches=900"], "bn_batches=900 batches, got"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(command: list[str], part: str, tmp_path: Path) -> None:
    assert part in call(*command, "--set", "data={name: digits, limit: 200}", "--out", tmp_path / "out", code=2)
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_something_else_are_told(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("model: {name: resnet20}\nmethod: {name: eagle_eye}\n")
    assert "need a folder of meta_pruning, got one of eagle_eye" in call("evaluate", tmp_path, "--top", 1, code=2)
    (tmp_path / "config.yml").write_text("model: {name: resnet20}\nmethod: {name: meta_pruning}\n")
    top = [{"vector": [3] * 12}]
    data = {"format": "prunekit.search", "version": 1, "top": top}
    (tmp_path / "search.json").write_text(json.dumps(data))
    assert "one of the 1 vectors that" in call("evaluate", tmp_path, "--top", 2, code=2)
    assert "leave one out" in call("evaluate", tmp_path, "--top", 1, "--vector", "1, 2", code=2)
    assert "at most 30" in call("evaluate", tmp_path, "--vector", "31", code=2)
    assert "add --top 1 or --vector" in call("evaluate", tmp_path, "--out", tmp_path / "out", code=2)

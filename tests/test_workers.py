"""Real candidates, evaluated by the workers of a run: the figures are those of the run's own process."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)

from prunekit.cli._yaml import dump
from prunekit.cli.config import RunConfig, load_config
from prunekit.cli.job import Job, prepare
from prunekit.cli.workers import make_executor, open_evaluation
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.candidates import Evaluation, Request
from prunekit.core.errors import ConfigError, InputError, PlanError
from prunekit.core.executor import Executor, LocalExecutor, ProcessExecutor, RayExecutor
from prunekit.core.method import Task
from prunekit.core.registry import get_algorithm
from prunekit.core.settings import check
from prunekit.core.testing import random_plan

BACKENDS = [
    "torch",
    pytest.param(
        "mindspore", marks=[pytest.mark.slow, pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")]
    ),
]
SMALL = [
    "data={name: digits, limit: 96, batch_size: 32}",
    "training={epochs: 1, lr: 0.1, steps_per_epoch: 3, channels_last: true}",
    "export.formats=[]",
    "method={name: eagle_eye, candidates: 4, bn_batches: 2}",
]


class Bench:
    """A folder as a run leaves it before its search, and requests."""

    def __init__(self, folder: Path, backend: str, *changes: str) -> None:
        self.folder = folder
        self.job: Job = prepare(load_config("eagle_eye_resnet20", [*SMALL, f"backend={backend}", *changes]))
        model = self.job.build()
        self.job.backend.fit(model, self.job.loaders.train, self.job.config.training)
        self.job.backend.save(model, folder / "original")
        (folder / "config.yml").write_text(dump(self.job.config.to_mapping()))
        self.analysis: Analysis = analyse(self.job.backend, model, self.job.example())

    def config(self, executor: Any) -> RunConfig:
        config: RunConfig = check(RunConfig, {**self.job.config.to_mapping(), "executor": executor}, "test")
        return config

    def requests(self, count: int, **options: Any) -> list[Request]:
        return [Request(random_plan(self.analysis, seed=k), (float(k),), options, seed=k) for k in range(count)]

    def figures(self, executor: Any, asked: list[Request]) -> list[dict[str, float]]:
        """What an executor of the configuration finds, in the order of the requests."""
        with make_executor(self.config(executor), self.folder) as made:
            made.prepare(self.evaluation)
            return gather(made, asked)

    def evaluation(self) -> Evaluation:
        """What a search evaluates by in its own process: of the network that was trained there."""
        config = self.job.config
        method = get_algorithm(config.method.name)(config.method.keys)
        found: Evaluation = method.evaluation(
            Task(self.analysis, self.job.loaders, folder=self.folder, finetune=config.finetune, build=self.job.build)
        )
        return found


def gather(executor: Executor, asked: list[Request]) -> list[dict[str, float]]:
    found = {position: dict(result.figures) for position, result in executor.map(asked)}
    return [found[k] for k in range(len(asked))]


@pytest.fixture(scope="module", params=BACKENDS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("run"), request.param)


@pytest.fixture(scope="module")
def local(bench: Bench) -> list[dict[str, float]]:
    return bench.figures("local", bench.requests(4))


def test_processes_find_what_the_run_itself_finds(bench: Bench, local: list[dict[str, float]]) -> None:
    assert len({f["loss"] for f in local}) == 4
    assert bench.figures({"name": "processes", "workers": 2, "threads": 1}, bench.requests(4)) == local


@pytest.mark.slow
def test_a_real_worker_that_is_killed_is_replaced(bench: Bench, local: list[dict[str, float]]) -> None:
    executor = make_executor(bench.config({"name": "processes", "workers": 1, "threads": 1}), bench.folder)
    assert isinstance(executor, ProcessExecutor)
    found, killed = {}, ()
    with executor:
        for position, result in executor.map(bench.requests(4)):
            found[position] = dict(result.figures)
            if not killed:
                killed = executor.pids  # busy with the next one
                os.kill(killed[0], signal.SIGKILL)
        assert len(killed) == 1 and killed != executor.pids
    assert [found[k] for k in range(4)] == local


@pytest.mark.slow
def test_ray_finds_what_the_run_itself_finds(bench: Bench, local: list[dict[str, float]]) -> None:
    assert bench.figures({"name": "ray", "workers": 2, "threads": 1}, bench.requests(4)) == local


@pytest.mark.slow
def test_training_is_repeated_bit_by_bit_with_equal_threads(tmp_path: Path) -> None:
    keys = "method={name: prune_ea, evaluation: train, epochs: 1}"
    bench = Bench(tmp_path, "torch", keys)
    found = [
        bench.figures(executor, bench.requests(2))
        for executor in ({"name": "local", "threads": 1}, {"name": "processes", "workers": 2, "threads": 1})
    ]
    assert found[0] == found[1]


def test_threads_of_local_are_those_of_the_framework() -> None:
    before = torch.get_num_threads()
    for count in (1, 2):
        executor = LocalExecutor(count)
        executor.prepare(lambda: lambda request: {"score": float(torch.get_num_threads())})
        ((_, result),) = executor.map([Request(None, (), {}, 0)])  # type: ignore[arg-type]
        assert result.figures == {"score": count}
    assert torch.get_num_threads() == before


def test_the_configuration_chooses_the_executor(tmp_path: Path) -> None:
    def made(text: str) -> Executor:
        return make_executor(load_config("eagle_eye_resnet20", [f"executor={text}"]), tmp_path)

    assert isinstance(made("local"), LocalExecutor) and isinstance(made("{name: local, workers: 1}"), LocalExecutor)
    executor = made("{name: processes, workers: 3, threads: 2}")
    assert isinstance(executor, ProcessExecutor) and (executor.workers, executor.threads) == (3, 2)
    executor = made("{name: ray, workers: 4, address: '10.0.0.5:6379', device: cuda}")
    assert isinstance(executor, RayExecutor) and (executor.workers, executor.threads) == (4, 1)


@pytest.mark.slow
def test_a_worker_says_what_it_misses(tmp_path: Path) -> None:
    config = load_config("eagle_eye_resnet20", [*SMALL, "executor={name: processes, workers: 1}"])
    with make_executor(config, tmp_path) as executor, pytest.raises(PlanError, match="must have a readable plan.json"):
        gather(executor, [Request(None, (), {}, 0)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="only a search evaluates candidates, got 'uni_pruning'"):
        open_evaluation(str(tmp_path), load_config("quickstart", SMALL[:1]).to_mapping())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "torch")
    with pytest.raises(ConfigError, match="executor.device: cuda needs a GPU, got none"):
        bench.figures({"name": "processes", "workers": 1, "device": "cuda"}, bench.requests(1))


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_finds_nearly_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "torch")
    found = bench.figures({"name": "processes", "workers": 1, "device": "cuda"}, bench.requests(3))
    for there, here in zip(found, bench.figures("local", bench.requests(3)), strict=True):
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-3)

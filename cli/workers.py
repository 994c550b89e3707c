"""Workers of a run's search: where they are, and what each does first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunekit.cli.config import RunConfig
from prunekit.cli.job import Job, prepare
from prunekit.core.analysis import analyse
from prunekit.core.candidates import Evaluation
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.executor import Executor, LocalExecutor, ProcessExecutor, RayExecutor
from prunekit.core.method import SearchMethod, Task
from prunekit.core.registry import get_algorithm
from prunekit.core.settings import check

__all__ = ["make_executor", "open_evaluation"]

_FACTORY = "prunekit.cli.workers:open_evaluation"
_FILES = ("config.yml", "original/*", "pruning_net/*")  # of a run's folder, for workers that cannot see it


def make_executor(config: RunConfig, folder: Path) -> Executor:
    """The executor that a configuration asks for; nothing is started yet.

    Args:
        config: The configuration of a prepared job.
        folder: Folder of the run. It has to hold the trained network by the time that candidates are evaluated.
    """
    chosen = config.executor
    if chosen.name == "local":
        return LocalExecutor(chosen.threads)
    arguments = {"folder": str(folder.resolve()), "config": config.to_mapping()}
    if chosen.name == "processes":
        return ProcessExecutor(_FACTORY, arguments, chosen.workers, chosen.threads)
    return RayExecutor(
        _FACTORY, arguments, lambda: _read_files(folder), chosen.address, chosen.workers, chosen.threads, chosen.device
    )


def open_evaluation(folder: str, config: Mapping[str, Any]) -> Evaluation:
    """What scores the candidates of a run, made in another process from the run's folder.

    Args:
        folder: Folder with ``original``, the trained network, and whatever else the method left.
        config: The configuration of the run, as plain data.

    Raises:
        PrunekitError: The data or the network cannot be read.
    """
    settings: RunConfig = check(RunConfig, dict(config), "the configuration of a search")
    method = get_algorithm(settings.method.name)(settings.method.keys)
    if not isinstance(method, SearchMethod):
        raise InputError(
            f"only a search evaluates candidates, got {settings.method.name!r}; use a method that searches"
        )
    job = prepare(settings)
    model = job.build()
    if method.trained:
        model = job.backend.load(model, Path(folder) / "original", job.example())
    model = _moved(job, model)
    example = job.backend.example((1, *job.shape), seed=settings.seed, like=model)
    task = Task(
        analyse(job.backend, model, example), job.loaders, model=settings.model.name, folder=Path(folder),
        finetune=settings.finetune, seed=settings.seed, build=lambda: _moved(job, job.build()),
    )  # fmt: skip
    return method.evaluation(task)


def _moved(job: Job, model: Any) -> Any:
    """The network on the device that evaluations run on."""
    if job.config.executor.device == "cpu":
        return model
    try:
        return model.to("cuda")
    except (AssertionError, RuntimeError) as error:  # a PyTorch without CUDA asserts that it has some
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"executor.device: cuda needs a GPU, got none ({reason}); use device: cpu") from error


def _read_files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for pattern in _FILES for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

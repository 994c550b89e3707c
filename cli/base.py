"""The base network of a run: trained, or read from the cache, or from a folder of the user's."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunekit.cli._folders import cache_folder, new_folder
from prunekit.cli.job import Job
from prunekit.core._files import read_text, write_atomic
from prunekit.core.errors import CheckpointError, ConfigError, OutputError, PlanError
from prunekit.core.logs import RunLog
from prunekit.core.store import read_plan

__all__ = ["Base", "get_base"]

_HISTORY_FILE = "history.json"  # written last: what it stands beside is whole


@dataclass(frozen=True)
class Base:
    """A trained network.

    Attributes:
        model: The network.
        history: One dict per epoch of its training.
        source: Where it came from, in words.
    """

    model: Any
    history: list[dict[str, float]]
    source: str


def get_base(job: Job, folder: Path, log: RunLog, say: Callable[[str], None]) -> Base:
    """The base network of a job, which is saved as ``original`` in the run's folder.

    Args:
        job: The job.
        folder: The run's; one that was stopped may hold the network already.
        log: Gets the epochs.
        say: Tells the user what happens.

    Raises:
        CheckpointError: The weights that the configuration names do not fit the model.
        ConfigError: They are those of a pruned network.
    """
    place = folder / "original"
    kept = _stored(job, place, say)
    if kept is not None:
        say("base network: as the stopped run had it")
        return kept
    base = _make_base(job, log, say)
    job.backend.save(base.model, place)
    write_atomic(place / _HISTORY_FILE, json.dumps({"source": base.source, "history": base.history}))
    return base


def _make_base(job: Job, log: RunLog, say: Callable[[str], None]) -> Base:
    config = job.config
    if config.weights is not None:
        say(f"base network: weights of {config.weights}")
        _refuse_pruned(Path(config.weights))
        return Base(job.backend.load(job.build(), config.weights, job.example()), [], f"weights of {config.weights}")
    place = cache_folder() / "weights" / _key(job) if config.cache and _repeatable(job) else None
    cached = _from_cache(job, place, say) if place is not None else None
    if cached is not None:
        return cached
    model = job.build()
    say(f"base network: training {config.model.name} for {config.training.epochs:g} epochs")
    result = job.backend.fit(model, job.loaders.train, config.training, validation=job.loaders.validation, log=log)
    if place is not None:
        _to_cache(job, place, model, result.history, say)
    return Base(model, result.history, "trained in this run")


def _refuse_pruned(folder: Path) -> None:
    plan = read_plan(folder)
    cut = [name for name, kept in plan.kept.items() if len(kept) < plan.sizes[name]]
    if cut:
        raise ConfigError(
            f"weights must be those of an unpruned network, got a pruned one in {folder} (group {cut[0]!r} and "
            f"{len(cut) - 1} more are cut); give the original's folder"
        )


def _repeatable(job: Job) -> bool:
    """Whether names say it all: the user's own functions may change while their names stay."""
    model = job.config.model.name.partition(":")
    return ":" not in job.config.data.name and (not model[1] or model[0] in ("torchvision", "timm"))


def _key(job: Job) -> str:
    """A hash of all that the base weights depend on."""
    config = job.config
    parts = {
        "version": importlib.metadata.version("prunekit"),
        "backend": config.backend,
        "seed": config.seed,
        "model": config.model.model_dump(),
        "data": {
            **config.data.model_dump(exclude={"workers"}),
            "test": len(job.loaders.test),
            "train": len(job.loaders.train),
        },
        "training": config.training.to_mapping(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _from_cache(job: Job, place: Path, say: Callable[[str], None]) -> Base | None:
    base = _stored(job, place, say)
    if base is None:
        return None
    say(f"base network: cached weights of {place}")
    return replace(base, source=f"cached weights, trained earlier by the same recipe ({place.name})")


def _stored(job: Job, place: Path, say: Callable[[str], None]) -> Base | None:
    """The base network of a folder, if it was written to its end and is whole."""
    path = place / _HISTORY_FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(read_text(path))
        history = data["history"] if isinstance(data, dict) and "history" in data else None
        if not isinstance(history, list) or not all(isinstance(line, dict) for line in history):
            raise ValueError(f"{_HISTORY_FILE} holds no epochs")
        return Base(job.backend.load(job.build(), place, job.example()), history, str(data.get("source", "")))
    except (OSError, ValueError, RecursionError, CheckpointError, PlanError) as error:
        say(f"base network: the weights kept in {place} are damaged ({error}); making them again")
        return None


def _to_cache(job: Job, place: Path, model: Any, history: list[dict[str, float]], say: Callable[[str], None]) -> None:
    try:
        with contextlib.suppress(FileNotFoundError), new_folder(place, overwrite=True, mark=_HISTORY_FILE) as folder:
            job.backend.save(model, folder)
            write_atomic(folder / _HISTORY_FILE, json.dumps({"history": history}))
    except OutputError as error:  # a run does not need its cache
        say(f"the base weights were not cached ({error})")

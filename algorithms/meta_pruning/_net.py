"""The PruningNet of a search: trained on random widths, kept in a folder, and asked for networks."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.algorithms.meta_pruning._space import Space
from prunekit.core._files import read_text, write_atomic
from prunekit.core.analysis import Analysis
from prunekit.core.errors import CheckpointError
from prunekit.core.method import Task
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe
from prunekit.core.store import WEIGHTS_FILE, read_store, write_store

__all__ = [
    "NET_FILE",
    "NET_FOLDER",
    "Generator",
    "NetRecord",
    "is_net",
    "load_net",
    "read_record",
    "save_net",
    "train_net",
]

NET_FOLDER = "pruning_net"
NET_FILE = "pruning_net.json"

_FORMAT = "prunekit.pruning_net"
_VERSION = 1


@dataclass(frozen=True)
class NetRecord:
    """What a PruningNet is, and how it was trained: plain data.

    Attributes:
        model: Name of the network whose weights it generates.
        fingerprint: Hash of that network's architecture.
        hidden: Width of its hidden layers.
        genes: Layers that share each id of a vector.
        recipe: How it was trained.
        history: One dict for each epoch.
        seconds: Time the training took.
    """

    model: str
    fingerprint: str
    hidden: int
    genes: list[list[str]]
    recipe: dict[str, Any]
    history: list[dict[str, float]]
    seconds: float


class _RandomWidths:
    """Before every step all widths are drawn anew, in a way that follows from seed and step alone."""

    def __init__(self, net: Any, space: Space, seed: int) -> None:
        self._net, self._space, self._seed = net, space, seed

    def step_begin(self, step: int) -> None:
        vectors = self._space.uniform(1, np.random.default_rng([self._seed, step]))
        self._net.set_widths(self._space.encoding.widths(vectors)[0])

    def epoch_begin(self, epoch: int) -> None:
        """Nothing."""

    def epoch_end(self, epoch: int) -> None:
        """Nothing."""


def train_net(task: Task, space: Space, hidden: int, recipe: Recipe) -> tuple[Any, NetRecord]:
    """Train a PruningNet on the training images, each mini-batch at widths of its own.

    Args:
        task: What to work on; of the base network only the architecture counts.
        space: What vectors mean.
        hidden: Width of its hidden layers.
        recipe: How.
    """
    analysis, backend = task.analysis, task.analysis.backend
    task.say(f"PruningNet: training for {recipe.epochs:g} epochs, each mini-batch at random widths")
    if task.log is not None:
        task.log.write("stage", name="PruningNet")
    begin = time.monotonic()
    net = backend.pruning_net(analysis, hidden=hidden, seed=task.seed)
    widths = _RandomWidths(net, space, recipe.seed)
    result = backend.fit(net, task.loaders.train, recipe, callbacks=[widths], log=task.log)
    fingerprint = analysis.graph.fingerprint()
    history = [dict(line) for line in result.history]
    seconds = time.monotonic() - begin
    return net, NetRecord(task.model, fingerprint, hidden, space.genes, recipe.to_mapping(), history, seconds)


def save_net(folder: Path, analysis: Analysis, net: Any, record: NetRecord) -> None:
    """Write a PruningNet into a folder; the file that says what it is comes last.

    Raises:
        OutputError: The folder cannot be written.
    """
    (folder / NET_FILE).unlink(missing_ok=True)
    plan = PruningPlan.full(analysis.coupling, model=record.model)
    write_store(folder, analysis.backend.get_state(net), plan)
    data = {"format": _FORMAT, "version": _VERSION, **vars(record), "weights": _hash(folder)}
    write_atomic(folder / NET_FILE, json.dumps(data, indent=1))


def is_net(folder: Path) -> bool:
    """Whether a whole PruningNet was written into a folder."""
    return (folder / NET_FILE).is_file()


def read_record(folder: Path, fingerprint: str, space: Space, hidden: int) -> NetRecord:
    """What the PruningNet of a folder is, if it can be used.

    Args:
        folder: Where it is.
        fingerprint: Hash of the architecture of the network whose weights it shall generate.
        space: What vectors mean.
        hidden: Width of its hidden layers, as the settings say.

    Raises:
        CheckpointError: There is none, it is damaged, or it was trained for another network or other settings.
    """
    record = _read(folder)
    if record.fingerprint != fingerprint:
        raise CheckpointError(
            f"a PruningNet generates weights of the network it was trained for ({record.model}, fingerprint "
            f"{record.fingerprint}), got one of fingerprint {fingerprint}; train a PruningNet for it, or set the same "
            "model, options, image size and number of classes"
        )
    if record.hidden != hidden:
        raise CheckpointError(
            f"hidden must be what the PruningNet in {folder} was trained with, got hidden={hidden}; use "
            f"hidden={record.hidden}"
        )
    if record.genes != space.genes:
        raise CheckpointError(
            f"ids must mean what they meant when the PruningNet in {folder} was trained ({len(record.genes)} ids), got "
            f"{len(space.genes)} ids or other layers; use the same model.name, or train it anew"
        )
    return record


def load_net(folder: Path, analysis: Analysis, space: Space, hidden: int) -> tuple[Any, NetRecord]:
    """The PruningNet that was written into a folder.

    Args:
        folder: Where it is.
        analysis: The network whose weights it shall generate.
        space: What vectors mean.
        hidden: Width of its hidden layers, as the settings say.

    Raises:
        CheckpointError: There is none, it is damaged, or it was trained for another network or other settings.
    """
    record = read_record(folder, analysis.graph.fingerprint(), space, hidden)
    state, _ = read_store(folder)
    net = analysis.backend.pruning_net(analysis, hidden=hidden, seed=0)
    analysis.backend.set_state(net, state)
    return net, record


class Generator:
    """Networks with the weights that a PruningNet generates.

    Args:
        analysis: The network whose weights it generates; it is not changed.
        net: The PruningNet.
    """

    def __init__(self, analysis: Analysis, net: Any) -> None:
        backend = analysis.backend
        self._net = net
        self._whole = Analysis(backend, backend.clone(analysis.model), analysis.example, analysis.coupling)

    def __call__(self, plan: PruningPlan) -> Any:
        """The network that a plan leaves; its batch norm statistics mean nothing yet."""
        backend = self._whole.backend
        self._net.set_widths(plan.widths(self._whole.coupling))
        backend.set_state(self._whole.model, self._net.weights())
        return backend.apply(self._whole, plan, check=False)


def _hash(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def _read(folder: Path) -> NetRecord:
    path = folder / NET_FILE
    try:
        data = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"a PruningNet must be in a folder with a readable {NET_FILE}, got {folder} ({error}); give the folder "
            f"{NET_FOLDER} that `prunekit train` left"
        ) from error
    if not isinstance(data, Mapping) or data.get("format") != _FORMAT or data.get("version") != _VERSION:
        raise CheckpointError(
            f"{NET_FILE} must be what prunekit wrote, of version {_VERSION}, got another file at {path}; train anew"
        )
    try:
        record = NetRecord(**{key: data[key] for key in NetRecord.__annotations__})
        same = (folder / WEIGHTS_FILE).is_file() and data["weights"] == _hash(folder)
    except (KeyError, OSError) as error:
        raise CheckpointError(f"{path} must hold what prunekit wrote, got a changed one ({error!r})") from error
    if not same:
        raise CheckpointError(
            f"{WEIGHTS_FILE} must be the file that {NET_FILE} was written with, got none or another one in {folder}; "
            "copy the whole folder again"
        )
    return record

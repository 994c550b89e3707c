"""What every command about one network needs: its backend, its data, how to build it, and its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunekit.cli._yaml import dump, parse
from prunekit.cli.config import RunConfig
from prunekit.core._files import read_text, write_atomic
from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.registry import get_backend
from prunekit.core.settings import check, first_difference

__all__ = ["Job", "identity", "open_run", "prepare", "read_config", "refuse_distributed", "settle"]

_FREE = ("out", "cache", "executor", "latency")
"""Sections that may be changed when a run is continued: what is found does not follow from them."""


@dataclass(frozen=True)
class Job:
    """A configuration with its backend and its data.

    Attributes:
        config: The configuration, with nothing left open: builder's options, input shape, folders.
        backend: The backend.
        loaders: Batches: ``train``, ``validation``, ``test``, ``calibration``.
    """

    config: RunConfig
    backend: Any
    loaders: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input without the batch axis."""
        return tuple(self.config.model.input or ())

    def build(self) -> Any:
        """The unpruned network, its weights drawn from the run's seed."""
        model = self.config.model
        return self.backend.build_model(model.name, seed=self.config.seed, **model.options)

    def example(self, batch: int = 1) -> Any:
        """A random input of so many images."""
        return self.backend.example((batch, *self.shape), seed=self.config.seed)


def prepare(config: RunConfig) -> Job:
    """Find the backend, read the data, and settle what the configuration leaves open.

    Raises:
        ConfigError: The backend or an export format is unknown.
        DataError: The data cannot be read.
        MissingDependencyError: The framework is not installed.
    """
    backend: Any = get_backend(config.backend)
    known, formats = backend.export_formats(), config.export.formats
    if formats is None:
        formats = list(backend.default_formats())
        config = config.model_copy(update={"export": config.export.model_copy(update={"formats": formats})})
    for name in formats:
        if name not in known:
            raise ConfigError(f"export.formats may hold known formats only, got {name!r}; {nearest(name, known)}")
    if len(set(formats)) < len(formats):
        raise ConfigError(f"export.formats may name a format once, got {formats}; remove one")
    data = config.data.model_dump(exclude={"name", "batch_size"}, exclude_none=True)
    if ":" in config.data.name:  # a function of the user's own takes only what is set
        data = {key: value for key, value in data.items() if key in config.data.model_fields_set}
    loaders = backend.loaders(config.data.name, config.data.batch_size, seed=config.seed, **data)
    return Job(_settled(config, loaders), backend, loaders)


def settle(config: RunConfig, folder: Path) -> Job:
    """The job of a run's folder: its configuration is written there, or is what stands there already.

    Args:
        config: The configuration.
        folder: The run's folder, empty or of a run that was stopped.

    Raises:
        ConfigError: The folder is that of another configuration.
        PrunekitError: The configuration does not work.
    """
    job = prepare(config)
    if (folder / "config.yml").is_file():
        before, now = identity(read_config(folder)), identity(job.config)
        key = first_difference(before, now)
        if key is not None:
            raise ConfigError(
                f"a run can be continued with its own configuration only, got another {key} than {folder} has; set it "
                "back, or begin anew with --overwrite"
            )
    else:
        write_atomic(folder / "config.yml", dump(job.config.to_mapping()))
    return job


def identity(config: RunConfig) -> dict[str, Any]:
    """What a run's results follow from."""
    data = config.to_mapping()
    data["data"].pop("workers", None)
    where = {key: data["executor"][key] for key in ("threads", "device")}  # which figures depend on to the last digit
    return {**{key: value for key, value in data.items() if key not in _FREE}, "executor": where}


def refuse_distributed() -> None:
    """Make sure that a command is not one of several processes of a launcher, which would write one folder.

    Raises:
        ConfigError: It is; ``torchrun`` and ``msrun`` tell by the environment.
    """
    for variable, needs in (("WORLD_SIZE", "RANK"), ("MS_WORKER_NUM", "MS_ROLE")):
        count = os.environ.get(variable, "")
        if needs in os.environ and count.isdigit() and int(count) > 1:
            raise ConfigError(
                f"a command must be one process, got {variable}={count} from a launcher such as torchrun or msrun; "
                "start it without, and let `executor` share its work; to train by several processes write a script "
                "with prune and fit of the backend (examples/finetune_torchrun.py)"
            )


def read_config(folder: str | Path) -> RunConfig:
    """The configuration that a run or a search left in its folder.

    Raises:
        InputError: There is none.
        ConfigError: Something in it is wrong.
    """
    path = Path(folder) / "config.yml"
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"a run folder must hold a readable config.yml, got {folder} ({error}); give the folder of a finished run"
        ) from error
    config: RunConfig = check(RunConfig, parse(text, str(path)), str(path))
    return config


def open_run(folder: str | Path) -> tuple[Job, Any]:
    """The job of a finished run, and its pruned network.

    Args:
        folder: Output folder of a run.

    Raises:
        InputError: The folder holds no run.
        PlanError: Its plan is damaged.
        CheckpointError: Its weights are damaged.
    """
    job = prepare(read_config(folder))
    return job, job.backend.load(job.build(), folder, job.example())


def _settled(config: RunConfig, loaders: Any) -> RunConfig:
    model, data = config.model, config.data
    shape = model.input or list(loaders.shape)
    if not shape:
        raise ConfigError("model.input must be given where the data do not tell it, got none; e.g. input: [3, 32, 32]")
    options = dict(model.options)
    own = ":" in model.name and model.name.partition(":")[0] not in ("torchvision", "timm", "mindcv")
    if not own:  # a function of the user's own takes what it takes
        options.setdefault("in_channels", int(shape[0]))
        if loaders.classes:
            options.setdefault("num_classes", len(loaders.classes))
    changes: dict[str, Any] = {"model": model.model_copy(update={"options": options, "input": [int(n) for n in shape]})}
    if loaders.name and ":" not in data.name:
        changes["data"] = data.model_copy(update={"name": loaders.name, "root": _absolute(data.root)})
    if config.weights is not None:
        changes["weights"] = _absolute(config.weights)
    return config.model_copy(update=changes)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())

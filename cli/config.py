"""The configuration of a run: its sections, how it is read, and how ``--set`` changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, field_validator, model_validator

from prunekit.cli._prune_keys import Count, PruneKeys
from prunekit.cli._yaml import MOST, parse
from prunekit.cli.vega import is_vega, translate
from prunekit.core._files import read_text
from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_algorithm, list_algorithms
from prunekit.core.settings import Section, check

__all__ = [
    "METHODS",
    "DataSection",
    "ExecutorSection",
    "ExportSection",
    "LatencySection",
    "MethodSection",
    "ModelSection",
    "RunConfig",
    "list_configs",
    "load_config",
    "parse_options",
]

Share = Annotated[float, Field(gt=0, lt=1)]


def _recipe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Recipe.from_mapping({str(key): item for key, item in value.items()})
    if isinstance(value, Recipe):
        return value
    raise ValueError(f"must be a section of keys and values, got {value!r}; indent its keys under it")


RecipeSection = Annotated[InstanceOf[Recipe], BeforeValidator(_recipe)]


class ModelSection(Section):
    """Which network.

    Attributes:
        name: A name of the zoo (``prunekit list models``), ``torchvision:NAME``, ``timm:NAME``,
            ``transformers:NAME``, ``mindcv:NAME`` or ``package.module:function``.
        options: Keyword arguments of the function that builds it. Where the zoo's network takes
            ``in_channels`` and ``num_classes``, the data set's are given.
        input: Shape of one input, ``[C, H, W]``; by default that of the data.
    """

    name: str
    options: dict[str, Any] = {}
    input: list[Count] | None = None


class DataSection(Section):
    """Which images.

    Attributes:
        name: A data set of :func:`prunekit.core.data.load_images`.
        root: Folder with its files.
        size: Height and width to resize to.
        limit: Most images of each split.
        validation: Share of the training set that is held out.
        workers: Processes or threads that decode an image folder.
        batch_size: Images in a batch.
    """

    name: str = "fashion-mnist-or-digits"
    root: str | None = None
    size: Count | None = None
    limit: Count | None = None
    validation: Share = 0.1
    workers: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 128


class MethodSection(Section):
    """How to prune.

    Attributes:
        name: ``uni_pruning``, ``eagle_eye``, ``channel_pruning``, ``prune_ea``, ``meta_pruning``, ``prune`` (once, by
            importance and budget), ``none``, or an algorithm that another package registers.
        keys: The method's own keys, written beside ``name``.
    """

    name: str
    keys: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise ValueError(f"must be a section of keys and values, got {data!r}; indent its keys under it")
        rest = {str(key): value for key, value in data.items() if key != "name"}
        return {**({"name": data["name"]} if "name" in data else {}), "keys": rest}

    @model_validator(mode="after")
    def _checked(self) -> MethodSection:
        if self.name not in METHODS and self.name not in list_algorithms():
            known = dict.fromkeys([*METHODS, *list_algorithms()])
            raise ConfigError(f"name must be a known method, got {self.name!r}; {nearest(self.name, known)}")
        if self.name in _CHECKS:
            _CHECKS[self.name](self.keys)
        else:
            get_algorithm(self.name)(self.keys)
        return self


OWN_KEYS = {
    "output_path": "out",
    "input_size": "model.input",
    "epoch_size": "finetune.epochs",
    "prune_flag": "method.name",
}


def _check_uni_pruning(keys: Mapping[str, Any]) -> None:
    for key, instead in OWN_KEYS.items():
        if key in keys:
            raise ConfigError(f"{key} is set by the run, got {key}={keys[key]!r}; set {instead} instead")
    get_algorithm("uni_pruning")(dict(keys))


def _check_prune(keys: Mapping[str, Any]) -> None:
    check(PruneKeys, dict(keys), "keys of prune")


def _check_none(keys: Mapping[str, Any]) -> None:
    if keys:
        raise ConfigError(f"the method none has no keys, got {next(iter(keys))!r}; remove it")


_CHECKS = {"uni_pruning": _check_uni_pruning, "prune": _check_prune, "none": _check_none}

METHODS = {
    "uni_pruning": "soft pruning of groups of channels during fine-tuning (UniPruning)",
    "eagle_eye": "random networks within a budget, scored once their batch norms are adapted (EagleEye)",
    "channel_pruning": "channels chosen by LASSO, weights fitted again; ratios uniform, listed or searched",
    "prune_ea": "channels as bits, evolved towards the Pareto front of accuracy and cost by NSGA-III (PruneEA)",
    "meta_pruning": "widths bred by evolution, scored with generated weights, trained from scratch (MetaPruning)",
    "prune": "one cut by importance and budget, then fine-tuning",
    "none": "no pruning: the same steps, for comparison",
}
"""Methods that a configuration can name, with a line on each."""


class ExportSection(Section):
    """Which files to export; each is loaded again by its own runtime and compared.

    Attributes:
        formats: Names of formats of the backend, e.g. ``torchscript``, ``onnx``, ``pt2`` or ``mindir``; by
            default those that its users expect.
    """

    formats: list[str] | None = None


class LatencySection(Section):
    """How to time.

    Attributes:
        batch: Images in a pass.
        runs: Timed passes; the median is reported.
        warmup: Passes before them.
    """

    batch: Count = 1
    runs: Count = 50
    warmup: Annotated[int, Field(ge=0)] = 10


class ExecutorSection(Section):
    """Where a search evaluates its candidates; a plain name stands for a section that holds it alone.

    Attributes:
        name: ``local`` in the process of the run, ``processes`` in others of the same machine, ``ray`` on a cluster.
        workers: Candidates evaluated at a time; by default as many as there are cores for.
        threads: Threads of one evaluation. The last digits of figures depend on it, so it is the same for all names.
        address: Ray cluster to join, ``auto`` or ``host:port``; by default Ray is started on this machine.
        device: ``cuda`` has every worker evaluate on a GPU.
    """

    name: Literal["local", "processes", "ray"] = "local"
    workers: Count | None = None
    threads: Count = 1
    address: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _fits(self) -> ExecutorSection:
        if self.address is not None:
            if self.name != "ray":
                raise ConfigError(f"only ray has an address, got {self.address!r} for {self.name}; use name: ray")
            host, _, port = self.address.rpartition(":")
            if self.address != "auto" and not (host and "/" not in host and port.isdecimal()):
                raise ConfigError(f"address must be auto or host:port, got {self.address!r}; e.g. 10.0.0.5:6379")
        if self.name == "local":
            if self.workers not in (None, 1):
                raise ConfigError(f"local has one worker, got workers={self.workers}; use name: processes")
            if self.device != "cpu":
                raise ConfigError(f"device goes with workers, got {self.device} for local; use name: processes or ray")
        return self


class RunConfig(Section):
    """A whole run.

    Attributes:
        backend: Name of the framework's backend.
        seed: Seed of the split, of the first weights and of every recipe that names none.
        out: Output folder; by default ``outputs/`` and the configuration's name.
        cache: Whether trained base weights are kept in ``~/.cache/prunekit`` and used again.
        weights: Folder of saved base weights to start from, instead of training.
        model: Which network.
        data: Which images.
        training: Recipe of the base network.
        method: How to prune: its name and its keys.
        finetune: Recipe of the training in which, or after which, the network is pruned.
        recover: Recipe of a further training of the smaller network.
        recalibrate: Batches over which batch norm statistics are taken anew after cutting; 0 leaves them.
        executor: Where a search evaluates its candidates.
        export: Which files to export.
        latency: How to time.
    """

    backend: str = "torch"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    out: str | None = None
    cache: bool = True
    weights: str | None = None
    model: ModelSection
    data: DataSection = DataSection()
    training: RecipeSection = Recipe()
    method: MethodSection
    finetune: RecipeSection = Recipe()
    recover: RecipeSection = Recipe(epochs=0)
    recalibrate: Annotated[int, Field(ge=0)] = 100
    executor: ExecutorSection = ExecutorSection()
    export: ExportSection = ExportSection()
    latency: LatencySection = LatencySection()

    @model_validator(mode="before")
    @classmethod
    def _seed_recipes(cls, data: Any) -> Any:
        """Hand the run's seed to recipes that name none."""
        if not isinstance(data, Mapping) or not isinstance(data.get("seed", 0), int):
            return data
        seeded = {**data}
        for name in ("training", "finetune", "recover"):
            recipe = data.get(name, {"epochs": 0} if name == "recover" else {})
            if isinstance(recipe, Mapping):
                seeded[name] = {"seed": data.get("seed", 0), **recipe}
        return seeded

    @model_validator(mode="after")
    def _movable(self) -> RunConfig:
        if self.executor.device == "cuda" and self.backend == "mindspore":
            raise ConfigError("executor.device must be cpu for mindspore, got cuda; use backend: torch")
        return self

    @field_validator("weights", "out")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ConfigError("a folder must have a name, got ''; leave the key out instead")
        return value

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that reads as this configuration, with every default written out."""
        data = self.model_dump(exclude={"method", "training", "finetune", "recover"})
        recipes = {key: getattr(self, key).to_mapping() for key in ("training", "finetune", "recover")}
        return {**data, **recipes, "method": {"name": self.method.name, **self.method.keys}}


def list_configs() -> dict[str, Any]:
    """The ready configurations, by name: traversable files."""
    files = resources.files("prunekit.configs").iterdir()
    return {f.name.removesuffix(".yml"): f for f in sorted(files, key=lambda f: f.name) if f.name.endswith(".yml")}


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Args:
        source: A YAML file, also Vega's own for PruneEA, or the name of a ready one.
        overrides: ``"section.key=value"`` each, the value in YAML.

    Raises:
        ConfigError: There is no such file, or something in it is wrong.
    """
    text, name = _read(source)
    data = parse(text, str(source))
    if not isinstance(data, dict):
        raise ConfigError(f"{source} must hold sections of keys and values, got {type(data).__name__}; see the configs")
    if is_vega(data):
        data = translate(data, RunConfig.model_fields)
    for override in overrides:
        _override(data, override)
    if data.get("out") is None:
        data["out"] = f"outputs/{name}"
    config: RunConfig = check(RunConfig, data, str(source))
    return config


def parse_options(changes: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` strings as a dict, the values in YAML.

    Raises:
        ConfigError: A string is not of that form.
    """
    data: dict[str, Any] = {}
    for change in changes:
        _override(data, change)
    return data


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    ready = list_configs()
    try:
        if not path.exists() and str(source) in ready:
            return ready[str(source)].read_text(encoding="utf-8"), str(source)
        return read_text(path, MOST, ordinary=False), path.stem  # a pipe will do
    except (OSError, UnicodeDecodeError) as error:
        hint = nearest(path.stem, ready)
        hint = hint if "did you mean" in hint else "`prunekit list configs` names the ready ones"
        raise ConfigError(f"a configuration must be a readable YAML file, got {source} ({error}); {hint}") from error


def _override(data: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=value`` in place."""
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set must be written KEY=VALUE, got {override!r}; for example --set seed=1")
    here: Any = data
    for depth, key in enumerate(keys[:-1]):
        if here.get(key) is None:
            here[key] = {}
        here = here[key]
        if not isinstance(here, dict):
            inside = ".".join(keys[: depth + 1])
            raise ConfigError(f"--set can go into sections only, got {override!r}, where {inside!r} is a value")
    here[keys[-1]] = parse(value, f"the value of --set {path}")

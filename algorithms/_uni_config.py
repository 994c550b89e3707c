"""The settings of UniPruning, under the keys of its documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError

__all__ = ["UniPruningConfig", "is_file_name", "parse_config"]


class UniPruningConfig(BaseModel):
    """Settings of UniPruning.

    Attributes:
        exp_name: Name of the experiment: files go to ``output_path/exp_name`` and begin with it.
        frequency: Epochs from one zeroing step to the next.
        target_sparsity: A share of the parameters, by default the share to **prune**: 0.75 leaves
            a quarter. See ``target_mode``.
        pruning_step: Channels that go as one.
        filter_lower_threshold: Channels that a layer keeps at least.
        input_size: Shape of the input, ``(N, C, H, W)``, for tracing and for exported files.
        output_path: Folder of all results.
        prune_flag: 1 to prune, 0 to do nothing.
        rank: Rank of this process in distributed training; part of file names.
        device_target: Device of the experiment, as a note (``"Ascend"``, ``"GPU"``, ``"CPU"``).
        target_mode: ``"prune"``: ``target_sparsity`` is the share that goes, as the
            documentation says. ``"keep"``: the share that stays, as scripts that pass
            ``1 - prune_rate`` mean it. Log lines always give both.
        use_gamma: Whether a channel's norm is multiplied by the gain of the batch norm after it,
            as documented; False for weight norms alone.
        regrow: False: a step sets everything that belongs to a channel to zero, so the network
            computes what the cut one would, and a channel comes back as far as the optimizer's
            momentum takes it. True: steps before the last one zero only the weights that make the
            channel, so that gradients reach it again, also through a ReLU.
        epoch_size: Number of epochs of the training, where the training loop cannot tell it; after
            the last one comes the final step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    exp_name: Annotated[str, Field(min_length=1, strict=True)] = "unipruning"
    frequency: Annotated[int, Field(ge=1, strict=True)] = 9
    target_sparsity: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.75
    pruning_step: Annotated[int, Field(ge=1, strict=True)] = 32
    filter_lower_threshold: Annotated[int, Field(ge=1, strict=True)] = 32
    input_size: tuple[Annotated[int, Field(ge=1, strict=True)], ...] = (16, 3, 224, 224)
    output_path: str = "./outputs"
    prune_flag: Literal[0, 1] = 1
    rank: Annotated[int, Field(ge=0, strict=True)] = 0
    device_target: str = "Ascend"
    target_mode: Literal["prune", "keep"] = "prune"
    use_gamma: Annotated[bool, Field(strict=True)] = True
    regrow: Annotated[bool, Field(strict=True)] = False
    epoch_size: Annotated[int, Field(ge=1, strict=True)] | None = None

    @property
    def kept_share(self) -> float:
        """Share of the parameters that should stay."""
        return self.target_sparsity if self.target_mode == "keep" else 1.0 - self.target_sparsity

    @property
    def folder(self) -> Path:
        """Where the files of the experiment go."""
        return Path(self.output_path) / self.exp_name

    @field_validator("output_path", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("exp_name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not is_file_name(value):
            raise ValueError("must be a plain file name")
        return value

    @field_validator("input_size")
    @classmethod
    def _has_axes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) < 2:
            raise ValueError("must have a batch axis and at least one more")
        return value

    @model_validator(mode="after")
    def _keeps_something(self) -> UniPruningConfig:
        if self.kept_share <= 0:
            said = f"target_sparsity={self.target_sparsity} with target_mode={self.target_mode!r}"
            raise ValueError(f"{said} keeps nothing")
        return self


def is_file_name(text: str) -> bool:
    """Whether a text can be part of a file's name, on any system, and lead nowhere else."""
    return text.isprintable() and Path(text).name == text and text not in ("", "..") and "\\" not in text


def parse_config(config: UniPruningConfig | Mapping[str, Any] | object | None) -> UniPruningConfig:
    """Settings from a dict, or from an object with attributes (which may have others besides).

    Raises:
        ConfigError: A key is unknown, or a value is of a wrong type or out of range.
    """
    if config is None:
        return UniPruningConfig()
    if isinstance(config, UniPruningConfig):
        return config
    known = list(UniPruningConfig.model_fields)
    if isinstance(config, Mapping):
        for key in config:
            if key not in known:
                raise ConfigError(f"a UniPruning key must be a known one, got {key!r}; {nearest(str(key), known)}")
        values = dict(config)
    else:
        values = {key: getattr(config, key) for key in known if hasattr(config, key)}
        if not values:
            raise ConfigError(f"a UniPruning config must be a dict or have its keys as attributes, got {config!r}")
    try:
        return UniPruningConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        subject = f"{where}={first['input']!r}: " if where else ""
        raise ConfigError(f"a UniPruning setting must be valid, got {subject}{said}; see UniPruningConfig") from error

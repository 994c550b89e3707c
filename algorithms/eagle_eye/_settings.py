"""What a configuration may say about EagleEye."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError
from prunekit.core.importance import criteria
from prunekit.core.settings import Section

__all__ = ["EagleEyeSettings"]

Rate = Annotated[float, Field(ge=0, lt=1)]

_LEAST_STUDY = 4
_RESERVED = frozenset({
    "config.yml", "inspection.json", "log.jsonl", "original", "plan.json", "report.html", "results.json", "search.json",
    "tensorboard", "weights.safetensors",
})  # fmt: skip


class EagleEyeSettings(Section):
    """Keys of the method ``eagle_eye``.

    Attributes:
        flops_target: Share of the multiply-accumulates of conv and linear (EagleEye's FLOPs) to **keep**.
        min_rate: Least share of a layer's channels to **remove**.
        max_rate: Largest share. The published spaces are [0, 0.7] for half of MobileNetV1, and [0, 0.4], [0, 0.7]
            and [0, 0.8] for three, two and one quarter of ResNet-50.
        candidates: How many networks are scored.
        tolerance: How far the share that a candidate keeps may be off ``flops_target``.
        output_file: Where the strategies go, below the run's folder.
        bn_batches: Training batches over which batch norm statistics are taken anew; 0 leaves them.
        importance: Criterion by which channels of a group stay; published is ``l1``.
        search: ``full`` scores every candidate by all batches. ``halving`` scores all by few batches, and only the
            best by more and then all, for less than a third of the cost.
        proposals: ``random`` draws rates uniformly. ``evolution`` breeds rates from those that scored well.
        correlation: Number of candidates that are also fine-tuned, to see how well scores foretell accuracy; 0 for
            none, else at least 4.
        correlation_epochs: Epochs of these fine-tunings, which else follow the run's ``finetune``.
        strategy: Rates that are known already: nothing is searched, the network is cut by them.
    """

    flops_target: Annotated[float, Field(gt=0, le=1)] = 0.5
    min_rate: Rate = 0.0
    max_rate: Rate = 0.7
    candidates: Annotated[int, Field(ge=1)] = 100
    tolerance: Rate = 0.005
    output_file: str = "search_results/pruning_strategies.txt"
    bn_batches: Annotated[int, Field(ge=0)] = 100
    importance: str = "l1"
    search: Literal["full", "halving"] = "full"
    proposals: Literal["random", "evolution"] = "random"
    correlation: Annotated[int, Field(ge=0)] = 0
    correlation_epochs: Annotated[float, Field(gt=0)] = 1
    strategy: list[Rate] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> EagleEyeSettings:
        if self.min_rate >= self.max_rate:
            raise ConfigError(
                f"min_rate must be below max_rate, got min_rate={self.min_rate} and max_rate={self.max_rate}; "
                "for half of the MACs use min_rate=0 and max_rate=0.7"
            )
        if self.importance not in criteria():
            hint = nearest(self.importance, criteria())
            raise ConfigError(f"importance must be a known criterion, got {self.importance!r}; {hint}")
        if self.search == "halving" and self.proposals == "evolution":
            raise ConfigError(
                "proposals must be random where search is halving, got proposals='evolution': it learns from whole "
                "scores; use search=full"
            )
        if self.correlation and not _LEAST_STUDY <= self.correlation <= self.candidates:
            raise ConfigError(
                f"correlation must be 0 or lie from {_LEAST_STUDY} to the number of candidates ({self.candidates}), "
                f"got {self.correlation}; use correlation=0 for no study"
            )
        _check_file(self.output_file)
        return self


def _check_file(name: str) -> None:
    """Files of a run stay in its folder, however the system writes paths."""
    parts = PurePosixPath(name).parts + PureWindowsPath(name).parts
    if PurePosixPath(name).parts and PurePosixPath(name).parts[0] in _RESERVED:
        raise ConfigError(
            f"output_file must not be one of the run's own files, got {name!r}; use "
            "'search_results/pruning_strategies.txt'"
        )
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in parts or "\x00" in name
    if outside or not PurePosixPath(name).name or name.startswith("\\"):
        raise ConfigError(
            f"output_file must be a file below the run's folder, got {name!r}; "
            "use 'search_results/pruning_strategies.txt'"
        )

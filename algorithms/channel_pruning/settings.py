"""Settings of channel pruning, and the ratios that they ask for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from prunekit.core._files import read_text
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import PreserveRatioEncoding
from prunekit.core.errors import ConfigError
from prunekit.core.settings import Section

__all__ = ["ChannelPruningSettings", "asked_ratios", "read_ratios", "rounded"]

Count = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class ChannelPruningSettings(Section):
    """Keys of channel pruning, named as PocketFlow's flags.

    Attributes:
        prune_option: Where the ratios come from: ``uniform`` gives every conv the same, ``list`` reads one per
            conv, ``auto`` searches for those that keep a share of the FLOPs.
        cp_uniform_preserve_ratio: Share of its input channels that each conv keeps (``uniform``). A conv whose
            own inputs and whose reader's inputs are halved costs a quarter. The first and the last conv keep all.
        cp_prune_list_file: Text file with one ratio per conv in one line, separated by commas (``list``).
        cp_prune_list: The ratios themselves; the file is then not read.
        cp_preserve_ratio: Share of the conv FLOPs to keep (``auto``).
        cp_nb_points_per_layer: Positions drawn in each output of a layer, of each image.
        cp_nb_batches: Calibration batches from which channels are selected and weights fitted.
        cp_quadruple: Whether counts are rounded to multiples of 4.
        cp_list_group: Convs that are pruned between two group tunings.
        cp_finetune: Whether the network is trained after every ``cp_list_group`` convs, and after the last.
        cp_nb_iters_ft_ratio: Length of one group tuning, as a share of the epochs of the fine-tuning.
        cp_lrn_rate_ft: Learning rate of group tuning.
        cp_nb_rlouts: Roll-outs of the search (``auto``).
        cp_nb_rlouts_min: Roll-outs before the agent starts to learn (``auto``).
        enbl_dst: Whether the base network is the teacher in group tuning and fine-tuning, by the weight and the
            temperature of the run's ``finetune`` or else by 4 and 4. Without it groups are tuned without a teacher.
        cp_auto_searcher: ``ddpg`` or ``evolution`` (``auto``).
        cp_reconstruct: Whether weights are fitted to the outputs of the base network; without, channels are
            selected alone.
    """

    prune_option: Literal["uniform", "list", "auto"] = "uniform"
    cp_uniform_preserve_ratio: Ratio = 0.5
    cp_prune_list_file: str = "ratio.list"
    cp_prune_list: list[Ratio] | None = None
    cp_preserve_ratio: Ratio = 0.5
    cp_nb_points_per_layer: Count = 10
    cp_nb_batches: Count = 60
    cp_quadruple: bool = False
    cp_list_group: Count = 1000
    cp_finetune: bool = False
    cp_nb_iters_ft_ratio: Ratio = 0.2
    cp_lrn_rate_ft: Annotated[float, Field(gt=0)] = 1e-4
    cp_nb_rlouts: Count = 200
    cp_nb_rlouts_min: Annotated[int, Field(ge=0)] = 50
    enbl_dst: bool = False
    cp_auto_searcher: Literal["ddpg", "evolution"] = "ddpg"
    cp_reconstruct: bool = True

    @model_validator(mode="after")
    def _learns(self) -> ChannelPruningSettings:
        agent = self.prune_option == "auto" and self.cp_auto_searcher == "ddpg"
        if agent and self.cp_nb_rlouts_min >= self.cp_nb_rlouts:
            raise ConfigError(
                f"cp_nb_rlouts_min must be below cp_nb_rlouts, or the agent never learns, got {self.cp_nb_rlouts_min} "
                f"and {self.cp_nb_rlouts}; use cp_nb_rlouts_min={self.cp_nb_rlouts // 4}"
            )
        return self


def read_ratios(path: str) -> tuple[float, ...]:
    """The ratios of a file: numbers in (0, 1] in one line, separated by commas.

    Raises:
        ConfigError: The file cannot be read, or holds something else.
    """
    hint = "write one line such as 1.0, 0.5, 0.5, 1.0"
    try:
        lines = [line for line in read_text(Path(path)).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cp_prune_list_file must be a readable text file, got {path!r} ({error}); give its path, or the ratios "
            "themselves as cp_prune_list"
        ) from error
    if len(lines) != 1:
        raise ConfigError(f"cp_prune_list_file must hold one line, got {len(lines)} in {path!r}; {hint}")
    words = [word.strip() for word in lines[0].strip().rstrip(",").split(",")]
    try:
        ratios = tuple(float(word) for word in words)
    except ValueError as error:
        raise ConfigError(f"cp_prune_list_file must hold numbers, got {path!r} ({error}); {hint}") from error
    for place, ratio in enumerate(ratios):
        if not math.isfinite(ratio) or not 0 < ratio <= 1:
            raise ConfigError(f"ratios must lie in (0, 1], got {ratio:g} at position {place} of {path!r}; change it")
    return ratios


def asked_ratios(settings: ChannelPruningSettings, encoding: PreserveRatioEncoding) -> NDArray[np.float64]:
    """The ratio that ``uniform`` or ``list`` gives to each conv, ``(length,)``.

    Raises:
        ConfigError: The list cannot be read, or has another length.
    """
    if settings.prune_option != "list":
        return np.full(encoding.length, settings.cp_uniform_preserve_ratio)
    given = settings.cp_prune_list
    name = "cp_prune_list" if given is not None else f"cp_prune_list_file {settings.cp_prune_list_file!r}"
    ratios: Sequence[float] = given if given is not None else read_ratios(settings.cp_prune_list_file)
    if len(ratios) != encoding.length:
        raise ConfigError(
            f"{name} must hold one ratio for each of the {encoding.length} convs of this network that are not grouped, "
            f"got {len(ratios)}; their order is {_shorten(encoding.layers)}"
        )
    return np.array(ratios, dtype=np.float64)


def rounded(coupling: Coupling, widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Widths as ``cp_quadruple`` wants them, ``(…, G)``: the nearest multiple of 4, at least 4, at most the group.

    A group that loses nothing keeps its size.
    """
    full = coupling.widths
    near = np.minimum(np.maximum(4 * np.floor(widths / 4 + 0.5), 4), full).astype(np.int64)
    result: NDArray[np.int64] = np.where(widths >= full, full, near)
    return result


def _shorten(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", … {names[-1]}" if len(names) > most else "")

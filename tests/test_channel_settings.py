"""Settings of channel pruning, and what it says of bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _channels import BACKENDS, SETTINGS, state_of, task_of

from prunekit.algorithms.channel_pruning import ChannelPruning
from prunekit.algorithms.channel_pruning.pruner import (
    prune_by_ratios,
    prune_by_widths,
)
from prunekit.algorithms.channel_pruning.settings import rounded
from prunekit.core.analysis import Analysis
from prunekit.core.errors import ConfigError, DataError, InputError, PlanError


def test_quadruple_rounds_to_the_nearest_multiple_of_four_that_fits() -> None:
    coupling = task_of("torch").analysis.coupling
    size = coupling.widths
    assert (rounded(coupling, np.ones_like(size)) == 4).all()
    assert rounded(coupling, size).tolist() == size.tolist()
    found = rounded(coupling, np.full_like(size, 10))
    assert (found == 12).all()
    assert (rounded(coupling, np.full_like(size, 9)) == 8).all()
    assert (rounded(coupling, size - 1) == size).all()


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"cp_uniform_preserve_ratio": 0.0}, "must be greater than 0"),
        ({"cp_uniform_preserve_ratio": 1.5}, "must be at most 1"),
        ({"cp_uniform_preserve_ratio": float("nan")}, "cp_uniform_preserve_ratio"),
        ({"cp_uniform_preserve_ratio": "0.5"}, "write it without quotes"),
        ({"cp_preserve_ratio": -0.5}, "must be greater than 0"),
        ({"cp_prune_list": [0.5, 1.2]}, "cp_prune_list.1 must be at most 1"),
        ({"cp_nb_batches": 0}, "must be at least 1"),
        ({"cp_nb_points_per_layer": 1.5}, "must be a whole number"),
        ({"cp_nb_batchs": 5}, "did you mean 'cp_nb_batches'?"),
        ({"prune_option": "unifrom"}, "did you mean 'uniform'?"),
        ({"cp_finetune": "yes"}, "must be true or false"),
        ({"cp_lrn_rate_ft": 0.0}, "must be greater than 0"),
        ({"cp_auto_searcher": "dpg"}, "did you mean 'ddpg'?"),
    ],
)
def test_wrong_settings(keys: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match="keys of channel_pruning") as caught:
        ChannelPruning(keys)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "must be a readable text file"),
        ("", "must hold one line, got 0"),
        ("0.5\n0.5", "must hold one line, got 2"),
        ("0.5, half", "must hold numbers"),
        ("0.5, , 0.5", "must hold numbers"),
        ("0.5, 1.5", "must lie in (0, 1], got 1.5 at position 1"),
        ("0.5, 0", "must lie in (0, 1], got 0 at position 1"),
        ("nan, 1", "must lie in (0, 1], got nan"),
        ("0.5, 0.5", "one ratio for each of the 21 convs"),
    ],
)
def test_wrong_lists(text: str | None, part: str, tmp_path: Path) -> None:
    file = tmp_path / "ratio.list"
    if text is not None:
        file.write_text(text)
    method = ChannelPruning({"prune_option": "list", "cp_prune_list_file": str(file)})
    with pytest.raises(ConfigError) as caught:
        method.check(task_of("torch").analysis.coupling)
    assert part in str(caught.value)
    if text == "0.5, 0.5":
        assert "got 2" in str(caught.value) and "conv1" in str(caught.value)


def test_a_list_in_the_settings_must_fit_too() -> None:
    method = ChannelPruning({"prune_option": "list", "cp_prune_list": [1.0] * 22})
    with pytest.raises(ConfigError, match="each of the 21 convs.*got 22"):
        method.check(task_of("torch").analysis.coupling)


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_few_batches_and_activations_that_are_no_numbers(backend: str) -> None:
    task = task_of(backend)
    with pytest.raises(DataError, match="cp_nb_batches=1000"):
        ChannelPruning({"cp_nb_batches": 1000}).run(task)
    with pytest.raises(DataError, match="got 0"):
        ChannelPruning({"cp_nb_batches": 1}).run(replace(task, loaders=replace_calibration(task.loaders)))
    bench = task.analysis.backend
    broken = bench.clone(task.analysis.model)
    state = state_of("resnet20")
    name = "layer1.1.conv2.weight"
    bench.set_state(broken, {**state, name: np.full_like(state[name], np.nan)})
    sick = replace(task, analysis=Analysis(bench, broken, task.analysis.example, task.analysis.coupling))
    # the L1 norm is no number either, so this is found before anything runs; then by what flows
    with pytest.raises(InputError, match="finite"):
        prune_by_ratios(sick, SETTINGS, np.full(21, 0.5))
    bench.set_state(broken, {**state, "layer1.1.bn2.running_mean": np.full_like(state["bn1.bias"], np.nan)})
    with pytest.raises(InputError, match=r"NaN or infinity at layer 'layer1\.[12]\.(conv1|bn2)'"):
        prune_by_ratios(sick, SETTINGS, np.full(21, 0.5))
    with pytest.raises(PlanError, match="one to all"):
        prune_by_widths(task, SETTINGS, np.zeros_like(task.analysis.coupling.widths))
    with pytest.raises(PlanError, match="whole numbers"):
        prune_by_widths(task, SETTINGS, np.ones(3))


def replace_calibration(loaders: Any) -> Any:
    """The same data without any batch to calibrate with."""
    return replace(loaders, calibration=[])

"""Recipes: their checks, and learning rates that follow PyTorch's own schedulers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR

from prunekit.core.errors import ConfigError
from prunekit.core.recipe import Recipe, lr_curve, total_steps


def torch_curve(lr: float, make: Any, steps: int, every: int = 1) -> np.ndarray:
    """The rates a PyTorch scheduler gives when it is stepped once in ``every`` steps."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for step in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0 and step < steps:
            scheduler.step()
    return np.array(rates)


@pytest.mark.parametrize("epochs, per_epoch", [(1, 1), (1, 7), (3, 10), (0.5, 9), (5, 40)])
def test_cosine_and_onecycle_follow_torch(epochs: float, per_epoch: int) -> None:
    steps = total_steps(Recipe(epochs=epochs), per_epoch)
    cosine = lr_curve(Recipe(epochs=epochs, lr=0.2, final_lr=0.01), per_epoch)
    np.testing.assert_allclose(
        cosine, torch_curve(0.2, lambda o: CosineAnnealingLR(o, steps, eta_min=0.01), steps), rtol=1e-9
    )
    if steps < 4:
        return  # torch divides by zero there
    onecycle = lr_curve(Recipe(epochs=epochs, lr=0.2, schedule="onecycle"), per_epoch)
    theirs = torch_curve(0.2, lambda o: OneCycleLR(o, 0.2, total_steps=steps, cycle_momentum=False), steps)
    np.testing.assert_allclose(onecycle, theirs, rtol=1e-9, atol=1e-12)


def test_onecycle_with_another_rise_follows_torch() -> None:
    mine = lr_curve(Recipe(epochs=1, lr=1.0, schedule="onecycle", rise=0.1), 57)
    theirs = torch_curve(1.0, lambda o: OneCycleLR(o, 1.0, total_steps=57, pct_start=0.1, cycle_momentum=False), 57)
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_step_and_linear_follow_torch() -> None:
    mine = lr_curve(Recipe(epochs=8, lr=0.1, schedule="step", milestones=[3, 6], gamma=0.3), 5)  # type: ignore[arg-type]
    np.testing.assert_allclose(mine, torch_curve(0.1, lambda o: MultiStepLR(o, [3, 6], gamma=0.3), 40, every=5))
    mine = lr_curve(Recipe(epochs=4, lr=0.25, schedule="linear"), 5)
    theirs = torch_curve(0.25, lambda o: LinearLR(o, 1.0, 0.0, total_iters=20), 20)
    np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_warmup_rises_to_lr_and_then_the_schedule_begins() -> None:
    curve = lr_curve(Recipe(epochs=4, lr=0.4, warmup_epochs=1), 4)
    np.testing.assert_allclose(curve[:5], [0.1, 0.2, 0.3, 0.4, 0.4])
    assert np.all(np.diff(curve[4:]) < 0)


@given(
    epochs=st.floats(0.01, 20),
    per_epoch=st.integers(1, 60),
    limit=st.none() | st.integers(1, 30),
    schedule=st.sampled_from(["cosine", "onecycle", "linear", "constant"]),
)
def test_curves_have_the_right_length_and_stay_within_lr(
    epochs: float, per_epoch: int, limit: int | None, schedule: str
) -> None:
    recipe = Recipe(epochs=epochs, lr=0.3, schedule=schedule, steps_per_epoch=limit)
    curve = lr_curve(recipe, per_epoch)
    assert len(curve) == total_steps(recipe, per_epoch) == max(1, round(epochs * min(per_epoch, limit or per_epoch)))
    assert np.all(curve >= 0) and np.all(curve <= 0.3 + 1e-12)


def test_no_epochs_means_no_steps() -> None:
    assert len(lr_curve(Recipe(epochs=0), 10)) == 0
    assert len(lr_curve(Recipe(epochs=0, schedule="onecycle"), 10)) == 0


@pytest.mark.parametrize(
    "values, message",
    [
        ({"optimiser": "sgd"}, "a recipe has no key 'optimiser'; did you mean 'optimizer'?"),
        ({"optimizer": "adamv"}, "did you mean 'adamw'?"),
        ({"schedule": "poly"}, "schedule of a recipe must be a known name, got 'poly'"),
        ({"lr": "0.1"}, "lr of a recipe must be a finite number, got '0.1'"),
        ({"lr": 0}, "lr of a recipe must be above 0, got 0"),
        ({"lr": float("nan")}, "must be a finite number"),
        ({"epochs": -1}, "epochs of a recipe must be at least 0, got -1"),
        ({"epochs": True}, "must be a finite number, got True"),
        ({"nesterov": 1}, "nesterov of a recipe must be true or false, got 1"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov of a recipe needs a momentum above 0"),
        ({"schedule": "step"}, "milestones of a recipe must be given"),
        ({"milestones": [5, 3]}, "milestones of a recipe must rise"),
        ({"milestones": 3}, "milestones of a recipe must be a list of numbers, got 3"),
        ({"warmup_epochs": 1, "schedule": "onecycle"}, "warms up by itself"),
        ({"label_smoothing": 1.0}, r"must lie in \[0, 1\), got 1.0"),
        ({"final_lr": 0.2}, r"final_lr of a recipe must lie in \[0, lr\], got 0.2"),
        ({"steps_per_epoch": 0}, "steps_per_epoch of a recipe must be at least 1, got 0"),
        ({"steps_per_epoch": 1.5}, "must be a whole number, got 1.5"),
        ({"seed": None}, "seed of a recipe must be a whole number, got None"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.from_mapping(values)


def test_a_recipe_survives_plain_data() -> None:
    recipe = Recipe(epochs=3, schedule="step", milestones=(1, 2), grad_clip=1.0)
    assert Recipe.from_mapping(recipe.to_mapping()) == recipe

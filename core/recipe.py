"""How to train: one recipe, and the learning rate it gives at every step, for every framework."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError

__all__ = ["OPTIMIZERS", "SCHEDULES", "FitResult", "Recipe", "lr_curve", "total_steps"]

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "onecycle", "step", "linear", "constant")


@dataclass(frozen=True)
class Recipe:
    """What to do in one training.

    Attributes:
        epochs: Passes over the training set; a fraction stops within a pass, 0 trains nothing.
        optimizer: ``"sgd"`` or ``"adamw"``.
        lr: The highest learning rate.
        momentum: Momentum of SGD; the first beta of AdamW is ``betas[0]``.
        nesterov: Nesterov's form of the momentum.
        betas: The two betas of AdamW.
        weight_decay: Decay of the weights.
        decay_norms: Whether it also applies to vectors (biases, gains and shifts of norms).
        schedule: ``"cosine"`` falls to ``final_lr`` along half a cosine; ``"linear"`` falls to it along
            a line; ``"onecycle"`` rises for the first ``rise`` of the steps and then falls; ``"step"``
            multiplies by ``gamma`` at each of ``milestones``; ``"constant"`` stays.
        final_lr: Where the cosine and the line end.
        milestones: Epochs after which ``"step"`` multiplies, rising; fractions are allowed.
        gamma: The factor of ``"step"``.
        rise: Share of the steps in which ``"onecycle"`` rises.
        warmup_epochs: The rate first rises along a line for so many epochs (not with ``"onecycle"``).
        label_smoothing: Share of a target that is spread over all classes.
        distill_weight: Weight of the teacher's part of the loss, which is the cross-entropy of
            softmax(teacher / T) and softmax(student / T). It is not scaled by T²: 4.0 at T = 4 is the
            loss of PocketFlow, w·T² is the loss of Hinton et al. (2015) with weight w.
        distill_temperature: The T above.
        aux_weight: Weight of the loss of each auxiliary output that a network gives in training;
            None takes 0.3 where there are several (GoogLeNet) and 0.4 where there is one (Inception v3).
        seed: Seed of the order of the data, of augmentation and of dropout.
        grad_clip: Largest norm of the gradient; None does not clip. A step whose gradient overflows is left out, and
            counted in the history as ``skipped``.
        steps_per_epoch: Use only so many batches of each pass; None uses all.
        channels_last: Train with channels as the innermost axis in memory, where the framework can.
    """

    epochs: float = 1
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_norms: bool = True
    schedule: str = "cosine"
    final_lr: float = 0.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    rise: float = 0.3
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    distill_weight: float = 0.0
    distill_temperature: float = 4.0
    aux_weight: float | None = None
    seed: int = 0
    grad_clip: float | None = None
    steps_per_epoch: int | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: A value has the wrong type or lies outside its range.
        """
        for name in ("milestones", "betas"):
            value = getattr(self, name)
            if isinstance(value, list):  # YAML and JSON know no tuples
                object.__setattr__(self, name, tuple(value))
        _check_types(self)
        _check_ranges(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from plain data.

        Example:
            >>> Recipe.from_mapping({"epoch": 3})
            Traceback (most recent call last):
            prunekit.core.errors.ConfigError: a recipe has no key 'epoch'; did you mean 'epochs'?

        Raises:
            ConfigError: A key is unknown, or a value is wrong.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"a recipe has no key {key!r}; {nearest(str(key), known, most=len(known))}")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that :meth:`from_mapping` reads."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@dataclass(frozen=True)
class FitResult:
    """What a training did.

    Attributes:
        history: One dict per epoch: ``epoch`` (from 1), ``step``, ``lr``, ``loss``, ``top1``, ``seconds``,
            and ``val_top1``, ``val_top5``, ``val_loss`` where there is a validation set.
        seconds: Wall time.
        steps: Optimizer steps taken.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0

    @property
    def last(self) -> dict[str, float]:
        """Figures of the last epoch; empty where nothing was trained."""
        return self.history[-1] if self.history else {}


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole training: at least one, unless ``epochs`` is 0.

    Args:
        recipe: The recipe.
        steps_per_epoch: Batches in a pass over the data, before the recipe's own limit.
    """
    steps = _epoch_steps(recipe, steps_per_epoch)
    return max(1, round(recipe.epochs * steps)) if recipe.epochs > 0 else 0


def lr_curve(recipe: Recipe, steps_per_epoch: int) -> NDArray[np.float64]:
    """The learning rate of every step, shape ``(total_steps,)``.

    One-cycle follows Smith and Topin (2017) with cosine arcs, from ``lr / 25`` up to ``lr`` and down to
    ``lr / 250000``.

    Example:
        >>> lr_curve(Recipe(epochs=4, lr=1.0, schedule="step", milestones=(2, 3)), 1).round(4).tolist()
        [1.0, 1.0, 0.1, 0.01]

    Args:
        recipe: The recipe.
        steps_per_epoch: Batches in a pass over the data, before the recipe's own limit.
    """
    total = total_steps(recipe, steps_per_epoch)
    per_epoch = _epoch_steps(recipe, steps_per_epoch)
    if recipe.schedule == "onecycle":
        return _onecycle(recipe, total)
    warm = min(total, round(recipe.warmup_epochs * per_epoch))
    rest = np.arange(total - warm, dtype=np.float64)
    share = rest / max(1, total - warm)
    if recipe.schedule == "cosine":
        curve = recipe.final_lr + (recipe.lr - recipe.final_lr) * (1 + np.cos(np.pi * share)) / 2
    elif recipe.schedule == "linear":
        curve = recipe.lr + (recipe.final_lr - recipe.lr) * share
    elif recipe.schedule == "step":
        ends = np.array([round(m * per_epoch) for m in recipe.milestones], dtype=np.float64)
        curve = recipe.lr * recipe.gamma ** np.searchsorted(ends, rest + warm, side="right")
    else:
        curve = np.full(total - warm, recipe.lr)
    rising = recipe.lr * np.arange(1, warm + 1, dtype=np.float64) / max(1, warm)
    return np.concatenate([rising, curve])


def _epoch_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    if steps_per_epoch < 1:
        raise ConfigError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}; give a loader with batches")
    return min(steps_per_epoch, recipe.steps_per_epoch or steps_per_epoch)


def _onecycle(recipe: Recipe, total: int) -> NDArray[np.float64]:
    start, end = recipe.lr / 25, recipe.lr / 25 / 1e4
    top = recipe.rise * total - 1
    last = total - 1
    steps = np.arange(total, dtype=np.float64)
    up = np.clip(steps / top, 0, 1) if top > 0 else np.ones(total)
    down = np.clip((steps - top) / (last - top), 0, 1) if last > top else np.zeros(total)
    rising = recipe.lr + (start - recipe.lr) * (1 + np.cos(np.pi * up)) / 2
    falling = end + (recipe.lr - end) * (1 + np.cos(np.pi * down)) / 2
    return np.where(steps <= top, rising, falling)


_NUMBERS = (
    *("epochs", "lr", "momentum", "weight_decay", "final_lr", "gamma", "rise", "warmup_epochs"),
    *("label_smoothing", "distill_weight", "distill_temperature"),
)
_OPTIONAL_NUMBERS = ("aux_weight", "grad_clip")
_FLAGS = ("nesterov", "decay_norms", "channels_last")


def _check_types(recipe: Recipe) -> None:
    def number(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)

    for name in (*_NUMBERS, *_OPTIONAL_NUMBERS):
        value = getattr(recipe, name)
        if not number(value) and not (value is None and name in _OPTIONAL_NUMBERS):
            raise ConfigError(f"{name} of a recipe must be a finite number, got {value!r}; write a number such as 0.1")
    for name in _FLAGS:
        if not isinstance(getattr(recipe, name), bool):
            raise ConfigError(f"{name} of a recipe must be true or false, got {getattr(recipe, name)!r}")
    for name in ("milestones", "betas"):
        value = getattr(recipe, name)
        if not isinstance(value, tuple) or not all(number(v) for v in value):
            raise ConfigError(f"{name} of a recipe must be a list of numbers, got {value!r}")
    for name in ("seed", "steps_per_epoch"):
        value = getattr(recipe, name)
        if (not isinstance(value, int) or isinstance(value, bool)) and not (value is None and name != "seed"):
            raise ConfigError(f"{name} of a recipe must be a whole number, got {value!r}")


def _check_ranges(recipe: Recipe) -> None:
    for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        value = getattr(recipe, name)
        if value not in known:
            raise ConfigError(f"{name} of a recipe must be a known name, got {value!r}; {nearest(str(value), known)}")
    rules: list[tuple[str, bool, str]] = [
        ("epochs", recipe.epochs >= 0, "must be at least 0"),
        ("lr", recipe.lr > 0, "must be above 0"),
        ("momentum", 0 <= recipe.momentum < 1, "must lie in [0, 1)"),
        ("nesterov", not recipe.nesterov or recipe.momentum > 0, "needs a momentum above 0"),
        ("betas", len(recipe.betas) == 2 and all(0 <= b < 1 for b in recipe.betas), "must be two numbers in [0, 1)"),
        ("weight_decay", recipe.weight_decay >= 0, "must be at least 0"),
        ("final_lr", 0 <= recipe.final_lr <= recipe.lr, "must lie in [0, lr]"),
        ("milestones", list(recipe.milestones) == sorted(set(recipe.milestones)), "must rise"),
        ("milestones", all(m > 0 for m in recipe.milestones), "must be above 0"),
        ("milestones", recipe.schedule != "step" or bool(recipe.milestones), "must be given for the schedule 'step'"),
        ("gamma", 0 < recipe.gamma <= 1, "must lie in (0, 1]"),
        ("rise", 0 < recipe.rise < 1, "must lie in (0, 1)"),
        ("warmup_epochs", recipe.warmup_epochs >= 0, "must be at least 0"),
        (
            "warmup_epochs",
            not (recipe.warmup_epochs and recipe.schedule == "onecycle"),
            "must be 0 for the schedule 'onecycle', which warms up by itself",
        ),
        ("label_smoothing", 0 <= recipe.label_smoothing < 1, "must lie in [0, 1)"),
        ("distill_weight", recipe.distill_weight >= 0, "must be at least 0"),
        ("distill_temperature", recipe.distill_temperature > 0, "must be above 0"),
        ("aux_weight", recipe.aux_weight is None or recipe.aux_weight >= 0, "must be at least 0"),
        ("seed", 0 <= recipe.seed < 2**32, "must lie in [0, 2**32)"),
        ("grad_clip", recipe.grad_clip is None or recipe.grad_clip > 0, "must be above 0"),
        ("steps_per_epoch", recipe.steps_per_epoch is None or recipe.steps_per_epoch > 0, "must be at least 1"),
    ]
    for name, holds, rule in rules:
        if not holds:
            raise ConfigError(f"{name} of a recipe {rule}, got {getattr(recipe, name)!r}")

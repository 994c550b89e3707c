"""The training loop without the framework: steps, epochs, learning rates, callbacks, logs and checks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from prunekit.core._seeds import seeded
from prunekit.core.errors import ConfigError, DataError, TrainingError
from prunekit.core.logs import Bar, RunLog, progress
from prunekit.core.recipe import FitResult, Recipe, lr_curve

__all__ = ["Callback", "Step", "StepCallback", "check_shapes", "check_teacher", "run_training", "steps_of"]

Step = Callable[[Any, float], tuple[Any, Any, Any, bool]]
"""One optimizer step on a batch at a learning rate: (mean loss, right answers, examples, whether the step was
taken). The first three may be the framework's own scalars; these are turned into floats now and then, not at
every step. A step is left out where gradients that are to be clipped overflowed."""

Shapes = Mapping[str, tuple[int, ...]]

_LOOK_EVERY = 20  # reading a loss waits for an accelerator


class Callback(Protocol):
    """What a training calls at the borders of an epoch; epochs count from 1.

    One that has a method ``step_begin(step)`` besides (:class:`StepCallback`) is called before every step, too.
    """

    def epoch_begin(self, epoch: int) -> object:
        """Before the first step of an epoch."""

    def epoch_end(self, epoch: int) -> object:
        """After the last step of an epoch, before validation."""


class StepCallback(Callback, Protocol):
    """A callback that is also called before every step: a search may draw new widths there."""

    def step_begin(self, step: int) -> object:
        """Before a step, when its batch has been drawn; steps count from 0 over the whole training."""


def run_training(
    loader: Iterable[Any],
    recipe: Recipe,
    step: Step,
    *,
    validate: Callable[[], Mapping[str, float]] | None = None,
    shapes: Callable[[], Shapes] | None = None,
    callbacks: Sequence[Callback] = (),
    log: RunLog | None = None,
    show: bool = True,
) -> FitResult:
    """Run a recipe, with the generators of Python and NumPy seeded by it and put back afterwards.

    Args:
        loader: Batches; where it, or its ``sampler``, has ``set_epoch``, that is called with the epoch
            counted from 0, so that the order of the data depends on the recipe alone.
        recipe: What to do.
        step: The framework's part.
        validate: Called after every epoch; its figures enter the history with ``val_`` before them.
        shapes: The parameters' shapes, asked for before and after every epoch: they must stay.
        callbacks: Called at the borders of epochs, and before every step where they have ``step_begin``.
        log: Gets an ``epoch`` line per epoch and TensorBoard curves.
        show: Whether to show progress.

    Raises:
        DataError: The loader gives no batch, or fewer than its length.
        TrainingError: The loss is not finite, gradients overflow step after step, or the parameters changed their
            shapes.
    """
    per_epoch = steps_of(loader, recipe)
    rates = lr_curve(recipe, per_epoch)
    before = shapes() if shapes else {}
    begins = [callback.step_begin for callback in callbacks if hasattr(callback, "step_begin")]
    history: list[dict[str, float]] = []
    begin = time.monotonic()
    with seeded(recipe.seed), progress("training", len(rates), show=show) as bar:
        for epoch in range(1, math.ceil(len(rates) / per_epoch) + 1):
            part = rates[(epoch - 1) * per_epoch : epoch * per_epoch]
            started = time.monotonic()
            _set_epoch(loader, epoch - 1)
            for callback in callbacks:
                callback.epoch_begin(epoch)
            if shapes:
                check_shapes(before, shapes())
            figures = _run_epoch(loader, part.tolist(), step, bar, (epoch - 1) * per_epoch, begins)
            for callback in callbacks:
                callback.epoch_end(epoch)
            if shapes:
                check_shapes(before, shapes())
            done = {"epoch": epoch, "step": (epoch - 1) * per_epoch + len(part), "lr": float(part[-1]), **figures}
            if validate:
                done.update({f"val_{name}": float(value) for name, value in validate().items()})
            done["seconds"] = time.monotonic() - started
            history.append(done)
            _report(done, math.ceil(len(rates) / per_epoch), bar, log)
    return FitResult(history=history, seconds=time.monotonic() - begin, steps=len(rates))


def steps_of(loader: Iterable[Any], recipe: Recipe) -> int:
    """Batches of an epoch: the loader's length, or fewer where the recipe says so.

    Raises:
        DataError: The loader is empty, or has no length and the recipe names none.
    """
    try:
        length = len(loader)  # type: ignore[arg-type]
    except TypeError:
        if recipe.steps_per_epoch is None:
            raise DataError(
                "a training loader must have a length, got an iterable without one; set steps_per_epoch in the recipe"
            ) from None
        return recipe.steps_per_epoch
    if length == 0:
        raise DataError("a training loader must give at least one batch, got none; use a smaller batch size")
    return min(length, recipe.steps_per_epoch or length)


def check_shapes(before: Shapes, after: Shapes) -> None:
    """Make sure that training left a network's shapes alone.

    A trainer that restores the unpruned network undoes the pruning without a word; this finds it.

    Raises:
        TrainingError: A parameter came, went or changed its shape.
    """
    if dict(before) == dict(after):
        return
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    name = changed[0]
    raise TrainingError(
        f"training must leave the shapes of the parameters alone, got {name!r} {before.get(name)} before and "
        f"{after.get(name)} after ({len(changed)} differ); make sure that the trainer or a callback does not put "
        "another network in its place"
    )


def check_teacher(recipe: Recipe, teacher: object) -> None:
    """Make sure that a recipe and a teacher go together.

    Raises:
        ConfigError: There is one without the other.
    """
    if recipe.distill_weight > 0 and teacher is None:
        raise ConfigError(
            f"distill_weight above 0 needs a teacher, got distill_weight={recipe.distill_weight:g} and none; "
            "give teacher=MODEL or set distill_weight to 0"
        )
    if recipe.distill_weight == 0 and teacher is not None:
        raise ConfigError("a teacher needs a distill_weight above 0, got distill_weight=0; set it in the recipe")


def _set_epoch(loader: Iterable[Any], epoch: int) -> None:
    groups = getattr(loader, "batch_sampler", None)
    for part in (loader, getattr(loader, "sampler", None), groups, getattr(groups, "sampler", None)):
        setter = getattr(part, "set_epoch", None)
        if setter is not None:
            setter(epoch)


def _run_epoch(
    loader: Iterable[Any],
    rates: Sequence[float],
    step: Step,
    bar: Bar,
    first: int,
    begins: Sequence[Callable[[int], object]],
) -> dict[str, float]:
    batches: Iterator[Any] = iter(loader)
    waiting: list[tuple[Any, Any, Any, bool]] = []
    loss = right = seen = skipped = 0.0
    for i, rate in enumerate(rates):
        try:
            batch = next(batches)
        except StopIteration:
            raise DataError(
                f"a loader must give as many batches as its length or the recipe's steps_per_epoch says, got {i} "
                f"instead of {len(rates)}; lower steps_per_epoch, or give a loader that can be iterated again"
            ) from None
        for begin in begins:
            begin(first + i)
        waiting.append(step(batch, rate))
        if len(waiting) == _LOOK_EVERY or i + 1 == len(rates):
            for at, (mean, correct, count, _) in enumerate(waiting, start=i + 1 - len(waiting)):
                value = float(mean)
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss must stay finite, got {value} at step {first + at + 1} with a learning rate "
                        f"of {rates[at]:.3g}; lower lr, add warmup_epochs or set grad_clip"
                    )
                number = float(count)
                loss, right, seen = loss + value * number, right + float(correct), seen + number
            bar.advance(len(waiting), loss=loss / seen)
            if len(waiting) == _LOOK_EVERY and not any(taken for *_, taken in waiting):
                raise TrainingError(
                    f"gradients may overflow now and then, got {_LOOK_EVERY} steps in succession where they did, up "
                    f"to step {first + i + 1} with a learning rate of {rate:.3g}; lower lr or add warmup_epochs"
                )
            skipped += sum(not taken for *_, taken in waiting)
            waiting.clear()
    return {"loss": loss / seen, "top1": right / seen, **({"skipped": skipped} if skipped else {})}


def _report(done: dict[str, float], epochs: int, bar: Bar, log: RunLog | None) -> None:
    shown = "  ".join(f"{name} {done[name]:.4f}" for name in ("loss", "top1", "val_top1") if name in done)
    bar.note(f"epoch {done['epoch']}/{epochs}  {shown}  {done['seconds']:.1f} s")
    if log is None:
        return
    log.write("epoch", **done)
    skip = ("epoch", "step", "seconds")
    log.scalars(int(done["step"]), {f"train/{k}": v for k, v in done.items() if k not in skip})

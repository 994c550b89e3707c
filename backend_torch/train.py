"""Training a network by a recipe; the loop itself is ``core.training``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils._pytree import tree_map_only

from prunekit.backend_torch._batches import (
    auxiliary_of,
    call,
    check_classes,
    device_of,
    evaluating,
    logits_of,
    pair,
)
from prunekit.backend_torch._parallel import Team
from prunekit.backend_torch._random import seeded
from prunekit.backend_torch._shares import Share
from prunekit.backend_torch.mask import zeroing
from prunekit.core.analysis import Analysis
from prunekit.core.errors import InputError
from prunekit.core.logs import RunLog
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import FitResult, Recipe
from prunekit.core.training import Callback, Step, check_teacher, run_training

__all__ = ["build_optimizer", "classification_loss", "fit", "shapes_of"]


def fit(
    model: nn.Module,
    loader: Iterable[Any],
    recipe: Recipe,
    *,
    validation: Iterable[Any] | None = None,
    teacher: nn.Module | None = None,
    analysis: Analysis | None = None,
    plan: PruningPlan | None = None,
    callbacks: Sequence[Callback] = (),
    log: RunLog | None = None,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    optimizer: Optimizer | None = None,
    show: bool = True,
    sharded: bool | None = None,
) -> FitResult:
    """Train in place, where the model's parameters are; modes of the modules come back as they were.

    Under ``torchrun`` (see :mod:`prunekit.backend_torch.distributed`) all processes call this and train
    together: each takes its share of every batch, gradients and figures are those of whole batches, and all
    end with the same network. Batch norms see their process's share; the mean of their statistics is taken
    after every epoch, other buffers are those of process 0. Only process 0 shows progress and writes the log.

    The same recipe, data and model give the same result: the random numbers of the training come from
    the recipe's seed, and the process's own generators go on as if nothing had happened.

    Args:
        model: A network.
        loader: ``(inputs, targets)`` batches; inputs are a tensor, a tuple of positional inputs, or a dict
            of keyword inputs.
        recipe: What to do.
        validation: Batches to evaluate on after every epoch.
        teacher: A network whose outputs are taught (``recipe.distill_weight``).
        analysis: The model and its groups, for ``plan``.
        plan: What this plan drops is zero after every step, so that it stays out of the training.
        callbacks: Objects with ``epoch_begin(epoch)`` and ``epoch_end(epoch)``, and maybe ``step_begin(step)``;
            epochs count from 1, steps from 0 over the whole training.
        log: Gets a line per epoch.
        loss: A loss of the user's own, ``loss(outputs, targets)`` → scalar, in place of the cross-entropy
            with label smoothing and auxiliary outputs. Distillation is added to it.
        optimizer: An optimizer of the user's own, e.g. from ``transfer_optimizer``; its learning rates
            are set by the recipe, all else is its own.
        show: Whether to show progress.
        sharded: For several processes: whether ``loader`` and ``validation`` already give each process data
            of its own; None looks for a ``DistributedSampler`` in each.

    Raises:
        ConfigError: Recipe and teacher do not go together.
        DataError: The loader gives no batch, too few, malformed ones, or targets beyond the outputs.
        InputError: ``plan`` comes without its ``analysis``, or it or the optimizer is another model's, or the
            processes have different weights.
        PlanError: The processes have different plans.
        TrainingError: The loss is not finite, or a callback changed the shapes of the parameters.
    """
    check_teacher(recipe, teacher)
    if plan is not None and (analysis is None or analysis.model is not model):
        raise InputError("a soft mask needs the analysis of the very model that is trained; give analysis and plan")

    chosen = build_optimizer(model, recipe) if optimizer is None else _checked(optimizer, model)
    after_step = (lambda: None) if analysis is None or plan is None else zeroing(analysis, plan)
    team = Team()
    team.check(model, plan, teacher, recipe, loader)
    # dropout and augmentation of each process draw for themselves
    own = replace(recipe, seed=(recipe.seed + team.processes.rank) % 2**32)
    with seeded(own.seed, device_of(model)), _training(model, teacher), _layout(model, recipe.channels_last):
        after_step()
        step = _step(model, recipe, teacher, chosen, loss, after_step, team)
        return run_training(
            team.share(loader, recipe.seed, sharded),
            own,
            step,
            validate=team.validator(model, validation, recipe.seed, sharded),
            shapes=lambda: shapes_of(model),
            callbacks=team.callbacks(model, callbacks),
            log=log if team.processes.is_main else None,
            show=show and team.processes.is_main,
        )


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer for the parameters that are trained.

    Raises:
        InputError: No parameter is trained.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InputError("a training needs parameters with requires_grad=True, got a model without any")
    groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": recipe.weight_decay}]
    if not recipe.decay_norms:
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.lr, betas=recipe.betas)
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def _checked(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """The optimizer, if it moves the model: that of the unpruned network would train nothing, without a word."""
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "an optimizer must hold parameters of the model that is trained, got one of another model; "
            "make it after pruning, or carry it over with transfer_optimizer"
        )
    return optimizer


def classification_loss(outputs: Any, targets: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy with the recipe's label smoothing, with auxiliary outputs where there are any.

    Args:
        outputs: What the network returned: logits ``(N, classes)``, alone or with auxiliary ones.
        targets: Classes ``(N,)``, or probabilities ``(N, classes)``.
        recipe: Label smoothing and the weight of auxiliary outputs.
    """
    total = F.cross_entropy(logits_of(outputs), targets, label_smoothing=recipe.label_smoothing)
    auxiliary = auxiliary_of(outputs)
    weight = recipe.aux_weight if recipe.aux_weight is not None else 0.4 if len(auxiliary) == 1 else 0.3
    for logits in auxiliary:
        total = total + weight * F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    return total


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, for ``core.training.check_shapes`` around a trainer of the user's own."""
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _step(
    model: nn.Module,
    recipe: Recipe,
    teacher: nn.Module | None,
    optimizer: Optimizer,
    loss: Callable[[Any, Tensor], Tensor] | None,
    after_step: Callable[[], None],
    team: Team,
) -> Step:
    """One step of the optimizer."""
    device = device_of(model)
    distilling = recipe.distill_weight, recipe.distill_temperature

    def step(batch: Any, rate: float) -> tuple[Any, Any, Any, bool]:
        batch, count = batch if isinstance(batch, Share) else (batch, None)
        inputs, targets = pair(batch, device)
        if recipe.channels_last:
            inputs = tree_map_only(Tensor, _channels_last, inputs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        outputs = call(model, inputs)
        if loss is None:
            _check_classes(batch[1], logits_of(outputs))
        value = loss(outputs, targets) if loss else classification_loss(outputs, targets, recipe)
        if teacher is not None:
            value = value + _distillation(teacher, inputs, logits_of(outputs), *distilling)
        right = _right(logits_of(outputs).detach(), targets)
        share, figures = team.figures(value.detach(), right, len(targets) if count is None else count)
        optimizer.zero_grad(set_to_none=True)
        (value if share is None else value * share).backward()
        team.add_gradients(model)
        # scaling down by an infinite norm would make all gradients nan
        taken = recipe.grad_clip is None or _clip(model, recipe.grad_clip)
        if taken:
            optimizer.step()
        after_step()
        return *figures, taken

    return step


def _clip(model: nn.Module, largest: float) -> bool:
    return bool(nn.utils.clip_grad_norm_(model.parameters(), largest).isfinite())


def _check_classes(given: Any, logits: Tensor) -> None:
    targets = torch.as_tensor(given)
    # those that lie on an accelerator already are not looked at: that would hold it up at every step
    if targets.device.type == "cpu" and not targets.is_floating_point() and logits.dim() > 1:
        check_classes(targets, logits.shape[1])


def _distillation(teacher: nn.Module, inputs: Any, logits: Tensor, weight: float, temperature: float) -> Tensor:
    """Weighted cross-entropy of the softened outputs (Hinton et al., 2015), without their factor T²."""
    with torch.no_grad():
        soft = F.softmax(logits_of(call(teacher, inputs)) / temperature, dim=1)
    if soft.shape != logits.shape:
        raise InputError(
            f"a teacher must give the outputs of its pupil, got {tuple(soft.shape)} for {tuple(logits.shape)}; "
            "build both with the same num_classes"
        )
    return weight * F.cross_entropy(logits / temperature, soft)


def _right(logits: Tensor, targets: Tensor) -> Tensor:
    classes = targets.argmax(1) if targets.is_floating_point() and targets.shape == logits.shape else targets
    found = logits.argmax(1)
    return (found == classes).double().mean() * len(targets) if found.shape == classes.shape else found.new_zeros(())


@contextlib.contextmanager
def _training(model: nn.Module, teacher: nn.Module | None) -> Iterator[None]:
    """The model in training mode and the teacher in inference mode."""
    with evaluating(model), torch.enable_grad(), contextlib.ExitStack() as stack:
        if teacher is not None:
            stack.enter_context(evaluating(teacher))
        model.train()
        yield


@contextlib.contextmanager
def _layout(model: nn.Module, channels_last: bool) -> Iterator[None]:
    if not channels_last:
        yield
        return
    plain = [t for t in (*model.parameters(), *model.buffers()) if t.is_contiguous()]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        for tensor in plain:
            # a 1 x 1 conv counts as contiguous in either layout, and keeps strides that no loaded copy has
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

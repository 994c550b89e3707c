"""Training a network by a recipe; the loop itself is ``core.training``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from prunekit.backend_mindspore._batches import (
    arguments,
    batches_of,
    call,
    check_classes,
    evaluating,
    logits_of,
    pair,
)
from prunekit.backend_mindspore._losses import clipped, cross_entropy, main_of, right_answers, taught
from prunekit.backend_mindspore._names import is_statistic, parameters
from prunekit.backend_mindspore._optimizers import build_optimizer, check_optimizer, move, rates_of, set_rate
from prunekit.backend_mindspore._random import seeded
from prunekit.backend_mindspore.observe import evaluate
from prunekit.backend_mindspore.pruning_net import PruningNet
from prunekit.backend_mindspore.state import to_array
from prunekit.core.analysis import Analysis
from prunekit.core.errors import DataError, InputError
from prunekit.core.logs import RunLog
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import FitResult, Recipe
from prunekit.core.training import Callback, Step, check_teacher, run_training

__all__ = ["build_optimizer", "classification_loss", "fit", "shapes_of"]


def fit(
    net: nn.Cell,
    loader: Iterable[Any],
    recipe: Recipe,
    *,
    validation: Iterable[Any] | None = None,
    teacher: nn.Cell | None = None,
    analysis: Analysis | None = None,
    plan: PruningPlan | None = None,
    callbacks: Sequence[Callback] = (),
    log: RunLog | None = None,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    optimizer: nn.Optimizer | None = None,
    show: bool = True,
) -> FitResult:
    """Train in place, in the mode that is set; modes of the cells come back as they were.

    The same recipe, data and network give the same result: the random numbers of the training come from
    the recipe's seed, and the process's own generators go on as if nothing had happened. ``channels_last``
    is left out: MindSpore chooses layouts by itself.

    Args:
        net: A network.
        loader: ``(inputs, targets)`` batches; inputs are a tensor, a tuple of positional inputs, or a dict
            of keyword inputs. A MindSpore dataset of two columns is one, too.
        recipe: What to do.
        validation: Batches to evaluate on after every epoch.
        teacher: A network whose outputs are taught (``recipe.distill_weight``).
        analysis: The model and its groups, for ``plan``.
        plan: What this plan drops is zero after every step, so that it stays out of the training.
        callbacks: Objects with ``epoch_begin(epoch)`` and ``epoch_end(epoch)``, and maybe ``step_begin(step)``;
            epochs count from 1, steps from 0 over the whole training.
        log: Gets a line per epoch.
        loss: A loss of the user's own, ``loss(outputs, targets)`` → scalar, in place of the cross-entropy
            with label smoothing and auxiliary outputs. Distillation is added to it. In GRAPH mode it must be
            a named function that MindSpore can compile.
        optimizer: An optimizer of the user's own, e.g. from ``transfer_optimizer``; its learning rates
            are set by the recipe, all else is its own.
        show: Whether to show progress.

    Raises:
        ConfigError: Recipe and teacher do not go together.
        DataError: The loader gives no batch, too few, malformed ones, or targets beyond the outputs.
        InputError: ``plan`` comes without its ``analysis``, or it or the optimizer is another model's, or
            the optimizer was made before the model was pruned.
        TrainingError: The loss is not finite, or a callback changed the shapes of the parameters.
    """
    check_teacher(recipe, teacher)
    if plan is not None and (analysis is None or analysis.model is not net):
        raise InputError("a soft mask needs the analysis of the very model that is trained; give analysis and plan")

    chosen = build_optimizer(net, recipe) if optimizer is None else optimizer
    check_optimizer(chosen, net)
    after_step = _zeroing(analysis, plan)
    with seeded(recipe.seed, net), _training(net, teacher):
        after_step()
        return run_training(
            batches_of(loader),
            recipe,
            _step(net, recipe, teacher, chosen, loss, after_step),
            validate=None if validation is None else lambda: evaluate(net, validation),
            shapes=lambda: shapes_of(net),
            callbacks=callbacks,
            log=log,
            show=show,
        )


def classification_loss(outputs: Any, targets: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy with the recipe's label smoothing, with auxiliary outputs where there are any.

    Args:
        outputs: What the network returned: logits ``(N, classes)``, alone or with auxiliary ones.
        targets: Classes ``(N,)``, or probabilities ``(N, classes)``.
        recipe: Label smoothing and the weight of auxiliary outputs.
    """
    plain = targets if targets.is_floating_point() else targets.astype(mstype.int32)
    return cross_entropy(outputs, plain, recipe.label_smoothing, recipe.aux_weight)


def shapes_of(net: nn.Cell) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, for ``core.training.check_shapes`` around a trainer of the user's own."""
    return {name: tuple(p.shape) for name, p in parameters(net).items() if not is_statistic(name)}


class _Gradients(nn.Cell):
    """Loss, logits, right answers and clipped gradients of a batch: what is compiled in GRAPH mode, once a shape."""

    def __init__(
        self, net: nn.Cell, weights: Any, recipe: Recipe, loss: Callable[[Any, Tensor], Tensor] | None
    ) -> None:
        super().__init__(auto_prefix=False)  # else the network's parameters would be renamed
        # a network that writes its own weights is differentiated by these
        self.maker = net if isinstance(net, PruningNet) else None
        self.net = net if self.maker is None else net.network
        self.order: tuple[int, ...] = ()
        if self.maker is not None:
            weights, self.order = self.maker.leaves(weights)
        self.loss = loss
        self.smoothing, self.auxiliary = recipe.label_smoothing, recipe.aux_weight
        self.share, self.temperature = recipe.distill_weight, recipe.distill_temperature
        self.clip = recipe.grad_clip
        self.graded = ms.value_and_grad(self.forward, None, weights, has_aux=True)

    def construct(self, targets: Tensor, soft: Any, *inputs: Any) -> Any:
        if self.maker is not None:
            self.maker.write()
        (value, logits), gradients = self.graded(targets, soft, *inputs)
        if self.maker is not None:
            gradients = self.maker.pulled_back(self.order, *gradients)
        norm = ops.zeros((), mstype.float32)
        if self.clip is not None:
            gradients, norm = clipped(gradients, self.clip)
        return value, logits, right_answers(logits, targets), gradients, norm

    def forward(self, targets: Tensor, soft: Any, *inputs: Any) -> Any:
        """Loss and logits."""
        outputs = self.net(*inputs)
        logits = main_of(outputs)
        if self.loss is None:
            value = cross_entropy(outputs, targets, self.smoothing, self.auxiliary)
        else:
            value = self.loss(outputs, targets)
        if soft is not None:
            value = value + self.share * taught(logits, soft, self.temperature)
        return value, logits


def _step(
    net: nn.Cell,
    recipe: Recipe,
    teacher: nn.Cell | None,
    optimizer: nn.Optimizer,
    loss: Callable[[Any, Tensor], Tensor] | None,
    after_step: Callable[[], None],
) -> Step:
    """One step of the optimizer."""
    gradients_of = _Gradients(net, optimizer.parameters, recipe, loss)
    rates = rates_of(optimizer)
    moved = False

    def step(batch: Any, rate: float) -> tuple[Tensor, Tensor, int, bool]:
        nonlocal moved
        inputs, targets = pair(batch)
        soft = None if teacher is None else _softened(teacher, inputs, recipe.distill_temperature)
        value, logits, right, gradients, norm = gradients_of(targets, soft, *arguments(net, inputs))
        if soft is not None and soft.shape != logits.shape:
            raise InputError(
                f"a teacher must give the outputs of its pupil, got {tuple(soft.shape)} for {tuple(logits.shape)}; "
                "build both with the same num_classes"
            )
        if loss is None:
            _check(logits, targets)
        set_rate(rates, rate)
        taken = recipe.grad_clip is None or math.isfinite(float(norm))
        if taken and moved:
            optimizer(gradients)
        elif taken:  # until a step has shown that this optimizer is the model's in fact
            moved = move(optimizer, gradients, rate)
        after_step()
        return value, right, len(targets), taken

    return step


def _check(logits: Tensor, targets: Tensor) -> None:
    if targets.is_floating_point():
        fits = targets.shape == logits.shape
    else:
        fits = logits.ndim > 1 and targets.shape == (*logits.shape[:1], *logits.shape[2:])
    if not fits:
        raise DataError(
            "targets must be classes (N,), or probabilities of the shape of the outputs, got "
            f"{tuple(targets.shape)} for outputs of {tuple(logits.shape)}; give a loss= of your own for others"
        )
    if not targets.is_floating_point():
        check_classes(to_array(targets), logits.shape[1])


def _softened(teacher: nn.Cell, inputs: Any, temperature: float) -> Tensor:
    """The teacher's part of the loss of Hinton et al. (2015): probabilities at a temperature."""
    logits = logits_of(call(teacher, inputs)).astype(mstype.float32)
    return ops.stop_gradient(ops.softmax(logits / temperature, axis=1))


def _zeroing(analysis: Analysis | None, plan: PruningPlan | None) -> Callable[[], None]:
    if analysis is None or plan is None:
        return lambda: None
    from prunekit.backend_mindspore.mask import zeroing

    return zeroing(analysis, plan)


@contextlib.contextmanager
def _training(net: nn.Cell, teacher: nn.Cell | None) -> Iterator[None]:
    """The network in training mode and the teacher in inference mode."""
    with evaluating(net), contextlib.ExitStack() as stack:
        if teacher is not None:
            stack.enter_context(evaluating(teacher))
        net.set_train(True)
        yield

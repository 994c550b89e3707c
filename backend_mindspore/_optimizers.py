"""Optimizers as MindSpore has them: the recipe's own, those of users, and how their learning rates are set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.experimental.optim.optimizer import Optimizer as NewOptimizer

from prunekit.backend_mindspore._names import canonical
from prunekit.backend_mindspore.state import to_array
from prunekit.core.errors import InputError
from prunekit.core.recipe import Recipe

__all__ = ["AdamW", "build_optimizer", "check_optimizer", "move", "rates_of", "set_rate"]


class AdamW(nn.Optimizer):
    """Adam with weight decay beside the gradient (Loshchilov & Hutter, 2019).

    ``nn.AdamWeightDecay`` leaves out the correction of the first steps, so that it takes steps of up to
    three times the learning rate in the beginning.
    """

    def __init__(self, groups: list[dict[str, Any]], learning_rate: float, betas: tuple[float, float]) -> None:
        """Make an optimizer.

        Args:
            groups: Parameters under ``params``, and their ``weight_decay``.
            learning_rate: The rate of all of them.
            betas: Decay of the first and the second moment.
        """
        super().__init__(learning_rate, groups)
        self.betas = tuple(Tensor(beta, mstype.float32) for beta in betas)
        self.beta1_power = Parameter(Tensor(1.0, mstype.float32), name="beta1_power")
        self.beta2_power = Parameter(Tensor(1.0, mstype.float32), name="beta2_power")
        self.eps = Tensor(1e-8, mstype.float32)
        self.moment1 = self._parameters.clone(prefix="moment1", init="zeros")
        self.moment2 = self._parameters.clone(prefix="moment2", init="zeros")
        self.move = ops.Adam()

    @ms.jit
    def construct(self, gradients: Any) -> Any:
        rates = self.get_lr()
        beta1, beta2 = self.betas
        power1 = ops.assign(self.beta1_power, self.beta1_power * beta1)
        power2 = ops.assign(self.beta2_power, self.beta2_power * beta2)
        moved = ()
        for i in range(self.param_length):
            weight = self._parameters[i]
            rate = rates[i] if self.is_group_lr else rates
            if self.decay_flags[i]:
                ops.assign(weight, weight * (1.0 - rate * self.weight_decay[i]))
            moments = self.moment1[i], self.moment2[i]
            moved += self.move(weight, *moments, power1, power2, rate, beta1, beta2, self.eps, gradients[i])
        return moved


def build_optimizer(net: nn.Cell, recipe: Recipe) -> nn.Optimizer:
    """The recipe's optimizer for the parameters that are trained.

    Raises:
        InputError: No parameter is trained.
    """
    trained = net.trainable_params()
    if not trained:
        raise InputError("a training needs parameters with requires_grad=True, got a model without any")
    # always in groups: without, MindSpore decides by their names which parameters decay
    groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": recipe.weight_decay}]
    if not recipe.decay_norms:
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
    if recipe.optimizer == "adamw":
        return AdamW(groups, float(recipe.lr), recipe.betas)
    # not nn.Momentum, whose Nesterov form is another one on a CPU
    return nn.SGD(groups, float(recipe.lr), float(recipe.momentum), nesterov=recipe.nesterov)


def check_optimizer(optimizer: Any, net: nn.Cell) -> None:
    """Make sure that an optimizer moves a network.

    Pruning gives a network new parameters. An optimizer (or ``Model``, or training step) that was made
    before holds on to the old ones and would train these, without a word.

    Args:
        optimizer: A ``mindspore.nn`` or ``mindspore.experimental.optim`` optimizer.
        net: The network that is trained.

    Raises:
        InputError: It is no such optimizer, or holds none of the network's parameters, or former ones.
    """
    if not isinstance(optimizer, (nn.Optimizer, NewOptimizer)):
        raise InputError(
            "an optimizer must be one of mindspore.nn or mindspore.experimental.optim, got "
            f"{type(optimizer).__name__}; give an optimizer or leave it out"
        )
    own = {id(p) for p in net.get_parameters()}
    names = canonical(net)
    held = list(optimizer.parameters)
    former = [p for p in held if id(p) not in own and p.name in names]
    if former and any(id(p) in own for p in held):
        raise InputError(
            f"an optimizer must hold the parameters that the model has now, got a former {names[former[0].name]!r} "
            f"of shape {tuple(former[0].shape)} ({len(former)} of {len(held)}); make it after pruning, "
            "or carry it over with transfer_optimizer"
        )
    if not any(id(p) in own for p in held):
        raise InputError(
            "an optimizer must hold parameters of the model that is trained, got one of another model; "
            "make it after pruning, or carry it over with transfer_optimizer"
        )


def rates_of(optimizer: Any) -> list[Parameter]:
    """The learning rates of an optimizer, as the parameters that hold them.

    Raises:
        InputError: They follow a schedule of the optimizer's own.
    """
    if isinstance(optimizer, NewOptimizer):
        for group, rate in zip(optimizer.param_groups, optimizer.lrs, strict=True):
            group["lr"] = rate  # a user may have put a number in its place
        return list(optimizer.lrs)
    if optimizer.dynamic_lr:
        raise InputError(
            "an optimizer must have a learning rate that the recipe can set, got a schedule of its own; "
            "make it with a number as learning_rate"
        )
    rates = optimizer.learning_rate
    return list({id(r): r for r in ([rates] if isinstance(rates, Parameter) else rates)}.values())


def set_rate(rates: Iterable[Parameter], value: float) -> None:
    """Give every learning rate a value, without compiling anything anew."""
    for rate in rates:
        # not set_data: it gives the parameter other memory than compiled optimizers know
        ops.assign(rate, Tensor(value, rate.dtype))


def move(optimizer: Any, gradients: tuple[Tensor, ...], rate: float) -> bool:
    """Take a step, and say whether it was seen to move the network.

    A parameter that was given other memory (``set_data``, ``load_param_into_net``) is lost to an optimizer
    that has been compiled before: in PYNATIVE mode it would go on with the old one, without a word.

    Raises:
        InputError: It moved nothing, though the gradient was large enough.
    """
    sizes = [float(g.abs().max()) for g in gradients]
    steepest = sizes.index(max(sizes))
    weight = optimizer.parameters[steepest]
    before = to_array(weight).copy()
    optimizer(gradients)
    if (to_array(weight) != before).any():
        return True
    if rate * min(1.0, sizes[steepest]) > 1e-4 * abs(before).max():
        raise InputError(
            f"an optimizer must move the model, got a step at a learning rate of {rate:.3g} that left {weight.name!r} "
            "as it was; make the optimizer anew after weights were loaded"
        )
    return False

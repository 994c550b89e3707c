"""The state of an optimizer, carried over to the pruned network."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from prunekit.core.analysis import Analysis
from prunekit.core.errors import InputError
from prunekit.core.plan import PruningPlan

__all__ = ["transfer_optimizer"]

Cut = dict[int, NDArray[np.int64]]


def transfer_optimizer(
    optimizer: Optimizer, model: nn.Module, small: nn.Module, analysis: Analysis, plan: PruningPlan
) -> Optimizer:
    """An optimizer of the same kind for the pruned network, with momenta sliced like the weights.

    Parameter groups, their options and the step counts stay. The given optimizer is left untouched. A
    learning-rate scheduler holds on to its optimizer: make a new one.

    Args:
        optimizer: An optimizer of ``model``.
        model: The unpruned network.
        small: The pruned network, ``backend.apply(analysis, plan)``.
        analysis: The unpruned network and its groups.
        plan: What stayed.

    Raises:
        InputError: The optimizer holds parameters that are not the model's, the small network is not the
            model cut by the plan, or a state has a shape that cannot be sliced (Adafactor, L-BFGS).
    """
    names = {id(p): name for name, p in model.named_parameters()}
    targets = dict(small.named_parameters())
    cuts = analysis.coupling.cuts(plan)
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    groups = []
    for group in optimizer.param_groups:
        fresh = []
        for p in group["params"]:
            name = names.get(id(p), "")
            cut = cuts.get(name, {})
            target = _target(name, p, cut, targets)
            fresh.append(target)
            if p in optimizer.state:
                state[target] = _cut_state(name, p, optimizer.state[p], cut, target)
        groups.append({**{key: copy.deepcopy(v) for key, v in group.items() if key != "params"}, "params": fresh})
    result = copy.copy(optimizer)
    for key, value in vars(optimizer).items():  # what a user's own optimizer keeps beside its state
        # not the private parts, nor a step() that a scheduler has wrapped: they are bound to the old one
        if not key.startswith("_") and not callable(value):
            vars(result).setdefault(key, value)
    result.param_groups = groups
    result.state = state
    return result


def _target(name: str, p: Tensor, cut: Cut, targets: Mapping[str, Tensor]) -> Tensor:
    """The small network's parameter in place of the model's."""
    if not name:
        raise InputError(
            f"an optimizer must be one of the model's, got a parameter of shape {tuple(p.shape)} that the "
            "model does not have; give the model that the optimizer was made for"
        )
    target = targets.get(name)
    if target is None or target.shape != _cut(p, cut).shape:
        raise InputError(
            f"the small network must be the model cut by the plan, got {name!r} of shape "
            f"{None if target is None else tuple(target.shape)}"
        )
    return target


def _cut_state(name: str, p: Tensor, state: dict[str, Any], cut: Cut, target: Tensor) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == p.shape:
            result[key] = _cut(value, cut).clone().to(target.device)
        elif (isinstance(value, Tensor) and value.dim() == 0) or value is None or isinstance(value, (int, float, bool)):
            result[key] = copy.deepcopy(value)
        else:
            shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            raise InputError(
                f"an optimizer's state must be scalars and tensors of the parameter's shape to be cut, got {key!r} of "
                f"{shape} for {name!r} {tuple(p.shape)}; start a new optimizer for the pruned network"
            )
    return result


def _cut(tensor: Tensor, cut: Cut) -> Tensor:
    for axis, kept in cut.items():
        tensor = tensor.detach().index_select(axis, torch.as_tensor(kept, device=tensor.device))
    return tensor

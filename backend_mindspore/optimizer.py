"""The state of an optimizer, carried over to the pruned network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn
from numpy.typing import NDArray

from prunekit.backend_mindspore._mindir import clear_caches
from prunekit.backend_mindspore._names import parameters
from prunekit.backend_mindspore.state import to_array
from prunekit.core.analysis import Analysis
from prunekit.core.errors import InputError
from prunekit.core.plan import PruningPlan

__all__ = ["transfer_optimizer"]

Cut = dict[int, NDArray[np.int64]]


def transfer_optimizer(
    optimizer: nn.Optimizer, net: nn.Cell, small: nn.Cell, analysis: Analysis, plan: PruningPlan
) -> nn.Optimizer:
    """An optimizer of the same kind for the pruned network, with momenta sliced like the weights.

    Parameter groups, their options and the step counts stay. The given optimizer is left untouched.

    Args:
        optimizer: An optimizer of ``net``, of ``mindspore.nn`` or ``mindspore.experimental.optim``.
        net: The unpruned network.
        small: The pruned network, ``backend.apply(analysis, plan)``.
        analysis: The unpruned network and its groups.
        plan: What stayed.

    Raises:
        InputError: The optimizer holds parameters that are not the model's, the small network is not the
            model cut by the plan, or a state has a shape that cannot be sliced (AdaFactor).
    """
    names = {id(p): name for name, p in parameters(net).items()}
    targets = parameters(small)
    cuts = analysis.coupling.cuts(plan)
    held = list(optimizer.parameters)
    # the copy puts the second of each pair in the place of the first, wherever the optimizer keeps it
    replaced: dict[int, Any] = {}
    for p in held:
        name = names.get(id(p), "")
        replaced[id(p)] = _target(name, p, cuts.get(name, {}), targets)
    for key, values in vars(optimizer).items():
        if isinstance(values, ParameterTuple) and not all(id(v) in replaced for v in values):
            _cut_states(key, values, held, [cuts.get(names[id(p)], {}) for p in held], replaced)
    _check_rest(optimizer, replaced)
    result = copy.deepcopy(optimizer, {**_kept_as_they_are(optimizer), **replaced})
    clear_caches(result)  # what was compiled is the given optimizer's
    return result


def _target(name: str, p: Parameter, cut: Cut, targets: Mapping[str, Parameter]) -> Parameter:
    """The small network's parameter in place of the model's."""
    if not name:
        raise InputError(
            f"an optimizer must be one of the model's, got a parameter of shape {tuple(p.shape)} that the "
            "model does not have; give the model that the optimizer was made for"
        )
    target = targets.get(name)
    if target is None or tuple(target.shape) != _shape(p, cut):
        raise InputError(
            f"the small network must be the model cut by the plan, got {name!r} of shape "
            f"{None if target is None else tuple(target.shape)}"
        )
    return target


def _cut_states(
    key: str, values: ParameterTuple, held: list[Parameter], cuts: list[Cut], replaced: dict[int, Any]
) -> None:
    """Slice one state of every parameter: momenta come as a tuple in the order of the parameters."""
    if all(v.size == 1 for v in values) and not all(v.shape == p.shape for v, p in zip(values, held, strict=False)):
        return  # learning rates
    if len(values) != len(held):
        raise _unknown(key, values[0])
    for value, p, cut in zip(values, held, cuts, strict=True):
        if value.shape != p.shape:
            raise _unknown(key, value)
        array = to_array(value)
        for axis, kept in cut.items():
            array = array.take(kept, axis)
        fresh = Parameter(Tensor(np.array(array), value.dtype), name=value.name, requires_grad=value.requires_grad)
        replaced[id(value)] = fresh


def _check_rest(optimizer: nn.Optimizer, replaced: Mapping[int, Any]) -> None:
    """What is left must be scalars: rates, powers of betas, counters (and schedules, which no plan cuts)."""
    for key, value in optimizer._params.items():
        if value is not None and id(value) not in replaced and value.size > 1:
            raise _unknown(key, value)


def _unknown(key: str, value: Parameter) -> InputError:
    return InputError(
        f"an optimizer's state must be scalars and tensors of the parameter's shape to be cut, got {key!r} of "
        f"shape {tuple(value.shape)}; start a new optimizer for the pruned network"
    )


def _kept_as_they_are(optimizer: nn.Optimizer) -> dict[int, Any]:
    """Operators, which hold no state and refuse to be copied."""
    kinds = (nn.Cell, Parameter, Tensor, tuple, list, dict, set)
    return {id(v): v for v in vars(optimizer).values() if not isinstance(v, kinds)}


def _shape(p: Parameter, cut: Cut) -> tuple[int, ...]:
    return tuple(len(cut[axis]) if axis in cut else n for axis, n in enumerate(p.shape))

"""Scores of all channels of a network, comparable between groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core._names import nearest
from prunekit.core.coupling.groups import ChannelGroup, Coupling
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.importance.inputs import REDUCTIONS, FloatArray, Inputs
from prunekit.core.importance.registry import find_criterion

__all__ = ["NORMALIZATIONS", "REDUCTIONS", "Importance", "layers_to_watch", "needs", "score"]

Importance = str | Callable[[ChannelGroup, Mapping[str, NDArray[Any]]], ArrayLike]
"""Name of a criterion, or a function of a group and the state that gives ``(size,)`` scores."""


def _over(values: FloatArray, scale: float) -> FloatArray:
    return values / scale if scale > 0 else values


NORMALIZATIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "none": lambda values: values,
    "mean": lambda values: _over(values, float(np.abs(values).mean())),
    "sum": lambda values: _over(values, float(np.abs(values).sum())),
    "max": lambda values: _over(values, float(np.abs(values).max())),
    "minmax": lambda values: _over(values - values.min(), float(values.max() - values.min())),
    "standard": lambda values: _over(values - values.mean(), float(values.std())),
}


def score(
    coupling: Coupling,
    criterion: Importance,
    state: Mapping[str, NDArray[Any]],
    *,
    gradients: Mapping[str, NDArray[Any]] | None = None,
    activations: Mapping[str, NDArray[Any]] | None = None,
    reduction: str = "mean",
    normalize: str | None = None,
    members: str = "producers",
    seed: int = 0,
) -> dict[str, FloatArray]:
    """How much each channel of each group matters.

    Args:
        coupling: A coupled network.
        criterion: Name of a criterion (see :func:`~prunekit.core.importance.criteria`), or a
            function ``f(group, state)`` that gives one score per channel, ``(size,)``; the larger,
            the more it matters.
        state: Parameters and buffers by canonical name.
        gradients: Gradients by parameter name, where the criterion needs them.
        activations: Mean absolute output per channel by layer, where the criterion needs them.
        reduction: How coupled parameters become one score: ``"mean"``, ``"sum"`` or ``"max"``.
        normalize: How groups become comparable: ``"none"``, ``"mean"`` (of the group becomes 1),
            ``"sum"``, ``"max"``, ``"minmax"`` (lie in [0, 1]) or ``"standard"`` (zero mean, unit
            deviation). By default the criterion's own: ``"mean"``, or ``"none"`` for those that are
            comparable as they are (lamp, random).
        members: ``"producers"`` scores the weights that make a channel; ``"all"`` also those that
            read it.
        seed: Of the random criterion.

    Returns:
        Scores by group name, ``(size,)`` each.

    Raises:
        ConfigError: A name is unknown.
        InputError: The state is not the network's, something needed is missing, or a score is not
            finite.
    """
    _one_of("reduction", reduction, REDUCTIONS)
    _one_of("members", members, {"producers": 0, "all": 0})
    inputs = Inputs(coupling, state, gradients, activations, reduction, members, seed)
    if isinstance(criterion, str):
        entry = find_criterion(criterion)
        name, rule = entry.name, normalize or entry.normalize
    else:
        name, rule = getattr(criterion, "__name__", "the given function"), normalize or "mean"
    _one_of("normalize", rule, NORMALIZATIONS)
    result: dict[str, FloatArray] = {}
    for group in coupling.groups:
        raw = entry.function(group, inputs) if isinstance(criterion, str) else criterion(group, state)
        result[group.name] = NORMALIZATIONS[rule](_checked(raw, group, name))
    return result


def needs(criterion: Importance) -> str:
    """What a criterion needs besides weights: ``""``, ``"gradients"`` or ``"activations"``.

    Raises:
        ConfigError: No criterion has that name.
    """
    return find_criterion(criterion).needs if isinstance(criterion, str) else ""


def layers_to_watch(coupling: Coupling) -> tuple[str, ...]:
    """The layers whose outputs the activation criterion needs, each once."""
    return tuple(dict.fromkeys(m.layer for g in coupling.groups for m in g.producers))


def _checked(raw: ArrayLike, group: ChannelGroup, criterion: str) -> FloatArray:
    values = np.asarray(raw, dtype=np.float64)
    if values.shape != (group.size,):
        raise InputError(f"{criterion} must give {group.size} scores for {group.name!r}, got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise InputError(
            f"scores must be finite, got {values[bad[0]]} from {criterion} for channel {bad[0]} of {group.name!r} "
            f"({len(bad)} of {group.size}); did training diverge?"
        )
    return values


def _one_of(what: str, value: str, known: Mapping[str, Any]) -> None:
    if value not in known:
        raise ConfigError(f"{what} must be a known name, got {value!r}; {nearest(str(value), known)}")

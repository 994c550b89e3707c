"""Save a pruned module as ``weights.safetensors`` and ``plan.json``, and load it into a fresh process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prunekit.backend_torch._plan_of import attach_plan, find_plan, plan_of
from prunekit.core.analysis import analyse
from prunekit.core.errors import CheckpointError, InputError
from prunekit.core.plan import PruningPlan
from prunekit.core.store import read_store, write_store

if TYPE_CHECKING:
    from prunekit.core.backend import Backend

__all__ = ["attach_plan", "find_plan", "load", "plan_of", "save"]


def save(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write a module's weights and plan into a folder.

    A module that was never cut is saved as well, with a plan that keeps everything.

    Args:
        model: A pruned module.
        folder: Where to; made if missing. A network saved there before is replaced.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    plan = find_plan(model) or PruningPlan(kept={}, sizes={}, model=type(model).__name__)
    return write_store(folder, _backend().get_state(model), plan)


def load(model: nn.Module | Callable[[], nn.Module], folder: str | os.PathLike[str], example: Any = None) -> nn.Module:
    """The network that :func:`save` wrote.

    Args:
        model: The unpruned original, freshly built (its weights do not matter), or a function
            that builds it. It is left untouched.
        folder: What was saved.
        example: An input to trace the original with; by default zeros of the shapes in the plan.
            Needed where inputs are not floating-point tensors.

    Returns:
        The pruned module, in the mode (train or eval) of the given one.

    Raises:
        PlanError: The plan is damaged, or was made for another architecture.
        CheckpointError: The weights are damaged, of another save, or of another network.
    """
    state, plan = read_store(folder)
    original = model if isinstance(model, nn.Module) else model()
    backend = _backend()
    if not backend.accepts(original):
        raise InputError(f"load needs a torch module or a function that builds one, got {type(original).__name__}")
    if any(len(kept) != plan.sizes[name] for name, kept in plan.kept.items()):
        attention = plan.options.get("attention", "heads")
        analysis = analyse(backend, original, _example(original, plan, example), attention=attention)
        small = backend.apply(analysis, plan)
    else:
        small = backend.clone(original)
    try:
        backend.set_state(small, state)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (while loading {os.fspath(folder)})") from error
    attach_plan(small, plan)
    return small  # type: ignore[no-any-return]


def _example(model: nn.Module, plan: PruningPlan, example: Any) -> Any:
    if example is not None:
        return example
    if not plan.inputs:
        raise InputError("a plan without input shapes needs an example, got None; pass load(…, example=x)")
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    zeros = tuple(torch.zeros(shape, dtype=like.dtype, device=like.device) for shape in plan.inputs)
    return zeros[0] if len(zeros) == 1 else zeros


def _backend() -> Backend:
    # the backend offers save and load by way of this module, hence the late import
    from prunekit.backend_torch.backend import TorchBackend

    return TorchBackend()

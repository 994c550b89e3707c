"""A model that computes as if channels were gone, without cutting it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit.backend_torch._aten import Seen, describe
from prunekit.core.analysis import Analysis
from prunekit.core.coupling.verify import LAYOUT, essential
from prunekit.core.errors import InputError
from prunekit.core.graph import Op
from prunekit.core.plan import PruningPlan

__all__ = ["masked", "zero", "zeroing"]


def zero(analysis: Analysis, plan: PruningPlan) -> None:
    """Set everything that the plan drops to zero, in place; statistics stay."""
    zeroing(analysis, plan)()


def zeroing(analysis: Analysis, plan: PruningPlan) -> Callable[[], None]:
    """:func:`zero` to be called many times: what is dropped is looked up once."""
    dropped = _dropped(analysis, plan)

    def again() -> None:
        with torch.no_grad():
            for tensor, axis, gone in dropped:
                tensor.index_fill_(axis, gone, 0)

    return again


@contextlib.contextmanager
def masked(analysis: Analysis, plan: PruningPlan) -> Iterator[nn.Module]:
    """Within the context the model computes what the pruned network will; then it is as before.

    Parameters that the plan drops are zero. Ops that take statistics or sums over channels see the
    kept ones only; for these the model must be run in inference mode.
    """
    saved = [(t, t.detach().clone()) for t in {id(t): t for t, _, _ in _dropped(analysis, plan)}.values()]
    compressing = _compressing(analysis, plan) if analysis.coupling.compress else contextlib.nullcontext()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast and not analysis.coupling.compress)
    try:
        zero(analysis, plan)
        with compressing:
            yield analysis.model
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        with torch.no_grad():
            for tensor, value in saved:
                tensor.copy_(value)


@contextlib.contextmanager
def _compressing(analysis: Analysis, plan: PruningPlan) -> Iterator[None]:
    """Whenever the model runs, and only then, its ops see what is kept."""
    mode = _Compress(analysis, plan)

    def begin(*_: Any) -> None:
        mode.next = 0
        mode.__enter__()

    def end(*_: Any) -> None:
        mode.__exit__(None, None, None)

    hooks = [
        analysis.model.register_forward_pre_hook(begin),
        analysis.model.register_forward_hook(end, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _dropped(analysis: Analysis, plan: PruningPlan) -> list[tuple[torch.Tensor, int, torch.Tensor]]:
    """(parameter, axis, indices that go)."""
    parameters = dict(analysis.model.named_parameters())
    result = []
    for name, axes in analysis.coupling.cuts(plan).items():
        tensor = parameters.get(name)
        if tensor is None:
            continue
        for axis, kept in axes.items():
            gone = np.setdiff1d(np.arange(tensor.shape[axis]), kept)
            result.append((tensor, axis, torch.as_tensor(gone, device=tensor.device)))
    return result


class _Compress(TorchDispatchMode):
    """Runs marked ops on the kept channels and puts zeros where the others were."""

    def __init__(self, analysis: Analysis, plan: PruningPlan) -> None:
        super().__init__()
        self.coupling = analysis.coupling
        self.alive = self.coupling.kept_roots(plan)
        self.ops = [(k, op) for k, op in essential(analysis.graph) if k < len(analysis.graph.ops)]
        self.next = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        seen = describe(func, args, kwargs, out)
        if seen is None or self._constant(seen) or seen.kind in LAYOUT:
            return out
        position, op = self.ops[self.next]
        self.next = (self.next + 1) % len(self.ops)
        if str(func) != op.raw:
            raise InputError(
                f"a masked model must run the ops it was traced with, expected {op.raw}, got {func}; "
                "call it in inference mode (torch.inference_mode()) and eval(), and once before if its first call "
                "works out what the others use"
            )
        if position not in self.coupling.compress:
            return out
        return self._compressed(func, args, kwargs, op, seen, out)

    @staticmethod
    def _constant(seen: Seen) -> bool:
        """Whether an op depends on no input and no parameter; its outputs are marked so."""
        fixed = seen.kind == "create" or all(getattr(t, "_prunekit_fixed", False) for t in seen.inputs)
        for tensor in seen.outputs:
            tensor._prunekit_fixed = fixed  # type: ignore[attr-defined]
        return fixed

    def _compressed(self, func: Any, args: Any, kwargs: Any, op: Op, seen: Seen, out: Any) -> Any:
        kept = {id(t): self._kept(number) for t, number in zip(seen.inputs, op.inputs, strict=True)}

        def narrow(value: Any) -> Any:
            for axis, index in kept.get(id(value), {}).items():
                value = value.index_select(axis, index.to(value.device))
            return value

        args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, narrow, (args, kwargs))
        if op.kind == "layer_norm":
            args, kwargs = _renormalised(func, args, kwargs, len(op.attrs["axes"]))
        small = func(*args, **kwargs)
        if not isinstance(out, torch.Tensor):
            return small
        return self._widen(small, out, self._kept(op.outputs[0]))

    def _widen(self, small: torch.Tensor, full: torch.Tensor, kept: dict[int, torch.Tensor]) -> torch.Tensor:
        result = small
        for axis, index in kept.items():
            shape = list(result.shape)
            shape[axis] = full.shape[axis]
            result = result.new_zeros(shape).index_copy_(axis, index.to(result.device), result)
        return result

    def _kept(self, tensor: int) -> dict[int, torch.Tensor]:
        return {axis: torch.as_tensor(kept) for axis, kept in self.coupling.left_over(self.alive, tensor).items()}


def _renormalised(func: Any, args: Any, kwargs: Any, n: int) -> tuple[Any, Any]:
    """Arguments of a layer norm whose normalised shape is that of its cut input."""
    names = [a.name for a in func._schema.arguments]
    if "normalized_shape" not in names:  # an op of the user's own, which reads it off its input
        return args, kwargs
    values = dict(zip(names, args, strict=False))
    given = kwargs if "normalized_shape" in kwargs else values
    given["normalized_shape"] = list(args[0].shape[-n:])
    return tuple(values.values()), kwargs

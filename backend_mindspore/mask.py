"""A network that computes as if channels were gone, without cutting it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from prunekit.backend_mindspore._mindir import clear_caches
from prunekit.backend_mindspore._names import is_statistic, parameters
from prunekit.backend_mindspore.state import to_array
from prunekit.core.analysis import Analysis
from prunekit.core.errors import InputError
from prunekit.core.graph import Op
from prunekit.core.plan import PruningPlan

__all__ = ["masked", "zero", "zeroing"]


def zero(analysis: Analysis, plan: PruningPlan) -> None:
    """Set everything that the plan drops to zero, in place; statistics stay."""
    own = parameters(analysis.model)
    for name, axes in analysis.coupling.cuts(plan).items():
        if is_statistic(name):
            continue
        values = to_array(own[name]).copy()
        for axis, kept in axes.items():
            rows = np.moveaxis(values, axis, 0)  # a view
            rows[np.setdiff1d(np.arange(len(rows)), kept)] = 0
        # not set_data: an optimizer that has run once would go on with the memory that the parameter had
        ops.assign(own[name], Tensor(values, own[name].dtype))


def zeroing(analysis: Analysis, plan: PruningPlan) -> Callable[[], None]:
    """:func:`zero` to be called many times: what is dropped is looked up once."""
    kept = [(p, Tensor(mask, p.dtype)) for p, mask in _masks(analysis, plan)]

    def again() -> None:
        for parameter, mask in kept:
            ops.assign(parameter, ops.mul(parameter, mask))

    return again


@contextlib.contextmanager
def masked(analysis: Analysis, plan: PruningPlan) -> Iterator[nn.Cell]:
    """Within the context the network computes what the pruned one will; then it is as before.

    Parameters that the plan drops are zero. Layer norms see the kept channels only; the network must be
    run in inference mode.

    Raises:
        InputError: Another op takes statistics over channels; only the cut network shows what it computes.
    """
    net = analysis.model
    saved = [(p, Tensor(to_array(p).copy(), p.dtype)) for p, _ in _masks(analysis, plan)]
    again = zeroing(analysis, plan)  # now: norms that are exchanged take their parameters with them
    with _compressed(analysis, plan):
        try:
            again()
            yield net
        finally:
            for parameter, value in saved:
                ops.assign(parameter, value)


def _masks(analysis: Analysis, plan: PruningPlan) -> list[tuple[ms.Parameter, np.ndarray]]:
    """(parameter, 0 where it goes and 1 where it stays)."""
    own = parameters(analysis.model)
    result = []
    for name, axes in analysis.coupling.cuts(plan).items():
        if is_statistic(name):
            continue
        mask = np.zeros(own[name].shape, dtype=np.float32)
        mask[np.ix_(*(axes.get(a, range(n)) for a, n in enumerate(mask.shape)))] = 1
        result.append((own[name], mask))
    return result


class _Kept(nn.Cell):
    """A norm over some channels of an axis; the others come out as zero."""

    def __init__(self, norm: Any, axis: int, kept: np.ndarray, size: int) -> None:
        super().__init__()
        self.axis = axis
        # not the norm itself: as a child of this cell its parameters would get other names
        self.gamma, self.beta = (Tensor(to_array(p)[kept], p.dtype) for p in (norm.gamma, norm.beta))
        self.layer_norm = getattr(norm, "layer_norm", None)
        self.eps = getattr(norm, "eps", 0.0)
        self.kept = Tensor(kept, ms.int32)
        back = np.full(size, len(kept))
        back[kept] = np.arange(len(kept))
        self.back = Tensor(back, ms.int32)
        self.groups = getattr(norm, "num_groups", 0)

    def construct(self, x: Tensor) -> Tensor:
        small = ops.gather(x, self.kept, self.axis)
        if self.groups:
            y = ops.group_norm(small, self.groups, self.gamma, self.beta, self.eps)
        else:
            y, _, _ = self.layer_norm(small, self.gamma, self.beta)
        nothing = ops.zeros_like(ops.narrow(y, self.axis, 0, 1))
        return ops.gather(ops.concat((y, nothing), self.axis), self.back, self.axis)


@contextlib.contextmanager
def _compressed(analysis: Analysis, plan: PruningPlan) -> Iterator[None]:
    """Norms over channels see the kept ones alone, where the plan drops some."""
    coupling, cells = analysis.coupling, dict(analysis.model.cells_and_names())
    alive = coupling.kept_roots(plan)
    changed: list[tuple[nn.Cell, nn.Cell]] = []
    try:
        for position in sorted(coupling.compress):
            op = analysis.graph.all_ops[position]
            if position >= len(analysis.graph.ops) or not _loses(coupling, alive, op):
                continue
            cell, axis = cells.get(op.scope), _axis(op)
            # a norm derived from these may move axes in its own code
            if axis is None or type(cell) not in (nn.LayerNorm, nn.GroupNorm):
                raise InputError(
                    f"a masked network cannot leave channels out of {op.raw} in {op.scope or 'its own code'}; "
                    "cut it with apply() instead, or ignore the layers before it"
                )
            labels = coupling.labels[op.inputs[0]][axis]
            wrapped = _Kept(cell, axis, np.flatnonzero(alive[labels]), len(labels))
            _exchange(analysis.model, cell, wrapped)
            changed.append((cell, wrapped))
        yield
    finally:
        for cell, wrapped in changed:
            _exchange(analysis.model, wrapped, cell)
        if changed:
            clear_caches(analysis.model)


def _axis(op: Op) -> int | None:
    """The one axis along which a norm's channels lie."""
    axes = op.attrs.get("axes", (op.attrs.get("axis"),))
    return axes[0] if len(axes) == 1 else None


def _exchange(net: nn.Cell, old: nn.Cell, new: nn.Cell) -> None:
    """Put a cell in the place of another, wherever that is a child."""
    for _, parent in list(net.cells_and_names()):
        if parent is new:
            continue
        for key, child in parent._cells.items():
            if child is old:
                parent._cells[key] = new
        if isinstance(parent, nn.SequentialCell):
            parent.cell_list = list(parent._cells.values())
    clear_caches(net)


def _loses(coupling: Any, alive: np.ndarray, op: Op) -> bool:
    return any(
        labels is not None and not alive[labels].all()
        for tensor in op.inputs
        for labels in coupling.labels.get(tensor, ())
    )

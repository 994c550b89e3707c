"""A network that computes as if channels were gone, without cutting it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from prunekit.backend_mindspore._aligning import plain
from prunekit.backend_mindspore._mindir import clear_caches
from prunekit.backend_mindspore._names import is_statistic, parameters
from prunekit.backend_mindspore._running import Dispatch
from prunekit.backend_mindspore.state import to_array
from prunekit.core.analysis import Analysis
from prunekit.core.coupling.groups import Coupling
from prunekit.core.coupling.propagate import LAYERS
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

    Parameters that the plan drops are zero. Ops that take statistics over channels see the kept ones only; the
    network must be run in inference mode.

    Raises:
        InputError: Compiled networks can leave channels out of norms alone; run it op by op, or cut it.
    """
    net = analysis.model
    saved = [(p, Tensor(to_array(p).copy(), p.dtype)) for p, _ in _masks(analysis, plan)]
    again = zeroing(analysis, plan)  # now: norms that are exchanged take their parameters with them
    try:
        with _compressed(analysis, plan):
            again()
            yield net
    finally:  # outside: what counts the ops of a run that failed must not see these
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
    """What norms over some channels of an axis share: the others come out as zero."""

    def __init__(self, axis: int, kept: np.ndarray, size: int) -> None:
        super().__init__()
        self.axis = axis
        self.kept = Tensor(kept, ms.int32)
        back = np.full(size, len(kept))
        back[kept] = np.arange(len(kept))
        self.back = Tensor(back, ms.int32)

    def widened(self, y: Tensor) -> Tensor:
        nothing = ops.zeros_like(ops.narrow(y, self.axis, 0, 1))
        return ops.gather(ops.concat((y, nothing), self.axis), self.back, self.axis)


class _KeptLayerNorm(_Kept):
    """In place of the primitive of a layer norm, whose cell may move axes in its own code."""

    def __init__(self, norm: Any, kept: np.ndarray, size: int) -> None:
        super().__init__(-1, kept, size)
        self.norm = norm

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        small = ops.gather(x, self.kept, -1)
        y, mean, variance = self.norm(small, ops.gather(gamma, self.kept, 0), ops.gather(beta, self.kept, 0))
        return self.widened(y), mean, variance


class _KeptGroupNorm(_Kept):
    """In place of a group norm."""

    def __init__(self, norm: Any, kept: np.ndarray, size: int) -> None:
        super().__init__(1, kept, size)
        # not the norm itself: as a child of this cell its parameters would get other names
        self.gamma, self.beta = (Tensor(to_array(p)[kept], p.dtype) for p in (norm.gamma, norm.beta))
        self.groups, self.eps = norm.num_groups, norm.eps

    def construct(self, x: Tensor) -> Tensor:
        small = ops.gather(x, self.kept, 1)
        return self.widened(ops.group_norm(small, self.groups, self.gamma, self.beta, self.eps))


@contextlib.contextmanager
def _compressed(analysis: Analysis, plan: PruningPlan) -> Iterator[None]:
    """What takes statistics over channels sees the kept ones alone, where the plan drops some."""
    coupling = analysis.coupling
    alive = coupling.kept_roots(plan)
    marked = [
        op for k, op in enumerate(analysis.graph.ops)
        if (k in coupling.compress and any(coupling.left_over(alive, tensor) for tensor in op.inputs))
        or _share(coupling, alive, op) < 1
    ]  # fmt: skip
    by_op = ms.get_context("mode") == ms.PYNATIVE_MODE and all("step" in op.attrs for op in marked)
    with _op_by_op(analysis, alive, marked) if by_op and Dispatch is not None else _norms(analysis, alive, marked):
        yield


@contextlib.contextmanager
def _op_by_op(analysis: Analysis, alive: np.ndarray, marked: Sequence[Op]) -> Iterator[None]:
    """Whenever the network runs, and only then, its ops see what is kept."""
    if not marked:
        yield
        return
    ops_ = _Compress(analysis.coupling, alive, marked)
    hooks = [
        analysis.model.register_forward_pre_hook(lambda *_: ops_.count_from(0)),
        analysis.model.register_forward_hook(lambda *_: ops_.count_from(None)),
    ]
    try:
        with ops_:
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Compress(Dispatch or object):  # type: ignore[misc]
    """Runs marked ops on the kept channels and puts zeros where the others were."""

    def __init__(self, coupling: Coupling, alive: np.ndarray, marked: Sequence[Op]) -> None:
        self.coupling, self.alive = coupling, alive
        self.marked = {number: op for op in marked for number in (op.attrs["step"], *op.attrs["again"])}
        self.next: int | None = None

    def count_from(self, number: int | None) -> None:
        """The number of the op that runs next; None where the network does not run."""
        self.next = number

    def __ms_dispatch__(self, func: Any, args: Any, kwargs: Any = None) -> Any:
        number, op = self.next, None if self.next is None else self.marked.get(self.next)
        if op is None:
            self.next = None if number is None else number + 1
            return func(*args, **kwargs) if kwargs else func(*args)
        self.next = None  # what follows is no op of the network's
        if plain(func.name) != plain(op.raw):
            raise InputError(
                f"a masked network must run the ops it was traced with, expected {op.raw}, got {func.name}; "
                "call it in inference mode, after set_train(False)"
            )
        result = self._run(func, args, kwargs or {}, op)
        self.next = number + 1
        return result

    def _run(self, func: Any, args: Any, kwargs: Any, op: Op) -> Any:
        share = _share(self.coupling, self.alive, op)
        if share < 1:
            return func(*args, **kwargs) / share
        if op.kind in LAYERS:  # they know their widths, and to add nothing is to leave out
            return func(*self._emptied(args, op), **kwargs)
        left = list(op.inputs)
        narrowed = self._narrowed(args, op, left)
        if any(self.coupling.left_over(self.alive, tensor) for tensor in left):
            raise InputError(
                f"a masked network must find the inputs of its ops by their shapes, got {op.raw} in "
                f"{op.scope or 'its own code'} with {_shapes(args)}; run it on inputs of the shape it was traced "
                "with, cut it with apply() instead, or ignore the layers before it"
            )
        result = func(*narrowed, **kwargs)
        many = isinstance(result, (tuple, list))
        widened = self._widened(result[0] if many else result, op.outputs[0])
        return type(result)((widened, *result[1:])) if many else widened

    def _emptied(self, value: Any, op: Op) -> Any:
        """A layer's arguments with zeros in what it sums over and is not kept."""
        if isinstance(value, (tuple, list)):
            return type(value)(self._emptied(v, op) for v in value)
        x = op.inputs[0]
        whole = isinstance(value, Tensor) and tuple(value.shape) == self.coupling.graph.tensors[x].shape
        return self._zeroed(value, x) if whole else value

    def _zeroed(self, value: Tensor, tensor: int) -> Tensor:
        for axis, kept in self.coupling.left_over(self.alive, tensor).items():
            mask = np.zeros([n if a == axis else 1 for a, n in enumerate(value.shape)], np.float32)
            np.moveaxis(mask, axis, 0)[kept] = 1
            value = value * Tensor(mask, value.dtype)
        return value

    def _narrowed(self, value: Any, op: Op, left: list[int]) -> Any:
        """Arguments with the kept channels; tensors among them are the op's inputs, in their order."""
        if isinstance(value, Tensor) and left:
            return self._gathered(value, left)
        if not isinstance(value, (tuple, list)):
            return value
        n, shape = len(value), self.coupling.graph.tensors[op.inputs[0]].shape
        numbers = n and all(type(v) is int for v in value)
        if op.kind == "layer_norm" and numbers and tuple(value) == shape[-n:]:  # what it norms over
            kept = self.coupling.left_over(self.alive, op.inputs[0])
            return type(value)(len(kept.get(len(shape) - n + k, range(length))) for k, length in enumerate(value))
        return type(value)(self._narrowed(v, op, left) for v in value)

    def _gathered(self, value: Tensor, left: list[int]) -> Tensor:
        shape, kept = self.coupling.graph.tensors[left[0]].shape, self.coupling.left_over(self.alive, left[0])
        rank = len(shape)
        as_it_is = range(rank)
        flipped = (*range(rank - 2), rank - 1, rank - 2) if rank > 1 else as_it_is  # a product's flag became a permute
        place = next((axes for axes in (as_it_is, flipped) if _fits(value.shape, shape, axes, kept)), None)
        if place is None:
            return value
        left.pop(0)
        for axis, indices in kept.items():
            value = ops.gather(value, Tensor(indices, ms.int32), place[axis])
        return value

    def _widened(self, small: Tensor, tensor: int) -> Tensor:
        for axis, kept in self.coupling.left_over(self.alive, tensor).items():
            size = self.coupling.graph.tensors[tensor].shape[axis]
            small = _Kept(axis, kept, size).widened(small)
        return small


def _fits(found: Sequence[int], shape: Sequence[int], place: Sequence[int], kept: Mapping[int, Any]) -> bool:
    """Whether a tensor may be one of a traced shape, its axes at other places, in a batch of another length."""
    fixed = kept or range(1, len(shape))
    return len(found) == len(shape) and all(found[place[axis]] == shape[axis] for axis in fixed)


def _shapes(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, Tensor):
        return [tuple(value.shape)]
    return [s for v in value for s in _shapes(v)] if isinstance(value, (tuple, list)) else []


@contextlib.contextmanager
def _norms(analysis: Analysis, alive: np.ndarray, marked: Sequence[Op]) -> Iterator[None]:
    """Norms are exchanged for such as see the kept channels, also when they are compiled."""
    cells = dict(analysis.model.cells_and_names())
    undo: dict[int, Callable[[], None]] = {}
    try:
        for op in marked:
            cell = cells.get(op.scope)
            if cell is not None and id(cell) not in undo:
                undo[id(cell)] = _narrowed(analysis, alive, op, cell)
        clear_caches(analysis.model)
        yield
    finally:
        for back in undo.values():
            back()
        clear_caches(analysis.model)


def _narrowed(analysis: Analysis, alive: np.ndarray, op: Op, cell: nn.Cell) -> Callable[[], None]:
    """Let a norm see the kept channels only; what is returned makes it as it was."""
    labels = analysis.coupling.labels[op.inputs[0]]
    last = op.kind == "layer_norm" and op.attrs["axes"] == (len(labels) - 1,)
    if last and isinstance(cell, nn.LayerNorm):
        primitive = cell.layer_norm
        _replace_primitive(cell, _KeptLayerNorm(primitive, np.flatnonzero(alive[labels[-1]]), len(labels[-1])))
        return lambda: _replace_primitive(cell, primitive)
    if type(cell) is nn.GroupNorm:
        wrapped = _KeptGroupNorm(cell, np.flatnonzero(alive[labels[1]]), len(labels[1]))
        _exchange(analysis.model, cell, wrapped)
        return lambda: _exchange(analysis.model, wrapped, cell)
    raise InputError(
        f"a compiled network cannot leave channels out of {op.raw} in {op.scope or 'its own code'}; "
        "run it in PYNATIVE mode, cut it with apply() instead, or ignore the layers before it"
    )


def _replace_primitive(cell: Any, value: Any) -> None:
    del cell.layer_norm
    cell.layer_norm = value


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


def _share(coupling: Coupling, alive: np.ndarray, op: Op) -> float:
    """Where a sum is divided by the count of what it sums: the share of these that is kept; else 1."""
    if "share" not in op.attrs:
        return 1.0
    tensor, axes = op.attrs["share"]
    labels = coupling.labels.get(tensor, ())
    return prod(float(alive[labels[a]].mean()) for a in axes if a < len(labels) and labels[a] is not None)

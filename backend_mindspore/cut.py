"""Make a smaller network: a copy in which parameters are new and layers know their new widths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, mint, nn, ops

from prunekit.backend_mindspore._mindir import clear_caches
from prunekit.backend_mindspore._names import owners
from prunekit.backend_mindspore._running import followed, ordered
from prunekit.backend_mindspore.state import to_array
from prunekit.backend_mindspore.trace import trace
from prunekit.core.analysis import Analysis
from prunekit.core.carried import attach_plan, find_plan
from prunekit.core.coupling.verify import Mismatch, compare
from prunekit.core.errors import CutError, TraceError
from prunekit.core.graph import Graph
from prunekit.core.numbers import set_number, whole_numbers
from prunekit.core.plan import PruningPlan

__all__ = ["adopt", "apply", "clone", "integers", "sliced", "trace_cut"]


def apply(analysis: Analysis, plan: PruningPlan, *, check: bool = True) -> nn.Cell:
    """A new, smaller network; see ``core.backend.Backend.apply``."""
    plan.check(analysis.coupling)
    small = _smaller(analysis, plan)
    if check:
        _check(analysis, plan, small)
    before = find_plan(analysis.model)
    attach_plan(small, plan if before is None else before.compose(plan))
    return small


def _check(analysis: Analysis, plan: PruningPlan, small: nn.Cell) -> None:
    run = followed(analysis, plan, small)
    mismatch = Mismatch(run.position, run.text) if run.text and run.position is not None else None
    if mismatch is None and not (analysis.probed and run.whole):  # compiling takes many times as long
        mismatch = compare(analysis.coupling, plan, _trace_small(analysis, small))
    if mismatch is not None:
        op = analysis.graph.all_ops[mismatch.position]
        raise CutError(
            f"a cut network must compute the shapes its plan implies, but in {op.scope or 'the model'} "
            f"{mismatch.text}; ignore that layer, or analyse with probe=True"
        )


def adopt(net: nn.Cell, small: nn.Cell) -> None:
    """Cut a network in place: it takes the parameters of its smaller copy, which is of no use afterwards."""
    cells = zip(net.cells_and_names(), small.cells_and_names(), strict=True)
    for cell, other in [(mine, other) for (_, mine), (_, other) in cells]:
        changed = [a for a, p in other._params.items() if p is not None and p.shape != cell._params[a].shape]
        for attribute in changed:
            cell._params[attribute] = other._params[attribute]
        if changed:
            tuples = {a: v for a, v in vars(other).items() if isinstance(v, ParameterTuple)}
            vars(cell).update(tuples)
            for name in _GROUPS & vars(other).keys():
                setattr(cell, name, getattr(other, name))
            _update(cell)
    clear_caches(net)
    plan = find_plan(small)
    if plan is not None:
        attach_plan(net, plan)


def trace_cut(analysis: Analysis, plan: PruningPlan) -> Graph:
    """Trace of the network as the plan would cut it."""
    small = _smaller(analysis, plan)
    run = followed(analysis, plan, small)
    if run.text:
        raise CutError(run.text, run.position)
    return _trace_small(analysis, small)


def _trace_small(analysis: Analysis, small: nn.Cell) -> Graph:
    try:
        return ordered(trace(small, analysis.example), analysis.graph)
    except TraceError as error:
        raise CutError(f"a cut network must compile, got {error}; ignore the layers that it names") from error


def clone(net: nn.Cell, instead: Mapping[int, Parameter] | None = None) -> nn.Cell:
    """An independent copy, with nothing compiled.

    Args:
        net: Any cell.
        instead: Parameters that take the places of others, by the ``id`` of these, wherever the cells keep them.
    """
    # primitives hold nothing that a copy may change, and not all of them can be copied
    shared = {id(v): v for _, cell in net.cells_and_names() for v in _primitives(cell)}
    other = copy.deepcopy(net, {**shared, **(instead or {})})
    clear_caches(other)
    return other


def _primitives(cell: nn.Cell) -> Iterator[Any]:
    values = (*vars(cell).values(), *getattr(cell, "_primitives", {}).values())
    return (v for v in values if isinstance(v, (ops.Custom, ops.Primitive)))


def integers(net: nn.Cell) -> dict[str, tuple[str, dict[str, int]]]:
    """Whole numbers of all cells but the framework's own; see ``core.backend.Backend.integers``."""
    usual = set(vars(nn.Cell()))
    return {
        name: (
            f"{type(cell).__module__}.{type(cell).__qualname__}",
            whole_numbers(vars(cell), usual),
        )
        for name, cell in net.cells_and_names()
        if not type(cell).__module__.startswith("mindspore.")
    }


def _smaller(analysis: Analysis, plan: PruningPlan) -> nn.Cell:
    places = owners(analysis.model)
    fresh: dict[int, Parameter] = {}
    for name, axes in analysis.coupling.cuts(plan).items():
        cell, attribute = places[name]
        old = cell._params[attribute]
        fresh[id(old)] = _replacement(old, sliced(to_array(old), axes))
    small = clone(analysis.model, fresh)
    new = {id(p) for p in fresh.values()}
    for _, cell in small.cells_and_names():
        if any(id(p) in new for p in cell._params.values()):
            if analysis.coupling.grouped == "whole":
                _regroup(cell)
            _update(cell)
    cells = dict(small.cells_and_names())
    for (name, attribute), value in analysis.coupling.integers(plan).items():
        set_number(cells[name], attribute, value)
    clear_caches(small)
    return small


def _replacement(old: Parameter, values: np.ndarray) -> Parameter:
    """A new parameter: the old one cannot change its shape without harm."""
    return Parameter(Tensor(values, old.dtype), name=old.name, requires_grad=old.requires_grad)


def sliced(array: np.ndarray, cuts: Mapping[int, Any]) -> np.ndarray:
    """A contiguous copy with the kept indices of each axis."""
    for axis, kept in cuts.items():
        array = np.take(array, kept, axis=axis)
    return np.array(array, order="C")


def _update(cell: nn.Cell) -> None:
    """Make one of the framework's own layers say the widths that its parameters have."""
    for kind, update in _UPDATES:
        if isinstance(cell, kind):
            update(cell)
            return


_GROUPS = frozenset(["group", "groups"])


def _regroup(cell: Any) -> None:
    """As many groups as a convolution has outputs for, where whole ones were cut."""
    for name in _GROUPS & vars(cell).keys():
        transposed = isinstance(cell, nn.Conv2dTranspose) or bool(getattr(cell, "transposed", False))
        if getattr(cell, name) > 1 and cell.weight.shape[1] > 1 and not transposed:
            setattr(cell, name, cell.weight.shape[0] * getattr(cell, name) // cell.out_channels)


def _widths(cell: Any, groups: int, transposed: bool) -> tuple[int, int, int]:
    """(in, out, groups) of a convolution by its weight and what it was."""
    first, second = cell.weight.shape[:2]
    depthwise = groups > 1 and second == 1 and cell.in_channels == groups
    if depthwise:
        groups = first if transposed else first * groups // cell.out_channels
    return (first, second * groups, groups) if transposed else (second * groups, first, groups)


def _conv(cell: Any) -> None:
    cell.in_channels, cell.out_channels, cell.group = _widths(cell, cell.group, False)
    old = cell.conv2d
    cell.conv2d = ops.Conv2D(
        out_channel=cell.out_channels, kernel_size=old.kernel_size, mode=old.mode, pad_mode=old.pad_mode.lower(),
        pad=cell.padding, stride=cell.stride, dilation=cell.dilation, group=cell.group,
        data_format=getattr(cell, "data_format", "NCHW"),
    )  # fmt: skip


def _conv1d(cell: Any) -> None:
    cell.in_channels, cell.out_channels, cell.group = _widths(cell, cell.group, False)
    cell.conv2d = ops.Conv2D(
        out_channel=cell.out_channels, kernel_size=cell.kernel_size, mode=1, pad_mode=cell.pad_mode,
        pad=cell.padding, stride=cell.stride, dilation=cell.dilation, group=cell.group,
    )  # fmt: skip


def _conv3d(cell: Any) -> None:
    cell.in_channels, cell.out_channels, cell.group = _widths(cell, cell.group, False)
    cell.conv3d = ops.Conv3D(
        out_channel=cell.out_channels, kernel_size=cell.kernel_size, mode=1, pad_mode=cell.pad_mode,
        pad=cell.padding, stride=cell.stride, dilation=cell.dilation, group=cell.group, data_format=cell.data_format,
    )  # fmt: skip


def _conv_transposed(cell: Any) -> None:
    cell.in_channels, cell.out_channels, cell.group = _widths(cell, cell.group, True)
    cell.conv2d_transpose = ops.Conv2DTranspose(
        out_channel=cell.in_channels, kernel_size=cell.kernel_size, mode=1, pad_mode=cell.pad_mode,
        pad=cell.padding, stride=cell.stride, dilation=cell.dilation, group=cell.group,
    )  # fmt: skip


def _mint_conv(cell: Any) -> None:
    transposed = bool(getattr(cell, "transposed", False))
    cell.in_channels, cell.out_channels, cell.groups = _widths(cell, cell.groups, transposed)


def _dense(cell: Any) -> None:
    cell.out_channels, cell.in_channels = cell.weight.shape


def _linear(cell: Any) -> None:
    cell.out_features, cell.in_features = cell.weight.shape


def _batch_norm(cell: Any) -> None:
    known = next((p for p in cell._params.values() if p is not None and p.ndim == 1), None)
    if known is not None:
        cell.num_features = known.shape[0]


def _layer_norm(cell: Any) -> None:
    cell.normalized_shape = tuple(next(iter(cell._params.values())).shape)


def _group_norm(cell: Any) -> None:
    cell.num_channels = next(iter(cell._params.values())).shape[0]


def _embedding(cell: Any) -> None:
    cell.embedding_size = cell.embedding_table.shape[1]


_UPDATES: tuple[tuple[Any, Callable[[Any], None]], ...] = (
    (nn.Conv2d, _conv),
    (nn.Conv1d, _conv1d),
    (nn.Conv3d, _conv3d),
    (nn.Conv2dTranspose, _conv_transposed),
    ((mint.nn.Conv2d, mint.nn.Conv3d), _mint_conv),
    (nn.Dense, _dense),
    (mint.nn.Linear, _linear),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, mint.nn.BatchNorm2d), _batch_norm),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _batch_norm),
    ((nn.LayerNorm, mint.nn.LayerNorm), _layer_norm),
    ((nn.GroupNorm, mint.nn.GroupNorm), _group_norm),
    (nn.Embedding, _embedding),
)

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
from prunekit.core.analysis import Analysis, check_cut
from prunekit.core.carried import attach_plan, find_plan, hand_on_plan
from prunekit.core.errors import CutError, TraceError
from prunekit.core.graph import Graph
from prunekit.core.numbers import set_numbers, whole_numbers
from prunekit.core.plan import PruningPlan

__all__ = ["adopt", "apply", "clone", "integers", "sliced", "trace_cut"]


def apply(analysis: Analysis, plan: PruningPlan, *, check: bool = True) -> nn.Cell:
    """A new, smaller network; see ``core.backend.Backend.apply``."""
    plan.check(analysis.coupling)
    small = _smaller(analysis, plan)
    if check:
        check_cut(analysis, plan, lambda: _run(analysis, plan, small))
    hand_on_plan(analysis.model, small, plan)
    return small


def adopt(net: nn.Cell, small: nn.Cell) -> None:
    """Cut a network in place: it takes the parameters and whole numbers of its smaller copy, of no use afterwards."""
    before, after = integers(net), integers(small)
    cells = dict(net.cells_and_names())
    for cell, (_, other) in list(zip(cells.values(), small.cells_and_names(), strict=True)):
        cell.__class__ = type(other)  # its code may have been rewritten
        changed = [a for a, p in other._params.items() if p is not None and p.shape != cell._params[a].shape]
        for attribute in changed:
            cell._params[attribute] = other._params[attribute]
        if changed:
            tuples = {a: v for a, v in vars(other).items() if isinstance(v, ParameterTuple)}
            vars(cell).update(tuples)
            groups = _groups(cell)
            if groups:
                setattr(cell, groups, getattr(other, groups))
            _update(cell)
    set_numbers(cells, {
        (name, key): number
        for name, (_, numbers) in after.items() for key, number in numbers.items()
        if before[name][1].get(key) != number
    })  # fmt: skip
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
    return _traced(analysis, small)


def _run(analysis: Analysis, plan: PruningPlan, small: nn.Cell) -> Graph | None:
    """The trace of a network that was cut; None where running it op by op has shown that all is as it should be."""
    run = followed(analysis, plan, small)  # first: what does not compile has no place
    if run.text and run.position is not None:
        raise CutError(run.text, run.position)
    return None if analysis.probed and run.whole else _traced(analysis, small)  # compiling takes many times as long


def _traced(analysis: Analysis, small: nn.Cell) -> Graph:
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


def integers(net: nn.Cell) -> dict[str, tuple[type, dict[str, int]]]:
    """Whole numbers of all cells but the framework's own; see ``core.backend.Backend.integers``."""
    usual = set(vars(nn.Cell()))
    return {
        name: (type(cell), whole_numbers(vars(cell), usual))
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
    set_numbers(dict(small.cells_and_names()), analysis.coupling.integers(plan))
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


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.Conv1dTranspose, nn.Conv2dTranspose, nn.Conv3dTranspose)
_MINT_CONVS = tuple(
    getattr(mint.nn, name) for name in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d") if hasattr(mint.nn, name)
)


def _groups(cell: Any) -> str:
    """The attribute with the number of groups of a convolution; empty for any other cell, whatever it calls its own."""
    return "group" if isinstance(cell, (*_CONVS, *_TRANSPOSED)) else "groups" if isinstance(cell, _MINT_CONVS) else ""


def _regroup(cell: Any) -> None:
    """As many groups as a convolution has outputs for, where whole ones were cut."""
    name = _groups(cell)
    if not name or isinstance(cell, _TRANSPOSED) or getattr(cell, "transposed", False):
        return
    if getattr(cell, name) > 1 and cell.weight.shape[1] > 1:
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


def _conv3d_transposed(cell: Any) -> None:
    cell.in_channels, cell.out_channels, cell.group = _widths(cell, cell.group, True)
    cell.conv3d_transpose = ops.Conv3DTranspose(
        in_channel=cell.in_channels, out_channel=cell.out_channels, kernel_size=cell.kernel_size, mode=1,
        pad_mode=cell.pad_mode, pad=cell.padding, stride=cell.stride, dilation=cell.dilation, group=cell.group,
        output_padding=cell.output_padding, data_format=cell.data_format,
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
    ((nn.Conv1dTranspose, nn.Conv2dTranspose), _conv_transposed),
    (nn.Conv3dTranspose, _conv3d_transposed),
    (_MINT_CONVS, _mint_conv),
    (nn.Dense, _dense),
    (mint.nn.Linear, _linear),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, mint.nn.BatchNorm2d), _batch_norm),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _batch_norm),
    ((nn.LayerNorm, mint.nn.LayerNorm), _layer_norm),
    ((nn.GroupNorm, mint.nn.GroupNorm), _group_norm),
    (nn.Embedding, _embedding),
)

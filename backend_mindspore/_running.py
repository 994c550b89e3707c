"""A network run op by op: from which cell and line each op comes, and where a cut network goes its own way.

The compiler tells neither: it reads the code of a class once, whatever the instance, and a failure has no place.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from prunekit.backend_mindspore._batches import pynative
from prunekit.backend_mindspore._mindir import first_lines, in_mode
from prunekit.backend_mindspore.trace import positional
from prunekit.core.analysis import Analysis, cuttable
from prunekit.core.coupling.verify import implied_shape
from prunekit.core.graph import Graph, Op
from prunekit.core.plan import PruningPlan

__all__ = ["Dispatch", "deviation", "located", "ordered", "plain"]

try:
    from mindspore.utils.ms_dispatch import MsDispatchMode as Dispatch
except ImportError:  # MindSpore before 2.9
    Dispatch = None

_FRAMEWORK = str(Path(ms.__file__).parent)
_LITERAL = frozenset(["reshape", "slice", "expand", "tile", "pad", "einsum", "opaque", "gather"])  # take lengths
_SAME = re.compile(r"^(inplace|reduce)|(ext|view|v[23])+$")  # versions of an op that compute the same


@dataclass(frozen=True)
class _Step:
    """An op that ran: its name, the innermost cell, the user's line and the shape of its first result."""

    op: str
    scope: str
    where: str
    shape: tuple[int, ...] | None


class _Deviation(Exception):
    """The run need not go on."""


def located(graph: Graph, net: nn.Cell, example: Any) -> Graph:
    """The graph in the order in which the network runs, with cells and lines as they are then.

    ``attrs["step"]`` of an op is its number in the run, ``attrs["compiled"]`` its place in the graph as it was. Ops
    that only the compiler knows have no step and follow what they read.
    """
    steps: list[_Step] = []
    try:
        with _watched(net, steps.append):
            net(*positional(net, example))
    except Exception:  # it may be written for the compiler alone
        return graph
    if not steps:
        return graph
    numbers = _numbers(graph, steps)
    made: dict[int, int] = {}  # tensor → number of what runs when it is made
    ranked = []
    for k, op in enumerate(graph.ops):
        number = numbers.get(k)
        attrs = {**op.attrs, "compiled": k}
        if number is not None:
            step = steps[number]
            attrs["step"] = number
            op = replace(op, scope=step.scope, where=step.where or op.where)
        rank = max((-1 if number is None else number, *(made.get(t, -1) for t in op.inputs)))
        made |= dict.fromkeys(op.outputs, rank)
        ranked.append((rank, k, replace(op, attrs=attrs)))
    return replace(graph, ops=tuple(op for _, _, op in sorted(ranked, key=lambda entry: entry[:2])))


def ordered(cut: Graph, graph: Graph) -> Graph:
    """The graph of a cut network in the order of the original's; as it is where they have other ops."""
    order = [op.attrs.get("compiled", k) for k, op in enumerate(graph.ops)]
    if len(order) != len(cut.ops) or any(op.raw != cut.ops[k].raw for k, op in zip(order, graph.ops, strict=True)):
        return cut
    return replace(cut, ops=tuple(cut.ops[k] for k in order))


def _numbers(graph: Graph, steps: Sequence[_Step]) -> dict[int, int]:
    """The number in a run for each op of a graph, by its position.

    Layers are known by their parameters. Any other op is the first like it that ran after those that it depends on
    and before those that depend on it.
    """
    keys = [_key(graph, op) for op in graph.ops]
    numbers = _layers(graph, steps, keys)
    ran: dict[Any, list[int]] = {}
    for number, step in enumerate(steps):
        ran.setdefault((plain(step.op), step.shape), []).append(number)
    maker = {t: k for k, op in enumerate(graph.ops) for t in op.outputs}
    readers: dict[int, list[int]] = {}
    for k, op in enumerate(graph.ops):
        for t in op.inputs:
            if t in maker:
                readers.setdefault(maker[t], []).append(k)
    taken = set(numbers.values())
    for k, key in enumerate(keys):
        if key is None or k in numbers:
            continue
        first = max((numbers.get(maker[t], -1) for t in graph.ops[k].inputs if t in maker), default=-1)
        last = min((numbers.get(r, len(steps)) for r in readers.get(k, ())), default=len(steps))
        number = next((n for n in ran.get(key, ()) if first < n < last and n not in taken), None)
        if number is not None:
            numbers[k] = number
            taken.add(number)
    return numbers


def _layers(graph: Graph, steps: Sequence[_Step], keys: Sequence[Any]) -> dict[int, int]:
    """Numbers of the ops that read a parameter of the cell in which they ran, each as often as it ran."""
    ran: dict[Any, list[int]] = {}
    for number, step in enumerate(steps):
        ran.setdefault((plain(step.op), step.shape, step.scope), []).append(number)
    read: dict[Any, list[int]] = {}
    for k, (op, key) in enumerate(zip(graph.ops, keys, strict=True)):
        name = next((graph.tensors[t].name for t in op.inputs if graph.tensors[t].name), "")
        if name and key is not None:
            read.setdefault((*key, name.rpartition(".")[0]), []).append(k)
    return {
        k: number
        for key, positions in read.items()
        if len(positions) == len(ran.get(key, ()))
        for k, number in zip(positions, ran[key], strict=True)
    }


def _key(graph: Graph, op: Op) -> tuple[str, tuple[int, ...]] | None:
    name = plain(op.raw)
    made = op.kind == "permute" and "matmul" in name  # stands for a flag of the product
    return None if made or not op.outputs else (name, graph.tensors[op.outputs[0]].shape)


def plain(name: str) -> str:
    """An op's name without what tells versions of it apart."""
    return _SAME.sub("", name.lower())


def deviation(analysis: Analysis, plan: PruningPlan, small: nn.Cell) -> tuple[int | None, str] | None:
    """Where a cut network fails or gives another shape than the plan implies: the op's position and what is wrong."""
    graph, alive = analysis.graph, analysis.coupling.kept_roots(plan)
    positions = {op.attrs["step"]: k for k, op in enumerate(graph.ops) if "step" in op.attrs}
    number, aligned = 0, True

    def check(step: _Step) -> None:
        nonlocal number, aligned
        position = positions.get(number)
        number += 1
        op = None if position is None else graph.ops[position]
        # code of the framework's may take another way for another width
        aligned = aligned and (op is None or plain(step.op) == plain(op.raw))
        if op is None or not aligned:
            return
        expected = implied_shape(analysis.coupling, alive, op.outputs[0])
        if step.shape != expected:
            number -= 1
            raise _Deviation(f"{op.raw}: expected shape {expected}, found {step.shape}")

    scopes = _Scopes(small)
    try:
        with _watched(small, check):
            small(*positional(small, analysis.example))
    except _Deviation as error:
        return positions[number], str(error)
    except Exception as error:  # ops raise of every kind
        scope, where = scopes.of_traceback(error)
        exact = positions.get(number) if aligned else None
        return _position(analysis, exact, number, scope, where), f"{scope or 'the network'} fails: {first_lines(error)}"
    return None


def _position(analysis: Analysis, exact: int | None, number: int, scope: str, where: str) -> int | None:
    """The op that a failing one stands for; if that is not known, one of its line, of its cell, or after it."""
    ops = analysis.graph.ops
    able = [k for k in range(len(ops)) if cuttable(analysis.coupling, k)]
    if exact in able:
        return exact
    later = [k for k in able if ops[k].attrs.get("step", number) >= number]
    before = [k for k in reversed(able) if ops[k].attrs.get("step", number) < number]
    for candidates in (
        [k for k in (*later, *before) if ops[k].scope == scope and ops[k].where == where],
        [k for k in later if ops[k].scope == scope and ops[k].kind in _LITERAL],
        [k for k in later if ops[k].scope == scope], later, able,
    ):  # fmt: skip
        if candidates:
            return candidates[0]
    return None


class _Scopes:
    """Which cell of a network a frame belongs to."""

    def __init__(self, net: nn.Cell) -> None:
        self.names = {id(cell): name for name, cell in net.cells_and_names()}

    def of_frame(self, frame: Any) -> str | None:
        return self.names.get(id(frame.f_locals.get("self")))

    def of_traceback(self, error: Exception) -> tuple[str, str]:
        """The innermost cell that failed, and the innermost line of the user's."""
        found, line, traceback = "", "", error.__traceback__
        while traceback is not None:
            inner = self.of_frame(traceback.tb_frame)
            found = found if inner is None else inner
            file = traceback.tb_frame.f_code.co_filename
            line = line if file.startswith(_FRAMEWORK) or file == __file__ else f"{file}:{traceback.tb_lineno}"
            traceback = traceback.tb_next
        return found, line

    def of_stack(self, frame: Any) -> tuple[str, str]:
        """The innermost cell, and the line of the user's that is closest, if it is the cell's own or calls it."""
        scope, line = None, ""
        while frame is not None:
            inner = self.of_frame(frame)
            scope = inner if scope is None else scope
            if not line and not frame.f_code.co_filename.startswith(_FRAMEWORK):
                line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            if line and inner is not None:
                # a line that calls a sequence of layers is no place in any of them
                return scope or "", line if inner in (scope, (scope or "").rpartition(".")[0]) else ""
            frame = frame.f_back
        return scope or "", ""


@contextlib.contextmanager
def _watched(net: nn.Cell, see: Callable[[_Step], None]) -> Iterator[None]:
    """Within the context each op that the network runs, op by op and in inference mode, is seen."""
    scopes = _Scopes(net)
    with pynative(), in_mode(net, False), _at_once(), _dispatching(scopes, see):
        yield


def _dispatching(scopes: _Scopes, see: Callable[[_Step], None]) -> Any:
    if Dispatch is None:
        return contextlib.nullcontext()

    class Seen(Dispatch):  # type: ignore[misc, valid-type]
        def __ms_dispatch__(self, func: Any, args: Any, kwargs: Any = None) -> Any:
            result = func(*args, **kwargs) if kwargs else func(*args)
            first = result[0] if isinstance(result, (tuple, list)) and result else result
            shape = tuple(first.shape) if isinstance(first, ms.Tensor) else None
            scope, where = scopes.of_stack(sys._getframe(1))
            see(_Step(func.name, scope, where, shape))
            return result

    return Seen()


@contextlib.contextmanager
def _at_once() -> Iterator[None]:
    """Within the context an op fails when it is called, not some ops later: else they run behind."""
    before = ms.get_context("pynative_synchronize")
    ms.set_context(pynative_synchronize=True)
    try:
        yield
    finally:
        ms.set_context(pynative_synchronize=before)

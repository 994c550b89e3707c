"""A network run op by op: from which cell and line each op comes, and where a cut network goes its own way.

The compiler tells neither: it reads the code of a class once, whatever the instance, and a failure has no place.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from prunekit.backend_mindspore._batches import pynative
from prunekit.backend_mindspore._mindir import in_mode
from prunekit.backend_mindspore.trace import first_lines, positional
from prunekit.core.analysis import Analysis, cuttable
from prunekit.core.coupling.verify import implied_shape
from prunekit.core.graph import Graph, Op
from prunekit.core.plan import PruningPlan

__all__ = ["deviation", "located"]

try:
    from mindspore.utils.ms_dispatch import MsDispatchMode as _Dispatch
except ImportError:  # MindSpore before 2.9
    _Dispatch = None

_FRAMEWORK = str(Path(ms.__file__).parent)
_SAME = re.compile(r"^inplace|(ext|view|v[23])+$")  # versions of an op that compute the same


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
    """The graph with cells and lines as they are when the network runs, and with the order of the run.

    ``attrs["step"]`` of an op is its place in that order. Where a network has other ops when it runs than when it
    is compiled, these stay as they were.
    """
    steps: list[_Step] = []
    try:
        with _watched(net, steps.append):
            net(*positional(net, example))
    except Exception:  # it may be written for the compiler alone
        return graph
    ran: dict[Any, list[int]] = {}
    for k, step in enumerate(steps):
        ran.setdefault((_plain(step.op), step.shape), []).append(k)
    keys = [_key(graph, op) for op in graph.ops]
    times = Counter(keys)
    seen: Counter[Any] = Counter()
    ops = []
    for op, key in zip(graph.ops, keys, strict=True):
        # both orders agree with the flow of data, so that equal ops correspond one by one, if none is missing
        if key is not None and times[key] == len(ran.get(key, ())):
            number = ran[key][seen[key]]
            step = steps[number]
            where = step.where or op.where
            op = replace(op, scope=step.scope, where=where, attrs={**op.attrs, "step": number})
        seen[key] += 1
        ops.append(op)
    return replace(graph, ops=tuple(ops))


def _key(graph: Graph, op: Op) -> tuple[str, tuple[int, ...]] | None:
    name = _plain(op.raw)
    made = op.kind == "permute" and "matmul" in name  # stands for a flag of the product
    return None if made or not op.outputs else (name, graph.tensors[op.outputs[0]].shape)


def _plain(name: str) -> str:
    return _SAME.sub("", name.lower())


def deviation(analysis: Analysis, plan: PruningPlan, small: nn.Cell) -> tuple[int | None, str] | None:
    """Where a cut network fails or gives another shape than the plan implies: the op's position and what is wrong."""
    graph, alive = analysis.graph, analysis.coupling.kept_roots(plan)
    positions = {op.attrs["step"]: k for k, op in enumerate(graph.ops) if "step" in op.attrs}
    steps: list[_Step] = []

    def check(step: _Step) -> None:
        steps.append(step)
        op = graph.ops[positions[len(steps) - 1]] if len(steps) - 1 in positions else None
        if op is None:
            return
        expected = implied_shape(analysis.coupling, alive, op.outputs[0])
        if _plain(step.op) != _plain(op.raw):
            raise _Deviation(f"expected {op.raw}, found {step.op}")
        if step.shape != expected:
            raise _Deviation(f"{op.raw}: expected shape {expected}, found {step.shape}")

    scopes = _Scopes(small)
    try:
        with _watched(small, check):
            small(*positional(small, analysis.example))
    except _Deviation as error:
        return positions[len(steps) - 1], str(error)
    except Exception as error:  # ops raise of every kind
        scope = scopes.of_traceback(error)
        return _position(
            analysis, positions, len(steps), scope
        ), f"{scope or 'the network'} fails: {first_lines(error)}"
    return None


def _position(analysis: Analysis, positions: dict[int, int], number: int, scope: str) -> int | None:
    """The op that a failing one stands for: the one of its number, else the first after it, of its cell if possible."""
    if number in positions and cuttable(analysis.coupling, positions[number]):
        return positions[number]
    ops = analysis.graph.ops
    able = [k for k in range(len(ops)) if cuttable(analysis.coupling, k)]
    later = [k for k in able if ops[k].attrs.get("step", number) >= number]
    for candidates in ([k for k in later if ops[k].scope == scope], later, able):
        if candidates:
            return candidates[0]
    return None


class _Scopes:
    """Which cell of a network a frame belongs to."""

    def __init__(self, net: nn.Cell) -> None:
        self.names = {id(cell): name for name, cell in net.cells_and_names()}

    def of_frame(self, frame: Any) -> str | None:
        return self.names.get(id(frame.f_locals.get("self")))

    def of_traceback(self, error: Exception) -> str:
        found, traceback = "", error.__traceback__
        while traceback is not None:
            inner = self.of_frame(traceback.tb_frame)
            found = found if inner is None else inner
            traceback = traceback.tb_next
        return found

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
    with pynative(), in_mode(net, False), _dispatching(scopes, see):
        yield


def _dispatching(scopes: _Scopes, see: Callable[[_Step], None]) -> Any:
    if _Dispatch is None:
        return contextlib.nullcontext()

    class Seen(_Dispatch):  # type: ignore[misc, valid-type]
        """Asks for the shape of each result at once: ops run behind, and would fail too late."""

        def __ms_dispatch__(self, func: Any, args: Any, kwargs: Any = None) -> Any:
            result = func(*args, **kwargs) if kwargs else func(*args)
            first = result[0] if isinstance(result, (tuple, list)) and result else result
            shape = tuple(first.shape) if isinstance(first, ms.Tensor) else None
            scope, where = scopes.of_stack(sys._getframe(1))
            see(_Step(func.name, scope, where, shape))
            return result

    return Seen()

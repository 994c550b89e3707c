"""A network run op by op: from which cell and line each op comes, and where a cut network goes its own way.

The compiler tells neither: it reads the code of a class once, whatever the instance, and a failure has no place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from prunekit.backend_mindspore._aligning import Step, numbers, plain, repeated
from prunekit.backend_mindspore._batches import pynative
from prunekit.backend_mindspore._mindir import first_lines, in_mode
from prunekit.backend_mindspore.trace import leaves, positional
from prunekit.core.analysis import Analysis, cuttable
from prunekit.core.coupling.propagate import LAYERS
from prunekit.core.coupling.verify import implied_shape
from prunekit.core.graph import Graph
from prunekit.core.plan import PruningPlan

__all__ = ["Dispatch", "Followed", "followed", "located", "ordered"]

try:
    from mindspore.utils.ms_dispatch import MsDispatchMode as Dispatch
except ImportError:  # MindSpore before 2.9
    Dispatch = None

_FRAMEWORK = str(Path(ms.__file__).parent)
_LITERAL = frozenset(["reshape", "slice", "expand", "tile", "pad", "einsum", "opaque", "gather"])  # take lengths


class _Deviation(Exception):
    """The run need not go on."""


def located(graph: Graph, net: nn.Cell, example: Any) -> Graph:
    """The graph in the order in which the network runs, with cells and lines as they are then.

    ``attrs["step"]`` of an op is its number in the run, ``attrs["again"]`` those of steps that computed the same, and
    ``attrs["compiled"]`` its place in the graph as it was. Ops that only the compiler knows have no step and follow
    what they read.
    """
    steps: list[Step] = []
    made = _Made()
    try:
        with _watched(net, steps.append, made):
            answer = net(*positional(net, example))
    except Exception:  # it may be written for the compiler alone
        return graph
    if not steps:
        return graph
    known = numbers(graph, steps, [made.of(t) for t in leaves(answer)])
    twice = repeated(steps, known)
    last: dict[int, int] = {}  # tensor → number of what runs when it is made
    ranked = []
    for k, op in enumerate(graph.ops):
        number = known.get(k)
        attrs = {**op.attrs, "compiled": k}
        if number is not None:
            step = steps[number]
            attrs |= {"step": number, "again": twice[number]}
            op = replace(op, scope=step.scope, where=step.where or op.where)
        rank = max((-1 if number is None else number, *(last.get(t, -1) for t in op.inputs)))
        last |= dict.fromkeys(op.outputs, rank)
        ranked.append((rank, k, replace(op, attrs=attrs)))
    return replace(graph, ops=tuple(op for _, _, op in sorted(ranked, key=lambda entry: entry[:2])))


def ordered(cut: Graph, graph: Graph) -> Graph:
    """The graph of a cut network in the order of the original's; as it is where they have other ops."""
    order = [op.attrs.get("compiled", k) for k, op in enumerate(graph.ops)]
    if len(order) != len(cut.ops) or any(op.raw != cut.ops[k].raw for k, op in zip(order, graph.ops, strict=True)):
        return cut
    return replace(cut, ops=tuple(cut.ops[k] for k in order))


@dataclass(frozen=True)
class Followed:
    """What came of running a cut network.

    Attributes:
        position: The op at which it fails or gives another shape than the plan implies, where known.
        text: What is wrong; empty where nothing is.
        whole: Whether all its ops were compared.
    """

    position: int | None = None
    text: str = ""
    whole: bool = True


def followed(analysis: Analysis, plan: PruningPlan, small: nn.Cell) -> Followed:
    """Run a cut network op by op, up to where it fails or goes another way than the plan implies."""
    graph, alive = analysis.graph, analysis.coupling.kept_roots(plan)
    positions = {op.attrs["step"]: k for k, op in enumerate(graph.ops) if "step" in op.attrs}
    number, aligned = 0, True

    def check(step: Step) -> None:
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
        return Followed(positions[number], str(error))
    except Exception as error:  # ops raise of every kind
        scope, where = scopes.of_traceback(error)
        exact = positions.get(number) if aligned else None
        position = _position(analysis, exact, number, scope, where)
        return Followed(position, f"{scope or 'the network'} fails: {first_lines(error)}")
    known = all("step" in op.attrs for op in graph.ops if op.kind in LAYERS)
    return Followed(whole=aligned and known and not graph.train_ops)


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


class _Made:
    """Which step made a tensor, told by its values: the framework hands on copies, and uses memory again."""

    def __init__(self) -> None:
        self._count = 0
        self._steps: dict[int, dict[tuple[int, ...], int]] = {}

    def add(self, results: Sequence[ms.Tensor]) -> int:
        """Note what the next step gave; what is returned stands for the first of it."""
        contents = [_content(t) for t in results]
        for t, content in zip(results, contents, strict=True):
            self._steps.setdefault(content, {})[t.shape] = self._count
        self._count += 1
        return contents[0] if contents else 0

    def of(self, t: ms.Tensor) -> int | None:
        """The number of the last step that made a tensor, in its shape or another; None if none is known."""
        steps = self._steps.get(_content(t), {})
        return steps.get(t.shape, max(steps.values(), default=None))


def _content(t: ms.Tensor) -> int:
    return zlib.crc32(np.ascontiguousarray(t.asnumpy()).view(np.uint8).data) if t.size else 0


@contextlib.contextmanager
def _watched(net: nn.Cell, see: Callable[[Step], None], made: _Made | None = None) -> Iterator[None]:
    """Within the context each op that the network runs, op by op and in inference mode, is seen.

    With ``made`` given, steps tell what they read.
    """
    with pynative(), in_mode(net, False), _at_once(), _dispatching(_Scopes(net), see, made):
        yield


def _dispatching(scopes: _Scopes, see: Callable[[Step], None], made: _Made | None) -> Any:
    if Dispatch is None:
        return contextlib.nullcontext()

    class Seen(Dispatch):  # type: ignore[misc, valid-type]
        def __ms_dispatch__(self, func: Any, args: Any, kwargs: Any = None) -> Any:
            # before it runs: it may write in place
            reads = () if made is None else tuple(made.of(t) for t in leaves((args, kwargs)))
            content = 0
            result = func(*args, **kwargs) if kwargs else func(*args)
            found = leaves(result)
            if made is not None:
                content = made.add(found)
            scope, where = scopes.of_stack(sys._getframe(1))
            see(Step(func.name, scope, where, tuple(found[0].shape) if found else None, reads, content))
            return result

    return Seen()


@contextlib.contextmanager
def _at_once() -> Iterator[None]:
    """Within the context an op fails when it is called, not some ops later: else they run behind."""
    before = ms.get_context("pynative_synchronize")
    _synchronize(True)
    try:
        yield
    finally:
        _synchronize(before)


def _synchronize(value: bool) -> None:
    """Set it without MindSpore's advice to call what cannot be taken back, once for each run."""
    logger = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")  # MindSpore's own
    logger.addFilter(_other_than_advice)
    try:
        ms.set_context(pynative_synchronize=value)
    finally:
        logger.removeFilter(_other_than_advice)


def _other_than_advice(record: logging.LogRecord) -> bool:
    return "pynative_synchronize" not in record.getMessage()

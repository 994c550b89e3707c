"""Numbers in the user's own code: how a cut network is made to run although it was written for other widths.

Code such as ``x.view(b, n, 3, self.num_heads, c // self.num_heads)`` is right at full width only. Where a cut
network goes its own way, these are tried in turn: whole numbers that a module keeps are set to the width they
stood for; axes that the code takes for each other are tied; both; numbers and arguments in a method's own code
become attributes of the module and are set (:mod:`prunekit.core.rewriting`). What helps is kept only if the cut
network, run again, then gets further.
"""

from __future__ import annotations

import ast
import linecache
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, product
from pathlib import Path

from prunekit.core._places import (
    TRIES,
    End,
    Integers,
    Place,
    Signature,
    axes,
    chain,
    cuttable,
    end_at,
    further,
    in_family,
    keep,
    ops_of,
)
from prunekit.core._sizes import by_rewriting
from prunekit.core.coupling.groups import Attribute, Coupling, Tie
from prunekit.core.coupling.verify import Mismatch
from prunekit.core.graph import Graph, Op
from prunekit.core.numbers import base_name

__all__ = ["Integers", "Solved", "repair", "shortened", "solved"]

_JOINT = 12  # of them, for attributes that are set together
_WINDOW = 3  # lines of source around the op


@dataclass(frozen=True)
class Solved:
    """A number in the user's own code that stood in the way of a cut.

    Attributes:
        how: ``"attribute"`` (set to a width), ``"tie"`` (axes cut alike), ``"rewritten"`` (an expression in the code
            made an attribute and set) or ``"frozen"`` (channels stay).
        what: The attribute, the axes tied, the expression, or the layer that stays.
        where: ``file.py:line``, where known.
        times: How many layers share the line.
    """

    how: str
    what: str
    where: str
    times: int = 1

    def __str__(self) -> str:
        times = f", {self.times} times" if self.times > 1 else ""
        return f"{self.how}: {self.what}{times}" + (f" ({shortened(self.where)})" if self.where else "")


def repair(
    coupling: Coupling,
    mismatch: Mismatch,
    integers: Integers,
    couple: Callable[[Sequence[Tie]], Coupling],
    run: Callable[[Coupling], Mismatch | None],
) -> tuple[Coupling, Mismatch | None] | None:
    """A coupling with which the cut network gets further, and where it then fails; None if none was found.

    Args:
        coupling: The groups as they are.
        mismatch: Where a network cut by them fails.
        integers: The user's modules and their whole numbers.
        couple: Groups under ties.
        run: Cuts by groups and says where the network fails, if it does.
    """
    op = coupling.graph.all_ops[mismatch.position]
    place = Place(mismatch.position, op, integers, couple, run, [TRIES])
    rings = _read_near(op.where)
    read = set().union(*rings) if rings else None
    for names in rings or (None,):
        found = _by_attributes(place, coupling, names)
        if found is not None:
            return found
    tied: list[Coupling] = []
    for ties in _ties(place, coupling):
        candidate = replace(couple((*coupling.ties, *ties)), attributes=coupling.attributes)
        if place.left[0] <= 0:
            return None
        if not candidate.groups:  # what cannot be cut at all runs, but wins nothing
            continue
        then = place.attempt(candidate)
        if further(then, place.position):
            return candidate, then
        found = _by_attributes(place, candidate, read)
        if found is not None:
            return found
        tied.append(candidate)
    for candidate in (coupling, *tied) if read is not None else ():
        found = _by_attributes(place, candidate, None)
        if found is not None:
            return found
    place = replace(place, left=[TRIES])
    for candidate in (coupling, *tied):
        found = by_rewriting(place, candidate, _by_attributes)
        if found is not None:
            return found
    return None


def solved(coupling: Coupling) -> tuple[Solved, ...]:
    """How the numbers in the user's code were dealt with, one entry for each line of it."""
    found: dict[tuple[str, str, str], int] = {}

    def add(how: str, what: str, where: str) -> None:
        found[how, what, where] = found.get((how, what, where), 0) + 1

    for attribute in coupling.attributes:
        add("rewritten" if attribute.text else "attribute", attribute.text or attribute.name, attribute.where)
    for tie in coupling.ties:
        add("tie", _ends(coupling.graph, tie.axes), tie.where)
    for frozen in coupling.frozen:
        if frozen.reason.startswith("a number in the code"):
            add("frozen", frozen.reason, frozen.where)
    return tuple(Solved(*key, times=n) for key, n in found.items())


def _ends(graph: Graph, axes: Sequence[tuple[int, int]]) -> str:
    lengths = sorted({graph.tensors[tensor].shape[axis] for tensor, axis in axes})
    return f"{len(axes)} axes of {', '.join(map(str, lengths))}"


def shortened(where: str) -> str:
    """The end of a source line's path."""
    return "/".join(Path(where).parts[-2:])


def _by_attributes(place: Place, coupling: Coupling, read: set[str] | None) -> tuple[Coupling, Mismatch | None] | None:
    """Set attributes that the code near reads, or, given None, any of the module's own."""
    return next(filter(None, (keep(place, coupling, a) for a in _attributes(place, coupling, read))), None)


def _attributes(place: Place, coupling: Coupling, read: set[str] | None) -> Iterator[tuple[Attribute, ...]]:
    """Choices of what attributes stand for, in all modules of the same class; those of inner modules first."""
    known = {(a.module, a.name) for a in coupling.attributes}
    modules = [m for m in chain(place.op.scope) if m in place.integers]
    for module in modules if read is not None else modules[:1]:
        names = [
            name
            for name, value in sorted(place.integers[module][1].items())
            if value > 1 and (module, name) not in known and (read is None or base_name(name) in read)
        ]
        if len(names) > 1:
            yield from _jointly(place, coupling, module, names)
        for name in names:
            for signature, axis in axes(coupling, module, place.integers[module][1][name]).items():
                yield in_family(place, coupling, module, name, signature, axis)


def _jointly(place: Place, coupling: Coupling, module: str, names: Sequence[str]) -> Iterator[tuple[Attribute, ...]]:
    """Choices for several attributes at once, among what the op at the place gives and takes."""
    sizes = place.integers[module][1]
    ends: dict[str, list[tuple[Signature, End]]] = {name: [] for name in names}
    parts, whole = _parts(place.op, coupling.graph, module)
    for number, (ordinal, operand, tensor) in enumerate((*parts, *whole)):
        for axis, n in enumerate(coupling.graph.tensors[tensor].shape):
            if not coupling.forms.slope[coupling.forms.axes[tensor][axis]].any():
                continue
            for name in names:
                # elements of a list are likely to be the sizes of the parts, in their order
                fits = "[" not in name or len(parts) == 1 or number == _index(name)
                if sizes[name] == n and fits:
                    ends[name].append(((ordinal, operand, axis), (tensor, axis)))
    wanted = {name: _distinct(coupling, found) for name, found in ends.items() if found}
    if len(wanted) > 1:
        for choice in islice(product(*wanted.values()), _JOINT):
            yield tuple(
                a
                for name, (at, end) in zip(wanted, choice, strict=True)
                for a in in_family(place, coupling, module, name, at, end)
            )


_Operand = tuple[int, int, int]  # op within its module, operand, tensor


def _parts(op: Op, graph: Graph, module: str) -> tuple[list[_Operand], list[_Operand]]:
    """What an op gives, or all ops of its kind that take apart the same tensor; and what it takes."""
    ops = ops_of(graph, module)
    alike = [(k, other) for k, other in enumerate(ops)
             if other is op or (op.kind == other.kind == "slice" and other.inputs[:1] == op.inputs[:1])]  # fmt: skip
    gives = [(k, n, tensor) for k, other in alike for n, tensor in enumerate(other.outputs, len(other.inputs))]
    own = next((k for k, other in alike if other is op), 0)
    return gives, [(own, n, tensor) for n, tensor in enumerate(op.inputs)]


def _index(name: str) -> int:
    return int(name.partition("[")[2][:-1])


def _distinct(coupling: Coupling, found: Sequence[tuple[Signature, End]]) -> list[tuple[Signature, End]]:
    forms = {coupling.forms.axes[tensor][axis]: (at, (tensor, axis)) for at, (tensor, axis) in reversed(found)}
    return list(reversed(forms.values()))


def _ties(place: Place, coupling: Coupling) -> Iterator[list[Tie]]:
    """Axes in the module whose code failed that are not cut alike yet; so in all of its class.

    First those that one line of a loop gives each time, then all of one length.
    """
    for module in chain(place.op.scope):
        if module not in place.integers:
            continue
        family = [m for m, (kind, _) in place.integers.items() if kind == place.integers[module][0] and m != module]
        rounds = _rounds(place, coupling, module)
        if rounds:
            yield [
                tie for m in (module, *family) for places in rounds
                if (tie := _tie(coupling, m, places, place.op.where)) is not None
            ]  # fmt: skip
        lengths: dict[int, list[Signature]] = {}
        for at, _, n in cuttable(coupling, module):
            lengths.setdefault(n, []).append(at)
        for n in sorted(lengths, reverse=True):
            if len(lengths[n]) > 1:
                ties = (_tie(coupling, m, lengths[n], place.op.where) for m in (module, *family))
                yield [tie for tie in ties if tie is not None]


def _rounds(place: Place, coupling: Coupling, module: str) -> list[list[Signature]]:
    """Places of axes that the line of a loop gives each time it runs, where they are not all cut alike."""
    again = [k for k, op in enumerate(ops_of(coupling.graph, module))
             if op.where and op.where == place.op.where and op.raw == place.op.raw
             and len(op.outputs) == len(place.op.outputs)]  # fmt: skip
    found = []
    first = len(place.op.inputs)
    for operand, tensor in enumerate(place.op.outputs, first) if len(again) > 1 else ():
        for axis in range(len(coupling.graph.tensors[tensor].shape)):
            places = [(k, operand, axis) for k in again]
            ends = [entry[0] for at in places if (entry := end_at(coupling, module, at)) is not None]
            forms = {coupling.forms.axes[tensor][axis] for tensor, axis in ends}
            if len(forms) > 1 and all(coupling.forms.slope[form].any() for form in forms):
                found.append(places)
    return found


def _tie(coupling: Coupling, module: str, places: Sequence[Signature], where: str) -> Tie | None:
    """The tie of a module's axes at some places, where all of them are there and have one length."""
    found = [end_at(coupling, module, place) for place in places]
    ends = [entry[0] for entry in found if entry is not None]
    lengths = {entry[1] for entry in found if entry is not None}
    return Tie(tuple(dict.fromkeys(ends)), where) if len(ends) == len(found) and len(lengths) == 1 else None


def _read_near(where: str) -> list[set[str]]:
    """Names in the source near a line, then the attributes that the rest of its function reads; none if unknown."""
    file, _, line = where.rpartition(":")
    if not line.isdigit():
        return []
    lines = (linecache.getline(file, n) for n in range(int(line) - _WINDOW, int(line) + _WINDOW + 1))
    near = {name for text in lines for name in re.findall(r"[^\W\d]\w*", text)}
    rest = _read_in_function(file, int(line)) - near
    return [near, rest] if rest else [near]


@cache
def _read_in_function(file: str, line: int) -> set[str]:
    """The attributes read in the innermost function around a line."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # not Python: a template, a cell with magic commands
        return set()
    around = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
              and node.lineno <= line <= (node.end_lineno or 0)]  # fmt: skip
    inner = max(around, key=lambda node: node.lineno, default=None)
    return {node.attr for node in ast.walk(inner) if isinstance(node, ast.Attribute)} if inner else set()

"""Numbers in the user's own code: how a cut network is made to run although it was written for other widths.

Code such as ``x.view(b, n, 3, self.num_heads, c // self.num_heads)`` is right at full width only. Where a cut
network goes its own way, these are tried in turn: whole numbers that a module keeps are set to the width they
stood for; axes that the code takes for each other are tied; both. What helps is kept only if the cut network,
run again, then gets further.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prunekit.core.coupling.groups import Attribute, Coupling, Tie
from prunekit.core.coupling.verify import Mismatch
from prunekit.core.graph import Graph, Op

__all__ = ["Integers", "Solved", "repair", "shortened", "solved"]

Integers = Mapping[str, tuple[str, Mapping[str, int]]]
"""Module → (name of its class, its attributes that are whole numbers)."""

_TRIES = 48  # dry runs for one place in the code
_WINDOW = 3  # lines of source around the op


@dataclass(frozen=True)
class Solved:
    """A number in the user's own code that stood in the way of a cut.

    Attributes:
        how: ``"attribute"`` (set to a width), ``"tie"`` (axes cut alike) or ``"frozen"`` (channels stay).
        what: The attribute, the layers tied, or the layer that stays.
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


@dataclass(frozen=True)
class _Place:
    """Where a cut network went its own way."""

    position: int
    op: Op
    integers: Integers
    couple: Callable[[Sequence[Tie]], Coupling] = field(repr=False)
    run: Callable[[Coupling], Mismatch | None] = field(repr=False)


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
    place = _Place(mismatch.position, op, integers, couple, run)
    left = [_TRIES]
    found = _by_attributes(place, coupling, left)
    if found is None:
        for ties in _ties(place, coupling):
            if left[0] <= 0:
                break
            tied = replace(couple((*coupling.ties, *ties)), attributes=coupling.attributes)
            if not tied.groups:  # what cannot be cut at all runs, but nothing is won
                continue
            left[0] -= 1
            then = run(tied)
            if _further(then, place.position):
                return tied, then
            found = _by_attributes(place, tied, left)
            if found is not None:
                break
    return found


def solved(coupling: Coupling) -> tuple[Solved, ...]:
    """How the numbers in the user's code were dealt with, one entry for each line of it."""
    found: dict[tuple[str, str, str], int] = {}

    def add(how: str, what: str, where: str) -> None:
        found[how, what, where] = found.get((how, what, where), 0) + 1

    for attribute in coupling.attributes:
        add("attribute", attribute.name, attribute.where)
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


def _further(mismatch: Mismatch | None, position: int) -> bool:
    return mismatch is None or mismatch.position > position


def _by_attributes(place: _Place, coupling: Coupling, left: list[int]) -> tuple[Coupling, Mismatch | None] | None:
    for attributes in _attributes(place, coupling):
        if left[0] <= 0:
            return None
        left[0] -= 1
        new = {(a.module, a.name) for a in attributes}
        kept = tuple(a for a in coupling.attributes if (a.module, a.name) not in new)
        candidate = replace(coupling, attributes=(*kept, *attributes))
        then = place.run(candidate)
        if _further(then, place.position):
            return candidate, then
    return None


def _attributes(place: _Place, coupling: Coupling) -> Iterator[tuple[Attribute, ...]]:
    """Choices of what one attribute stands for, in all modules of the same class; likely ones first."""
    read = _read_near(place.op.where)
    known = {(a.module, a.name) for a in coupling.attributes}
    modules = [m for m in _chain(place.op.scope) if m in place.integers]
    choices = [
        (name not in read, depth, name, module)
        for depth, module in enumerate(modules)
        for name in place.integers[module][1]
        if (module, name) not in known
    ]
    for _, _, name, module in sorted(choices):
        value = place.integers[module][1][name]
        if value < 2:
            continue
        family = [m for m, (kind, numbers) in place.integers.items()
                  if kind == place.integers[module][0] and name in numbers]  # fmt: skip
        for signature, axis in _axes(coupling, module, value).items():
            yield tuple(
                Attribute(m, name, end, place.op.where)
                for m in family
                if (end := axis if m == module else _same(coupling, m, place.integers[m][1][name], signature))
            )


_Signature = tuple[int, int, int]  # op within its module, operand, axis
_End = tuple[int, int]  # tensor, axis


def _cuttable(coupling: Coupling, module: str) -> Iterator[tuple[_Signature, _End, int]]:
    """Axes that can be cut among what a module computes, each form of length once: place, end and length."""
    forms: set[int] = set()
    for ordinal, op in enumerate(_ops_of(coupling.graph, module)):
        for operand, tensor in enumerate((*op.inputs, *op.outputs)):
            for axis, n in enumerate(coupling.graph.tensors[tensor].shape):
                form = coupling.forms.axes[tensor][axis]
                if n > 1 and form not in forms and coupling.forms.slope[form].any():
                    forms.add(form)
                    yield (ordinal, operand, axis), (tensor, axis), n


def _at(coupling: Coupling, module: str, place: _Signature) -> tuple[_End, int] | None:
    """The end at a place of a module and its length, where there is one."""
    ordinal, operand, axis = place
    ops = _ops_of(coupling.graph, module)
    tensors = (*ops[ordinal].inputs, *ops[ordinal].outputs) if ordinal < len(ops) else ()
    shape = coupling.graph.tensors[tensors[operand]].shape if operand < len(tensors) else ()
    return ((tensors[operand], axis), shape[axis]) if axis < len(shape) else None


def _axes(coupling: Coupling, module: str, value: int) -> dict[_Signature, _End]:
    """Distinct axes of a length that can be cut, among what a module computes."""
    return {place: end for place, end, n in _cuttable(coupling, module) if n == value}


def _same(coupling: Coupling, module: str, value: int, place: _Signature) -> _End | None:
    """The end at the same place of another module; else any of that length."""
    found = _at(coupling, module, place)
    if found is not None and found[1] == value:
        return found[0]
    return next(iter(_axes(coupling, module, value).values()), None)


def _ties(place: _Place, coupling: Coupling) -> Iterator[list[Tie]]:
    """Axes of one length in the module whose code failed that are not cut alike yet; so in all of its class."""
    for module in _chain(place.op.scope):
        if module not in place.integers:
            continue
        family = [m for m, (kind, _) in place.integers.items() if kind == place.integers[module][0] and m != module]
        lengths: dict[int, list[_Signature]] = {}
        for at, _, n in _cuttable(coupling, module):
            lengths.setdefault(n, []).append(at)
        for n in sorted(lengths, reverse=True):
            if len(lengths[n]) > 1:
                ties = (_tie(coupling, m, lengths[n], place.op.where) for m in (module, *family))
                yield [tie for tie in ties if tie is not None]


def _tie(coupling: Coupling, module: str, places: Sequence[_Signature], where: str) -> Tie | None:
    """The tie of a module's axes at some places, where all of them are there and have one length."""
    found = [_at(coupling, module, place) for place in places]
    ends = [entry[0] for entry in found if entry is not None]
    lengths = {entry[1] for entry in found if entry is not None}
    return Tie(tuple(dict.fromkeys(ends)), where) if len(ends) == len(found) and len(lengths) == 1 else None


def _ops_of(graph: Graph, module: str) -> list[Op]:
    inside = f"{module}."
    return [op for op in graph.ops if not module or op.scope == module or op.scope.startswith(inside)]


def _chain(scope: str) -> list[str]:
    """A module and those around it, the innermost first."""
    parts = scope.split(".") if scope else []
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _read_near(where: str) -> set[str]:
    """Attributes of ``self`` that the source reads near a line."""
    file, _, line = where.rpartition(":")
    if not line.isdigit():
        return set()
    lines = (linecache.getline(file, n) for n in range(int(line) - _WINDOW, int(line) + _WINDOW + 1))
    return {name for text in lines for name in re.findall(r"self\.(\w+)", text)}

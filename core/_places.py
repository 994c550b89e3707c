"""Places in a network's code where a cut network goes its own way, and what the modules there compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prunekit.core.coupling.groups import Attribute, Coupling, Tie
from prunekit.core.coupling.verify import Mismatch
from prunekit.core.graph import Graph, Op
from prunekit.core.rewriting import is_lifted, text_of

__all__ = [
    "TRIES", "End", "Integers", "Place", "Signature",
    "axes", "chain", "cuttable", "end_at", "further", "in_family", "keep", "ops_of",
]  # fmt: skip

Integers = Mapping[str, tuple[type, Mapping[str, int]]]
"""Module → (its class, its attributes that are whole numbers)."""

TRIES = 48  # dry runs for one place in the code
Signature = tuple[int, int, int]  # op within its module, operand, axis
End = tuple[int, int]  # tensor, axis


@dataclass(frozen=True)
class Place:
    """Where a cut network went its own way."""

    position: int
    op: Op
    integers: Integers
    couple: Callable[[Sequence[Tie]], Coupling] = field(repr=False)
    run: Callable[[Coupling], Mismatch | None] = field(repr=False)
    left: list[int] = field(repr=False)

    def attempt(self, coupling: Coupling) -> Mismatch | None:
        """Where a network cut by a coupling fails: here, when no more runs are left."""
        if self.left[0] <= 0:
            return Mismatch(self.position, "not tried")
        self.left[0] -= 1
        return self.run(coupling)


def further(mismatch: Mismatch | None, position: int) -> bool:
    """Whether a network fails after a position, or not at all."""
    return mismatch is None or mismatch.position > position


def keep(
    place: Place, coupling: Coupling, attributes: tuple[Attribute, ...]
) -> tuple[Coupling, Mismatch | None] | None:
    """The coupling with these attributes set, if the cut network then gets further."""
    if place.left[0] <= 0:
        return None
    new = {(a.module, a.name) for a in attributes}
    kept = tuple(a for a in coupling.attributes if (a.module, a.name) not in new)
    candidate = replace(coupling, attributes=(*kept, *attributes))
    then = place.attempt(candidate)
    return (candidate, then) if further(then, place.position) else None


def in_family(
    place: Place, coupling: Coupling, module: str, name: str, at: Signature, end: End
) -> tuple[Attribute, ...]:
    """An attribute that stands for an axis, in all modules of a class."""
    kind = place.integers[module][0]
    found = []
    for other, (other_kind, numbers) in place.integers.items():
        if other_kind == kind and name in numbers:
            axis = end if other == module else same(coupling, other, numbers[name], at)
            if axis is not None:
                found.append(
                    Attribute(other, name, axis, place.op.where, text_of(kind, name) if is_lifted(name) else "")
                )
    return tuple(found)


def cuttable(coupling: Coupling, module: str) -> Iterator[tuple[Signature, End, int]]:
    """Axes that can be cut among what a module computes, each form of length once: place, end and length."""
    forms: set[int] = set()
    for ordinal, op in enumerate(ops_of(coupling.graph, module)):
        for operand, tensor in enumerate((*op.inputs, *op.outputs)):
            for axis, n in enumerate(coupling.graph.tensors[tensor].shape):
                form = coupling.forms.axes[tensor][axis]
                if n > 1 and form not in forms and coupling.forms.slope[form].any():
                    forms.add(form)
                    yield (ordinal, operand, axis), (tensor, axis), n


def end_at(coupling: Coupling, module: str, place: Signature) -> tuple[End, int] | None:
    """The end at a place of a module and its length, where there is one."""
    ordinal, operand, axis = place
    ops = ops_of(coupling.graph, module)
    tensors = (*ops[ordinal].inputs, *ops[ordinal].outputs) if ordinal < len(ops) else ()
    shape = coupling.graph.tensors[tensors[operand]].shape if operand < len(tensors) else ()
    return ((tensors[operand], axis), shape[axis]) if axis < len(shape) else None


def axes(coupling: Coupling, module: str, value: int) -> dict[Signature, End]:
    """Distinct axes of a length that can be cut, among what a module computes."""
    return {place: end for place, end, n in cuttable(coupling, module) if n == value}


def same(coupling: Coupling, module: str, value: int, place: Signature) -> End | None:
    """The end at the same place of another module; else any of that length."""
    found = end_at(coupling, module, place)
    if found is not None and found[1] == value:
        return found[0]
    return next(iter(axes(coupling, module, value).values()), None)


def ops_of(graph: Graph, module: str) -> list[Op]:
    """What a module computes, those within it included."""
    inside = f"{module}."
    return [op for op in graph.all_ops if not module or op.scope == module or op.scope.startswith(inside)]


def chain(scope: str) -> list[str]:
    """A module and those around it, the innermost first."""
    parts = scope.split(".") if scope else []
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]

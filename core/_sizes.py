"""The next to last resort: numbers and arguments in a method's own code become attributes of the module.

See :mod:`prunekit.core.rewriting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from prunekit.core._places import Place, Signature, chain, end_at, keep, ops_of
from prunekit.core.coupling.groups import Attribute, Coupling
from prunekit.core.coupling.verify import Mismatch
from prunekit.core.rewriting import Size, sizes_at

__all__ = ["by_rewriting"]

Search = Callable[[Place, Coupling, set[str]], tuple[Coupling, Mismatch | None] | None]


def by_rewriting(place: Place, coupling: Coupling, search: Search) -> tuple[Coupling, Mismatch | None] | None:
    """Make attributes of expressions in the statement that failed, and set them.

    Args:
        place: Where the cut network fails.
        coupling: The groups as they are.
        search: Finds out what attributes of a name stand for.
    """
    for module in chain(place.op.scope):
        sizes = sizes_at(place.integers[module][0], place.op.where) if module in place.integers else []
        if not sizes:
            continue
        for given in _arguments(place, coupling, module, sizes):
            found = keep(place, coupling, _lifted(place, coupling, module, given))
            if found is not None:
                return found
        numbers = {size.name: size.value for size in sizes if size.value is not None}
        kind = place.integers[module][0]
        integers = {m: (kind, numbers) for m, (other, _) in place.integers.items() if other is kind}
        found = search(replace(place, integers=integers), coupling, set(numbers))
        if found is not None:
            return found
    return None


def _arguments(place: Place, coupling: Coupling, module: str, sizes: Sequence[Size]) -> Iterator[dict[Size, Signature]]:
    """What arguments stand for, if they are the sizes of an op's first output, or of its outputs along one axis."""
    graph, op = coupling.graph, place.op
    own = next((k for k, other in enumerate(ops_of(graph, module)) if other is op), None)
    shapes = [graph.tensors[tensor].shape for tensor in op.outputs]
    whole = graph.tensors[op.inputs[0]].shape if op.inputs else ()
    split = [axis for axis, (n, m) in enumerate(zip(whole, shapes[0], strict=False)) if n != m] if shapes else []
    for row in range(max((size.row for size in sizes), default=-1) + 1):
        mine = [size for size in sizes if size.row == row]
        choices: list[dict[Size, tuple[int, int]]] = []
        if mine and shapes and mine[0].of == len(shapes[0]):
            # the first axis is the batch, whose size is not the module's to keep
            choices.append({size: (0, size.place) for size in mine if size.place})
        if mine and len(shapes) > 1 and mine[0].of == len(shapes) and len(split) == 1:
            choices.append({size: (size.place, split[0]) for size in mine})
        for choice in choices:
            ends = {
                size: (own, len(op.inputs) + k, axis)
                for size, (k, axis) in choice.items()
                if own is not None and size.value in (None, shapes[k][axis])
                and coupling.forms.slope[coupling.forms.axes[op.outputs[k]][axis]].any()
            }  # fmt: skip
            if ends:
                yield ends


def _lifted(place: Place, coupling: Coupling, module: str, ends: Mapping[Size, Signature]) -> tuple[Attribute, ...]:
    """Attributes for arguments, in all modules of a class that come by the same line."""
    found = []
    for other, (kind, _) in place.integers.items():
        if kind is place.integers[module][0]:
            ops = ops_of(coupling.graph, other)
            for size, (ordinal, operand, axis) in ends.items():
                entry = end_at(coupling, other, (ordinal, operand, axis))
                if entry is not None and ops[ordinal].where == place.op.where:
                    found.append(Attribute(other, size.name, entry[0], place.op.where, size.text))
    return tuple(found)

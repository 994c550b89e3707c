"""Which op of a compiled graph is which of those that ran op by op.

The compiler orders ops anew, computes once what the code computes twice, and adds and drops some. Both say what each
op reads, and that tells ops apart that look alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prunekit.core.graph import Graph, Op

__all__ = ["Step", "numbers", "plain", "repeated"]

_SAME = re.compile(r"^(inplace|reduce)|(ext|view|v[23])+$")  # versions of an op that compute the same
_HIDDEN = 3  # ops in a row that ran and that the compiler merged with others

_Key = tuple[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class Step:
    """An op that ran.

    Attributes:
        op: Its name.
        scope: The innermost cell.
        where: The user's line.
        shape: Of its first result; None where that is no tensor.
        reads: For each tensor that it was given, the number of the step that made it, or None.
        content: Stands for the values of its first result.
    """

    op: str
    scope: str
    where: str
    shape: tuple[int, ...] | None
    reads: tuple[int | None, ...] = ()
    content: int = 0

    @property
    def key(self) -> _Key:
        return plain(self.op), self.shape


def plain(name: str) -> str:
    """An op's name without what tells versions of it apart."""
    return _SAME.sub("", name.lower())


def numbers(graph: Graph, steps: Sequence[Step], results: Sequence[int | None]) -> dict[int, int]:
    """The number of the step for each op of a graph, by its position.

    Args:
        graph: A compiled network.
        steps: What ran, in order.
        results: The steps that made the network's outputs.

    Ops are followed from the outputs back. Of what is not reached so, layers are known by their parameters, and any
    other op is the first like it that ran after those that it depends on and before those that depend on it.
    """
    keys = [_key(graph, op) for op in graph.ops]
    found = _Follow(graph, steps, keys).back(results)
    _layers(graph, steps, keys, found)
    _between(graph, steps, keys, found)
    return found


def repeated(steps: Sequence[Step], found: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """For each step that stands for an op, those that computed the same in the same cell and stand for none."""
    alike: dict[tuple[_Key, str, int], list[int]] = {}
    known = set(found.values())
    for number, step in enumerate(steps):
        if number not in known:
            alike.setdefault((step.key, step.scope, step.content), []).append(number)
    return {n: tuple(alike.get((steps[n].key, steps[n].scope, steps[n].content), ())) for n in known}


def _key(graph: Graph, op: Op) -> _Key | None:
    name = plain(op.raw)
    made = op.kind == "permute" and "matmul" in name  # stands for a flag of the product
    return None if made or not op.outputs else (name, graph.tensors[op.outputs[0]].shape)


class _Follow:
    """Goes through the graph and the run side by side, from results to what made them."""

    def __init__(self, graph: Graph, steps: Sequence[Step], keys: Sequence[_Key | None]) -> None:
        self.graph, self.steps, self.keys = graph, steps, keys
        self.maker = {t: k for k, op in enumerate(graph.ops) for t in op.outputs}
        self.found: dict[int, int] = {}
        self.taken: set[int] = set()

    def back(self, results: Sequence[int | None]) -> dict[int, int]:
        open_ = [(t, n) for t, n in zip(self.graph.outputs, results, strict=False) if n is not None]
        seen: set[tuple[int, int]] = set()
        while open_:
            tensor, step = open_.pop()
            k = self.maker.get(tensor)
            if k is None or k in self.found or (k, step) in seen:
                continue
            seen.add((k, step))
            number = self._like(k, step)
            if number is None:  # the compiler's own
                open_ += [(t, step) for t in self.graph.ops[k].inputs]
            elif number not in self.taken:
                self.found[k] = number
                self.taken.add(number)
                open_ += self._pairs(self.graph.ops[k], self.steps[number])
        return self.found

    def _like(self, k: int, step: int) -> int | None:
        """The closest step that may be an op, from one on back."""
        row = [step]
        for _ in range(_HIDDEN + 1):
            for n in row:
                if self.steps[n].key == self.keys[k]:
                    return n
            row = list(dict.fromkeys(r for n in row for r in self.steps[n].reads if r is not None))
        return None

    @staticmethod
    def _pairs(op: Op, step: Step) -> Iterator[tuple[int, int]]:
        """What an op reads, each with the step that made it; with all that may have, where the counts differ."""
        own = [t for t, name in zip(op.inputs, op.operands, strict=False) if name != "bias"]
        for given in (op.inputs, own):
            if len(given) == len(step.reads):
                return ((t, n) for t, n in zip(given, step.reads, strict=True) if n is not None)
        return ((t, n) for t in op.inputs for n in step.reads if n is not None)


def _layers(graph: Graph, steps: Sequence[Step], keys: Sequence[_Key | None], found: dict[int, int]) -> None:
    """Ops that read a parameter of the cell in which they ran, each as often as it ran."""
    taken = set(found.values())
    ran: dict[tuple[_Key, str], list[int]] = {}
    for number, step in enumerate(steps):
        if number not in taken:
            ran.setdefault((step.key, step.scope), []).append(number)
    read: dict[tuple[_Key, str], list[int]] = {}
    for k, (op, key) in enumerate(zip(graph.ops, keys, strict=True)):
        name = next((graph.tensors[t].name for t in op.inputs if graph.tensors[t].name), "")
        if name and key is not None and k not in found:
            read.setdefault((key, name.rpartition(".")[0]), []).append(k)
    for place, positions in read.items():
        if len(positions) == len(ran.get(place, ())):
            found.update(zip(positions, ran[place], strict=True))


def _between(graph: Graph, steps: Sequence[Step], keys: Sequence[_Key | None], found: dict[int, int]) -> None:
    """Ops between others that are known."""
    ran: dict[_Key, list[int]] = {}
    for number, step in enumerate(steps):
        ran.setdefault(step.key, []).append(number)
    maker = {t: k for k, op in enumerate(graph.ops) for t in op.outputs}
    readers: dict[int, list[int]] = {}
    for k, op in enumerate(graph.ops):
        for t in op.inputs:
            if t in maker:
                readers.setdefault(maker[t], []).append(k)
    taken = set(found.values())
    for k, key in enumerate(keys):
        if key is None or k in found:
            continue
        first = max((found.get(maker[t], -1) for t in graph.ops[k].inputs if t in maker), default=-1)
        last = min((found.get(r, len(steps)) for r in readers.get(k, ())), default=len(steps))
        number = next((n for n in ran.get(key, ()) if first < n < last and n not in taken), None)
        if number is not None:
            found[k] = number
            taken.add(number)

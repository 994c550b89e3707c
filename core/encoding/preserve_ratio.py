"""The preserve ratios of PocketFlow (after He et al., "Channel Pruning", 2017): one per conv, on its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core.convs import conv_macs
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding.base import IntArray, Rank, WidthEncoding
from prunekit.core.errors import PlanError
from prunekit.core.graph import Graph, Op
from prunekit.core.order import run_order
from prunekit.core.plan import PruningPlan

__all__ = ["PreserveRatioEncoding"]

_LOOK_THROUGH = frozenset({"channel_affine", "pool", "identity", "pad"})


@dataclass(frozen=True)
class _Conv:
    """A conv that has a ratio.

    Attributes:
        layer: Dotted name.
        inputs: Number of input channels.
        father: Position of the conv whose outputs reach it unchanged in number and unshared by an
            addition, or None.
        groups: Positions of the channel groups that it reads.
        macs: Multiply-accumulates of one sample.
    """

    layer: str
    inputs: int
    father: int | None
    groups: tuple[int, ...]
    macs: int


class PreserveRatioEncoding(WidthEncoding):
    """One ratio in [0, 1] per conv, in the order of the graph: of ``c`` inputs, ``max(round(c·r), 1)`` stay.

    Grouped and depthwise convs and linear layers have no entry. The first and the last conv keep
    all their inputs, whatever their entry says. In a plan coupled channels live and die together,
    so where several convs read a group the largest ratio counts; what no conv reads stays.

    Args:
        coupling: The network that candidates are cut from.
        rank: Scores per group.

    Raises:
        PlanError: The network has no conv.
    """

    def __init__(self, coupling: Coupling, rank: Rank | None = None) -> None:
        super().__init__(coupling, rank)
        self._convs = _convs(coupling)
        if not self._convs:
            raise PlanError(
                "preserve ratios need convs that are not grouped, got a network without; use another encoding"
            )
        self.layers = tuple(conv.layer for conv in self._convs)
        """Name of the conv of each entry."""
        self.fathers = tuple(conv.father for conv in self._convs)
        """Position of the conv whose outputs an entry's conv reads, or None (the input, or a sum)."""
        self.layer_macs = tuple(conv.macs for conv in self._convs)
        """Multiply-accumulates of each conv, one sample, unpruned."""
        self.length = len(self._convs)
        self._readers: dict[int, list[int]] = {}
        for entry, conv in enumerate(self._convs):
            for position in conv.groups:
                self._readers.setdefault(position, []).append(entry)

    def widths(self, vectors: ArrayLike) -> IntArray:
        """Channels kept per group, ``(n, G)``, of a population ``(n, length)``."""
        ratios = self._forced(vectors)
        result = np.repeat(self.coupling.widths[None], len(ratios), axis=0)
        for position, readers in self._readers.items():
            result[:, position] = _kept(self.coupling.widths[position], ratios[:, readers].max(axis=1))
        return result

    def encode(self, plan: PruningPlan) -> NDArray[np.float64]:
        """The share that each conv keeps of its inputs."""
        plan.check(self.coupling)
        wanted, sizes = plan.widths(self.coupling), self.coupling.widths
        ratios: NDArray[np.float64] = np.ones(self.length)
        for entry, conv in enumerate(self._convs):
            groups = list(conv.groups)
            if groups:
                ratios[entry] = wanted[groups].sum() / sizes[groups].sum()
        forced: NDArray[np.float64] = self._forced(ratios[None])[0]
        return self._checked(plan, forced)

    def kept_inputs(self, vector: ArrayLike) -> IntArray:
        """Input channels that each conv keeps, ``(length,)``, each conv by its own ratio."""
        ratios = self._forced(np.asarray(vector)[None])[0]
        return _kept(np.array([conv.inputs for conv in self._convs]), ratios)

    def strategy(self, vector: ArrayLike) -> NDArray[np.float64]:
        """PocketFlow's own reading: kept shares of inputs and outputs of each conv, ``(length, 2)``.

        A conv loses outputs only where it is the father of another; the last child processed says
        how many.
        """
        inputs = np.array([conv.inputs for conv in self._convs])
        shares = self.kept_inputs(vector) / inputs
        table: NDArray[np.float64] = np.stack([shares, np.ones(self.length)], axis=1)
        for entry, conv in enumerate(self._convs):
            if conv.father is not None:
                table[conv.father, 1] = shares[entry]
        return table

    def strategy_macs(self, strategy: ArrayLike) -> float:
        """Conv-only multiply-accumulates of a strategy, ``(length, 2)``: what PocketFlow calls FLOPs."""
        table = np.asarray(strategy, dtype=np.float64)
        if table.shape != (self.length, 2):
            raise PlanError(f"a strategy has shape ({self.length}, 2) for this model, got {table.shape}")
        return float((np.array(self.layer_macs) * table.prod(axis=1)).sum())

    def _forced(self, vectors: ArrayLike) -> NDArray[np.float64]:
        ratios: NDArray[np.float64] = self._table(vectors, 0.0, 1.0)
        ratios[:, [0, -1]] = 1.0
        return ratios


def _kept(channels: IntArray | np.int64, ratios: NDArray[np.float64]) -> IntArray:
    # 0.1875 × 16 may come out as 3.0000000000000004: only true halves may round to even
    kept: IntArray = np.maximum(np.rint(np.round(channels * ratios, 9)), 1).astype(np.int64)
    return kept


def _convs(coupling: Coupling) -> list[_Conv]:
    graph = coupling.graph
    ordered = [graph.ops[k] for k in run_order(graph)]  # the same entries in every framework
    ops = [op for op in ordered if op.kind == "conv" and int(op.attrs.get("groups", 1)) == 1]
    entry = {op.outputs[0]: k for k, op in enumerate(ops)}
    source = {out: op for op in graph.ops for out in op.outputs}
    reads: dict[str, list[int]] = {}
    for position, group in enumerate(coupling.groups):
        for member in group.consumers:
            reads.setdefault(member.name, []).append(position)
    result = []
    for op in ops:
        weight = graph.tensors[op.operand("weight") or 0]
        inputs = weight.shape[0 if op.attrs.get("transposed") else 1]
        father = _father(graph, op.inputs[0], source, entry)
        result.append(_Conv(op.scope, inputs, father, tuple(reads.get(weight.name, ())), conv_macs(graph, op)))
    return result


def _father(graph: Graph, tensor: int, source: dict[int, Op], entry: dict[int, int]) -> int | None:
    """The conv that a tensor comes from through norms, biases, activations and pools alone."""
    while tensor in source:
        if tensor in entry:
            return entry[tensor]
        op = source[tensor]
        moving = [t for t in op.inputs if graph.tensors[t].role in ("activation", "input")]
        single = op.kind in _LOOK_THROUGH or op.kind == "elementwise"
        if not single or len(moving) != 1:
            return None
        tensor = moving[0]
    return None

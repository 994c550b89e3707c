"""What is counted: every op and parameter as named monomials of axis lengths.

Work counters, each per sample:

============== ======================================================================
counter        counts
============== ======================================================================
conv           multiply-accumulates of convolutions
linear         multiply-accumulates of linear layers
matmul         multiply-accumulates of matmul, einsum and attention
conv_bias      outputs of convolutions with a bias
linear_bias    outputs of linear layers with a bias (rows of tokens included)
batch_norm     outputs of norms with running statistics
scale          outputs of other per-channel affine ops (PReLU)
activation     outputs of ReLU and ReLU6
elementwise    outputs of all other elementwise ops
layer_norm     outputs of layer and group norms
softmax        outputs of softmax, weights of attention included
reduce         inputs of sums and the like
average_pool   inputs of average pools and means over space
max_pool       window cells of max pools, all windows together
resize         outputs of up-sampling
============== ======================================================================

Parameter counters: ``weight`` (of conv and linear), ``bias`` (of conv and linear), ``other`` (all
but ``weight``), ``norm_channel`` (channels of norms with running statistics). Byte counters:
``memory`` (each result once) and ``bandwidth`` (each operand read, each result written). Ops that
only rearrange give views: they hold and move no bytes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prunekit.core.coupling.groups import AxisForms
from prunekit.core.graph import Graph, Op

__all__ = ["Counter", "Monomial"]

_VIEWS = frozenset({"identity", "reshape", "permute", "expand", "slice"})
_AFFINE = frozenset({"conv", "linear"})


@dataclass(frozen=True, slots=True)
class Monomial:
    """``coefficient`` × the product of some axis lengths.

    Attributes:
        counter: What it counts.
        owner: Dotted name of the layer.
        coefficient: Constant factor, for the whole batch.
        factors: Sorted ids of the forms of the axes that vary.
    """

    counter: str
    owner: str
    coefficient: int
    factors: tuple[int, ...]


class Counter:
    """Turns a graph into monomials.

    Args:
        graph: A traced network.
        forms: Its axis lengths.
        batch: Samples in the traced input.
    """

    def __init__(self, graph: Graph, forms: AxisForms, batch: int) -> None:
        self._graph = graph
        self._batch = batch
        self._axes = forms.axes
        self._varies = forms.slope.any(axis=1)
        self._base = forms.base
        self._per_sample = _moving(graph)

    def monomials(self) -> Iterator[Monomial]:
        """Those of parameters and arithmetic."""
        yield from self._parameters()
        for op in self._graph.ops:
            yield from self._work(op)

    def traffic(self) -> Iterator[Monomial]:
        """Those of memory and bandwidth."""
        for op in self._graph.ops:
            yield from self._bytes(op)

    def _monomial(
        self, counter: str, owner: str, shape: Sequence[tuple[int, int]], times: int = 1, sample: bool = True
    ) -> Monomial:
        """The product of axes, given as (tensor, axis), and a constant, in the whole batch.

        Where the samples are follows from no shape: rows × channels merge to an axis that varies with the channels.
        So what is done once for all samples counts for each of them, and sums are divided by their number.
        """
        factors = []
        for tensor, axis in shape:
            known = self._axes.get(tensor)
            if known is not None and self._varies[known[axis]]:
                factors.append(known[axis])
            else:
                times *= self._graph.tensors[tensor].shape[axis]
        if not sample:
            times *= self._batch
        return Monomial(counter, owner, times, tuple(sorted(factors)))

    def _all_axes(self, tensor: int) -> list[tuple[int, int]]:
        return [(tensor, axis) for axis in range(len(self._graph.tensors[tensor].shape))]

    def _numel(self, counter: str, owner: str, tensor: int, times: int = 1) -> Monomial:
        return self._monomial(counter, owner, self._all_axes(tensor), times, sample=tensor in self._per_sample)

    def _parameters(self) -> Iterator[Monomial]:
        weights: set[int] = set()
        biases: set[int] = set()
        for op in self._graph.all_ops:
            if op.kind in _AFFINE:
                weights.update(t for t in [op.operand("weight")] if t is not None)
                biases.update(t for t in [op.operand("bias")] if t is not None)
        for name, tensor in self._graph.parameters().items():
            owner = name.rpartition(".")[0]
            yield self._numel("weight" if tensor.id in weights else "other", owner, tensor.id)
            if tensor.id in biases:
                yield self._numel("bias", owner, tensor.id)
        means = {op.operand("mean") for op in self._graph.all_ops if op.kind == "channel_affine"}
        for mean in sorted(t for t in means if t is not None):
            yield self._numel("norm_channel", self._graph.tensors[mean].name.rpartition(".")[0], mean)

    def _work(self, op: Op) -> Iterator[Monomial]:
        if not op.outputs or not op.inputs:
            return
        out = op.outputs[0]
        if op.kind in _AFFINE:
            yield from self._affine(op, out)
        elif op.kind in ("matmul", "einsum", "attention"):
            yield from self._products(op, out)
        elif op.kind == "pool" or op.kind == "reduce":
            yield self._pool(op, out)
        elif op.kind == "channel_affine":
            yield self._numel("scale" if op.operand("mean") is None else "batch_norm", op.scope, out)
        elif op.kind in ("layer_norm", "group_norm"):
            yield self._numel("layer_norm", op.scope, out)
        elif op.kind == "softmax":
            yield self._numel("softmax", op.scope, out)
        elif op.kind == "elementwise" and "dropout" not in op.raw.lower():
            yield self._numel("activation" if _is_relu(op) else "elementwise", op.scope, out)

    def _affine(self, op: Op, out: int) -> Iterator[Monomial]:
        weight = op.operand("weight")
        if weight is None:
            return
        # every weight is used once at each position: of the input where it is transposed
        if op.kind == "conv":
            field = op.inputs[0] if op.attrs.get("transposed") else out
            shape = self._all_axes(field)
            spatial = int(op.attrs.get("spatial", len(shape) - 2))
            positions = shape[: max(len(shape) - spatial - 1, 0)] + shape[len(shape) - spatial :]
        else:
            positions = self._all_axes(out)[:-1]
        sample = out in self._per_sample
        yield self._monomial(op.kind, op.scope, self._all_axes(weight) + positions, sample=sample)
        if op.operand("bias") is not None:
            yield self._numel(f"{op.kind}_bias", op.scope, out)

    def _products(self, op: Op, out: int) -> Iterator[Monomial]:
        sample = out in self._per_sample
        if op.kind == "einsum":
            yield self._monomial("matmul", op.scope, _einsum_axes(op, self._graph), sample=sample)
            return
        first = self._all_axes(op.inputs[0])
        if op.kind == "matmul":
            yield self._monomial("matmul", op.scope, [*self._all_axes(out), first[-1]], sample=sample)
            return
        key = self._all_axes(op.inputs[1])
        value = self._all_axes(op.inputs[2])
        scores = [*first[:-1], key[-2]]
        yield self._monomial("matmul", op.scope, [*scores, first[-1]], sample=sample)
        yield self._monomial("matmul", op.scope, [*scores, value[-1]], sample=sample)
        yield self._monomial("softmax", op.scope, scores, sample=sample)

    def _pool(self, op: Op, out: int) -> Monomial:
        raw = op.raw.lower()
        if "upsample" in raw or "resize" in raw or "interpolate" in raw or "pad" in raw:
            return self._numel("resize", op.scope, out)
        average = "avg" in raw or "mean" in raw
        window = op.attrs.get("window")
        if op.kind == "pool" and window and not average:
            return self._numel("max_pool", op.scope, out, times=math.prod(window))
        if op.kind == "pool":
            return self._numel("average_pool" if average else "max_pool", op.scope, op.inputs[0])
        return self._numel("average_pool" if average else "reduce", op.scope, op.inputs[0])

    def _bytes(self, op: Op) -> Iterator[Monomial]:
        if op.kind in _VIEWS:
            return
        tensors = self._graph.tensors
        for tensor in op.outputs:
            yield self._numel("memory", op.scope, tensor, times=tensors[tensor].itemsize)
        for tensor in (*op.inputs, *op.outputs):
            yield self._numel("bandwidth", op.scope, tensor, times=tensors[tensor].itemsize)


def _moving(graph: Graph) -> set[int]:
    """Tensors that depend on the network's inputs."""
    moving = np.zeros(len(graph.tensors), dtype=bool)
    moving[list(graph.inputs)] = True
    for op in graph.all_ops:
        if op.inputs and moving[list(op.inputs)].any():
            moving[list(op.outputs)] = True
    return {int(t) for t in np.flatnonzero(moving)}


def _is_relu(op: Op) -> bool:
    raw = op.raw.lower()
    return len(op.inputs) == 1 and ("hardtanh" in raw or ("relu" in raw and "leaky" not in raw and "rrelu" not in raw))


def _einsum_axes(op: Op, graph: Graph) -> list[tuple[int, int]]:
    """One axis for each distinct index of the equation, as (tensor, axis)."""
    left = str(op.attrs.get("equation", "")).replace(" ", "").partition("->")[0]
    found: dict[str, tuple[int, int]] = {}
    for letters, tensor in zip(left.split(","), op.inputs, strict=False):
        rank = len(graph.tensors[tensor].shape)
        before, dots, after = letters.partition("...")
        hidden = rank - len(before) - len(after) if dots else 0
        # the axes behind an ellipsis are lined up from the right
        names = [*before, *(f".{hidden - k}" for k in range(hidden)), *after]
        for axis, name in enumerate(names):
            length = graph.tensors[tensor].shape[axis]
            if name not in found or (length > 1 and graph.tensors[found[name][0]].shape[found[name][1]] == 1):
                found[name] = (tensor, axis)
    return list(found.values())

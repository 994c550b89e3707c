"""The layers that read channel groups: what is known of them from the graph, and what a first batch shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.channel_pruning.moments import FloatArray, IntArray
from prunekit.algorithms.channel_pruning.shortcuts import Shortcut, shortcut_of
from prunekit.core.backend import Backend, State, Tap
from prunekit.core.coupling.groups import Coupling
from prunekit.core.errors import InputError
from prunekit.core.graph import Graph, Op
from prunekit.core.order import run_order
from prunekit.core.patches import LayerWindow

__all__ = ["Norm", "Reader", "find_readers", "probe"]

_MOST_COLUMNS = 1 << 13
_CLOSE = 1e-3
_TINY_SCALE = 1e-6


@dataclass(frozen=True)
class Norm:
    """A batch norm that directly follows a layer and alone reads its outputs: names of what it holds.

    Attributes:
        layer: Dotted name.
        gain: Its weight.
        shift: Its bias.
        mean: Its running mean.
        var: Its running variance.
    """

    layer: str
    gain: str
    shift: str
    mean: str
    var: str


@dataclass(frozen=True)
class Reader:
    """A conv or linear layer that reads a channel group.

    Attributes:
        layer: Dotted name.
        position: Of its op in :func:`~prunekit.core.order.run_order`.
        weight: Name of its weight.
        groups: Input channels of each channel of a group, ``(size, k)``, by the group's name.
        window: How its outputs depend on its inputs; None where that is not known.
        bias: Name of its bias, if it has one.
        norm: The batch norm that follows, if one does.
        shortcut: The other addend of the sum that its outputs reach, if they reach one.
        reason: Why its weights cannot be fitted; empty where they can.
        scale: What the norm multiplies each output by, ``(O,)``: 1 without a norm.
        eps: The number that the norm adds to variances.
    """

    layer: str
    position: int
    weight: str
    groups: Mapping[str, IntArray] = field(repr=False)
    window: LayerWindow | None = None
    bias: str | None = None
    norm: Norm | None = None
    shortcut: Shortcut | None = None
    reason: str = ""
    scale: FloatArray = field(repr=False, default_factory=lambda: np.ones(0))
    eps: float = 0.0

    @property
    def centred(self) -> bool:
        """Whether the mean of its outputs is free: a bias or a norm takes it up."""
        return self.norm is not None or self.bias is not None


def find_readers(coupling: Coupling) -> tuple[Reader, ...]:
    """Every layer that reads a group, in an order in which they may run."""
    graph = coupling.graph
    groups: dict[str, dict[str, IntArray]] = {}
    for group in coupling.groups:
        for member in group.consumers:
            groups.setdefault(member.name, {})[group.name] = member.indices
    uses = Counter(t for op in graph.all_ops for t in set(op.inputs))
    found: dict[str, Reader] = {}
    for position, number in enumerate(run_order(graph)):
        op = graph.ops[number]
        for tensor in op.inputs:
            name = graph.tensors[tensor].name
            if name in groups and name not in found:
                found[name] = _reader(graph, op, position, name, groups[name], uses)
    return tuple(found.values())


def _reader(
    graph: Graph, op: Op, position: int, name: str, groups: Mapping[str, IntArray], uses: Counter[int]
) -> Reader:
    layer = name.rpartition(".")[0]
    reader = Reader(layer, position, name, groups)
    window = LayerWindow.of(graph, op)
    weight = op.operand("weight")
    if window is None or weight is None or graph.tensors[weight].name != name:
        return replace(reader, reason="it is no plain conv or linear layer")
    if uses[weight] > 1:
        return replace(reader, reason="its weight is used more than once")
    if int(np.prod(graph.tensors[weight].shape[1:])) > _MOST_COLUMNS:
        return replace(reader, reason=f"each of its outputs has more than {_MOST_COLUMNS} weights")
    bias = op.operand("bias")
    own = bias is not None and graph.tensors[bias].role == "parameter" and uses[bias] == 1
    if bias is not None and not own:
        return replace(reader, reason="its bias is not its own")
    norm, shortcut = _norm(graph, op, uses), shortcut_of(graph, op, run_order(graph))
    if norm is None and shortcut is not None and shortcut.normed:  # what that norm multiplies by is not known
        shortcut = replace(shortcut, tap=None)
    own_bias = graph.tensors[bias].name if bias is not None else None
    return replace(reader, window=window, bias=own_bias, norm=norm, shortcut=shortcut)


def _norm(graph: Graph, op: Op, uses: Counter[int]) -> Norm | None:
    """The batch norm that directly follows, if it is used once and has all that a batch norm has."""
    output = op.outputs[0]
    [*readers] = [other for other in graph.all_ops if output in other.inputs]
    if len(readers) != 1 or output in graph.outputs or readers[0].kind != "channel_affine":
        return None
    norm = readers[0]
    names = []
    for operand in ("weight", "bias", "mean", "var"):
        tensor = norm.operand(operand)
        if tensor is None or uses[tensor] != 1 or not graph.tensors[tensor].name:
            return None
        names.append(graph.tensors[tensor].name)
    return Norm(names[0].rpartition(".")[0], *names)


def probe(backend: Backend, model: Any, state: State, batch: Any, readers: Sequence[Reader]) -> list[Reader]:
    """What a first batch shows of layers: whether their outputs are those of their weights, and what their norms do.

    Args:
        backend: The backend.
        model: The base network.
        state: Its state.
        batch: One batch.
        readers: As the graph has them.

    Returns:
        The layers with ``scale`` and ``eps``, or with the reason why their weights cannot be fitted.

    Raises:
        InputError: What one reads or gives is not finite.
    """
    layers = [r.layer for r in readers if r.window] + [r.norm.layer for r in readers if r.norm]
    try:
        taps: list[Tap] = [(layer, side) for layer in layers for side in ("input", "output")]
        maps = backend.feature_maps(model, batch, taps) if taps else {}
    except InputError as error:
        if len(readers) == 1:
            return [_without(readers[0], f"it cannot be watched ({error})")]
        return [found for reader in readers for found in probe(backend, model, state, batch, [reader])]
    return [_probed(reader, maps, state) for reader in readers]


def _probed(reader: Reader, maps: Mapping[Tap, NDArray[Any]], state: State) -> Reader:
    window = reader.window
    if window is None:
        return reader
    inputs, outputs = maps[reader.layer, "input"], maps[reader.layer, "output"]
    for values in (inputs, outputs):
        check_finite(reader.layer, values)
    try:
        positions = window.positions(outputs, 8, np.random.default_rng(reader.position))
        given = window.answers(outputs, positions)
        computed = window.rows(inputs, positions) @ window.matrix(np.asarray(state[reader.weight])).T
    except (ValueError, IndexError, KeyError) as error:
        return _without(reader, f"its inputs and outputs do not fit its weight ({error})")
    if reader.bias is not None:
        computed = computed + state[reader.bias]
    if given.shape != computed.shape or not _alike(given, computed):
        return _without(reader, "its outputs are not those of its weight")
    ones = np.ones(given.shape[1])
    if reader.norm is None:
        return replace(reader, scale=ones)
    before, after = maps[reader.norm.layer, "input"], maps[reader.norm.layer, "output"]
    check_finite(reader.norm.layer, after)
    norm = _measured(reader.norm, before, after, state)
    if norm is None or not np.array_equal(before, outputs):
        return replace(reader, norm=None, shortcut=None, scale=ones)
    return replace(reader, scale=norm[0], eps=norm[1])


def check_finite(layer: str, values: NDArray[Any]) -> None:
    """Make sure that a layer's values are numbers.

    Raises:
        InputError: One is not.
    """
    if not np.isfinite(values).all():
        raise InputError(
            f"activations must be finite, got NaN or infinity at layer {layer!r}; are the base network's weights and "
            "the data finite?"
        )


def _without(reader: Reader, reason: str) -> Reader:
    return replace(reader, window=None, norm=None, shortcut=None, reason=reason)


def _alike(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return bool(np.abs(left - right).max(initial=0) <= _CLOSE * max(np.abs(left).max(initial=0), 1e-6))


def _measured(norm: Norm, inputs: NDArray[Any], outputs: NDArray[Any], state: State) -> tuple[FloatArray, float] | None:
    """What a norm multiplies its channels by, and the number it adds to variances; None where it is no such norm.

    The graph does not tell that number, so it is found from a channel that varies: with it the norm must give what it
    gave.
    """
    names = (norm.gain, norm.shift, norm.mean, norm.var)
    gain, shift, mean, var = (np.asarray(state[name], dtype=np.float64) for name in names)
    x = np.moveaxis(inputs, 1, -1).reshape(-1, len(gain)).astype(np.float64)
    z = np.moveaxis(outputs, 1, -1).reshape(-1, len(gain)).astype(np.float64)
    spread = x.var(axis=0)
    sound = np.flatnonzero((np.abs(gain) > _TINY_SCALE) & (spread > 1e-12 * (1 + mean**2)))
    eps = 0.0
    if len(sound):
        slope = ((x - x.mean(axis=0)) * (z - z.mean(axis=0))).mean(axis=0)[sound] / spread[sound]
        each = (gain[sound] / np.where(slope == 0, np.inf, slope)) ** 2 - var[sound]
        eps = max(float(each[np.argmin(var[sound])]), 0.0)
    scale = gain / np.sqrt(np.maximum(var + eps, 1e-30))
    return (scale, eps) if _alike(z, scale * (x - mean) + shift) else None

"""What a conv or linear layer reads and gives at a few positions: the rows that channel pruning fits weights to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.graph import Graph, Op

__all__ = ["LayerWindow"]

FloatArray = NDArray[Any]


@dataclass(frozen=True)
class LayerWindow:
    """How the outputs of a layer depend on its inputs.

    ``rows(x) @ matrix(weight).T`` are the layer's outputs, without its bias, at some positions.

    Attributes:
        layer: Dotted name.
        kernel: Kernel size per spatial axis, ``()`` for a linear layer.
        stride: Step per spatial axis.
        padding: Zeros (before, after) per spatial axis.
        dilation: Distance of the kernel's cells per spatial axis.
    """

    layer: str
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()

    @classmethod
    def of(cls, graph: Graph, op: Op) -> LayerWindow | None:
        """The window of an op; None where the op is no plain conv or linear layer with a weight of its own."""
        position = op.operand("weight")
        if op.kind not in ("conv", "linear") or position is None or graph.tensors[position].role != "parameter":
            return None
        weight = graph.tensors[position]
        layer = weight.name.rpartition(".")[0]
        if op.kind == "linear":
            return None if op.attrs.get("transposed") else cls(layer)
        known = "stride" in op.attrs and not op.attrs.get("transposed")
        if not known or int(op.attrs.get("groups", 1)) != 1:
            return None
        return cls(layer, weight.shape[2:], op.attrs["stride"], op.attrs["padding"], op.attrs["dilation"])

    def positions(self, output: FloatArray, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Random positions in the outputs, ``(count, axes)``: of a conv spatial ones, of a linear layer those of the
        axes between the first and the last."""
        free = output.shape[2:] if self.kernel else output.shape[1:-1]
        if not free:
            return np.zeros((1, 0), dtype=np.int64)
        return np.stack([rng.integers(0, size, count) for size in free], axis=1)

    def rows(self, inputs: FloatArray, positions: NDArray[np.int64]) -> FloatArray:
        """What the layer reads at the positions, ``(N · P, C · K)``: channel by channel, the kernel's cells of each.

        Args:
            inputs: The layer's input, ``(N, C, …)`` of a conv, ``(N, …, C)`` of a linear layer.
            positions: Positions in its output, ``(P, axes)``.
        """
        if not self.kernel:
            return _at(inputs, 1, positions.T).reshape(-1, inputs.shape[-1])
        padded = np.pad(inputs, ((0, 0), (0, 0), *self.padding))
        cells = np.array(list(product(*(range(k) for k in self.kernel)))) * np.array(self.dilation)
        at = (positions * np.array(self.stride))[:, None] + cells[None]  # (P, K, axes)
        read = _at(padded, 2, np.moveaxis(at, -1, 0))  # (N, C, P, K)
        return read.transpose(0, 2, 1, 3).reshape(-1, read.shape[1] * read.shape[3])

    def answers(self, outputs: FloatArray, positions: NDArray[np.int64]) -> FloatArray:
        """What the layer gives at the positions, ``(N · P, O)``."""
        if not self.kernel:
            return _at(outputs, 1, positions.T).reshape(-1, outputs.shape[-1])
        return _at(outputs, 2, positions.T).transpose(0, 2, 1).reshape(-1, outputs.shape[1])

    def matrix(self, weight: FloatArray) -> FloatArray:
        """A weight ``(O, C, *kernel)`` as ``(O, C · K)``."""
        return weight.reshape(len(weight), -1)

    def columns(self, channels: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Columns of the rows that belong to input channels: ``(channels, K)``."""
        cells = int(np.prod(self.kernel, dtype=np.int64))
        return np.asarray(channels, dtype=np.int64)[:, None] * cells + np.arange(cells)


def _at(array: FloatArray, axis: int, positions: NDArray[np.int64]) -> FloatArray:
    """An array's values at positions ``(axes, …)`` along the axes from ``axis`` on."""
    return array[(slice(None),) * axis + tuple(positions)]

"""A graph in the making: what every backend's tracer writes into."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import Self

from prunekit.core.graph import Graph, Op, Tensor

__all__ = ["GraphBuilder"]


class GraphBuilder:
    """Gathers the tensors and ops of a pass in inference mode and, where it is needed, of one in training mode.

    Attributes:
        tensors: All tensors so far, by id.
        ops: All ops so far.
        inputs: Ids of the network's inputs.
        outputs: Ids of the network's outputs.
        inference_ops: How many ops belong to the first pass; None while it runs.
        names: Names of the parameters, in the order the model registers them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.inference_ops: int | None = None
        self.names = list(names)

    def continue_in(self, other: Self) -> Self:
        """Let another builder, which knows the same parameters, go on from here with another pass."""
        other.tensors, other.ops = list(self.tensors), list(self.ops)
        other.inputs, other.outputs = list(self.inputs), list(self.outputs)
        other.inference_ops = len(self.ops)
        return other

    def adopt(self, other: Self) -> None:
        """Take over what another builder added."""
        self.tensors, self.ops, self.outputs = other.tensors, other.ops, other.outputs
        self.inference_ops = other.inference_ops

    def unreached(self) -> list[str]:
        """Parameters that no op has read."""
        read = {t for op in self.ops for t in op.inputs}
        return [t.name for t in self.tensors if t.role == "parameter" and t.id not in read]

    def graph(self) -> Graph:
        """What was gathered so far."""
        split = len(self.ops) if self.inference_ops is None else self.inference_ops
        return Graph(
            tensors=tuple(self.tensors),
            ops=tuple(self.ops[:split]),
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            train_ops=tuple(self.ops[split:]),
            unreached=tuple(self.unreached()),
            names=tuple(self.names),
        )

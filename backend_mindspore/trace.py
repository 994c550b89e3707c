"""Trace a MindSpore network into a Graph: compile it to MindIR and read that."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from prunekit.backend_mindspore._aligning import plain
from prunekit.backend_mindspore._batches import pynative
from prunekit.backend_mindspore._mindir import compiled, first_lines, in_mode
from prunekit.backend_mindspore._names import is_statistic, parameters
from prunekit.backend_mindspore._op_table import Call, Value, tensors
from prunekit.backend_mindspore._ops import describe
from prunekit.backend_mindspore._proto import Node, nodes, results
from prunekit.backend_mindspore._proto import parameters as proto_parameters
from prunekit.core.errors import TraceError
from prunekit.core.graph import Graph, Op, Tensor
from prunekit.core.graph_builder import GraphBuilder

__all__ = ["call", "leaves", "positional", "trace"]

_DIVISIONS = frozenset(["div", "divs", "realdiv"])
_PASSING = frozenset(["Load", "Depend"])
_MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
_TUPLES = frozenset(["MakeTuple", "make_list", "MakeList", "make_tuple"])


def trace(net: nn.Cell, example: Any) -> Graph:
    """Compile ``net`` once, in inference mode, and write down what it computes.

    Args:
        net: Any cell; it is not changed.
        example: One input, a tuple of positional inputs, or a dict of keyword inputs.

    Returns:
        The graph of inference; ops of training mode are added where they reach more parameters.

    Raises:
        TraceError: The network cannot be compiled for the example.
    """
    inputs = positional(net, example)
    reader = _Reader(net)
    with in_mode(net, False):
        reader.read(_proto(net, inputs))
    if reader.unreached():
        _read_training(net, inputs, reader)
    return reader.graph()


def _read_training(net: nn.Cell, inputs: tuple[Any, ...], reader: _Reader) -> None:
    doubled = tuple(_doubled(x) for x in inputs)
    before = reader.unreached()
    other = reader.fork()
    try:
        with in_mode(net, True):
            other.read(_proto(net, doubled))
    except TraceError:
        return
    if len(other.unreached()) < len(before):
        reader.adopt(other)


def _proto(net: nn.Cell, inputs: tuple[Any, ...]) -> Any:
    try:
        return compiled(net, inputs)
    except Exception as error:  # the compiler raises of every kind
        shapes = [tuple(x.shape) for x in inputs if isinstance(x, ms.Tensor)]
        raise TraceError(
            f"the model must compile for the example (shapes {shapes}), got {type(error).__name__}: "
            f"{first_lines(error)}; {_advice(net, inputs)}"
        ) from error


def _advice(net: nn.Cell, inputs: tuple[Any, ...]) -> str:
    """What to do about a network that does not compile."""
    expected = "give an example of the shape and type that the model expects"
    if net.training:  # a run would change it
        return expected
    try:
        with pynative():
            net(*inputs)
    except Exception:  # ops raise of every kind
        return f"it does not run in PYNATIVE mode either: {expected}"
    return "it does run in PYNATIVE mode: write that place so that GRAPH mode takes it"


def _places(net: nn.Cell) -> dict[str, str]:
    """For each cell, the nearest one of the user's own around it, and the way from there: a place in the code."""
    places: dict[str, str] = {}
    for name, cell in net.cells_and_names():
        kind = type(cell)
        own = not kind.__module__.startswith("mindspore.")
        parent, _, last = name.rpartition(".")
        above = places.get(parent, "")
        places[name] = f"{kind.__module__}.{kind.__qualname__}:" if own or not name else f"{above}{last}."
    return places


def positional(net: nn.Cell, example: Any) -> tuple[Any, ...]:
    """An example as positional arguments of ``construct``."""
    if isinstance(example, dict):
        import inspect

        bound = inspect.signature(net.construct).bind(**example)
        bound.apply_defaults()
        example = bound.args
    values = example if isinstance(example, tuple | list) else (example,)
    return tuple(ms.Tensor(x) if isinstance(x, np.ndarray) else x for x in values)


def call(net: nn.Cell, inputs: Any) -> Any:
    """Outputs for one tensor, a tuple of positional inputs, or a dict of keyword inputs."""
    return net(*positional(net, inputs))


def leaves(value: Any) -> list[ms.Tensor]:
    """All tensors of a network's answer or of an op's arguments, in order."""
    if isinstance(value, ms.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [t for part in parts for t in leaves(part)]


def _doubled(x: Any) -> Any:
    return ms.Tensor(np.concatenate([x.asnumpy()] * 2)) if isinstance(x, ms.Tensor) and x.ndim else x


class _Reader(GraphBuilder):
    """Turns MindIR nodes into ops."""

    def __init__(self, net: nn.Cell) -> None:
        super().__init__(name for name in parameters(net) if not is_statistic(name))
        self.net = net
        self.by_ref: dict[str, int] = {}
        self.env: dict[str, Any] = {}
        self.places = _places(net)
        self.layers: dict[int, int] = {}  # result → position of a layer whose bias may yet come
        for name, parameter in parameters(net).items():
            role = "buffer" if is_statistic(name) else "parameter"
            self.by_ref[parameter.name] = self._new(tuple(parameter.shape), parameter.itemsize, role, name).id

    def fork(self) -> _Reader:
        """A reader that continues this one with another graph."""
        return self.continue_in(_Reader(self.net))

    def read(self, model: Any) -> None:
        """Read all nodes of a compiled network."""
        first = self.inference_ops is None
        for name, ref in proto_parameters(model).items():
            number = self.by_ref.get(ref)
            if number is not None:
                self.env[name] = Value(number, self.tensors[number].shape)
        for entry in model.graph.input:
            shape = tuple(int(d) for d in entry.tensor[0].dims) if entry.tensor else ()
            self.env[entry.name] = value = self._new(shape, 4, "input")
            if first:
                self.inputs.append(value.id)
        for node, name, value in nodes(model):
            if node is None:
                self.env[name] = value
            else:
                self._node(node)
        self.outputs += [t.id for name in results(model) for t in tensors(self.env.get(name))]

    def _new(self, shape: tuple[int, ...], itemsize: int = 4, role: Any = "activation", name: str = "") -> Value:
        self.tensors.append(Tensor(len(self.tensors), shape, role, name, itemsize))
        return Value(len(self.tensors) - 1, shape)

    def _node(self, node: Node) -> None:
        env = self.env
        if node.op == "UpdateState":
            return
        if node.op in _PASSING:
            env[node.output] = env.get(node.inputs[0])
        elif node.op == "Cast" and self._is_weight(env.get(node.inputs[0])):
            # mixed precision casts weights where they are used
            env[node.output] = env[node.inputs[0]]
        elif node.op in _TUPLES:
            env[node.output] = tuple(env.get(name) for name in node.inputs)
        elif node.op in ("TupleGetItem", "tuple_getitem"):
            env[node.output] = env[node.inputs[0]][int(env[node.inputs[1]])]
        elif node.op in ("BiasAdd",) and self._fuse(node):
            return
        elif node.op == "StridedSlice":
            self._strided_slice(node)
        elif node.op in ("MatMul", "BatchMatMul", "MatMulExt", "BatchMatMulExt", "MatMulV2"):
            self._matmul(node)
        else:
            self._record(node, tuple(self._argument(env.get(name)) for name in node.inputs))

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, Value) and self.tensors[value.id].role in ("parameter", "buffer")

    def _argument(self, value: Any) -> Any:
        """Arrays of more than one number become tensors of the graph; single ones are numbers."""
        if isinstance(value, np.ndarray):
            if value.size == 1 and np.issubdtype(value.dtype, np.number):
                return float(value.ravel()[0])
            return self._new(value.shape, value.itemsize, "constant")
        if isinstance(value, tuple) and not isinstance(value, Value):
            return tuple(self._argument(v) for v in value)
        return value

    def _record(self, node: Node, args: tuple[Any, ...], op: str | None = None) -> None:
        outputs = tuple(self._new(shape, size) for shape, size in node.shapes)
        call_ = Call(op or node.op, args, node.attrs, outputs)
        seen = describe(call_)
        share = self._share(call_)
        if share is not None:
            seen.attrs.update(numbers=(), share=share)
        self.env[node.output] = outputs if node.many else outputs[0] if outputs else None
        inputs = self._unpadded(seen.inputs) if seen.kind == "pool" else seen.inputs
        self._append(seen.kind, inputs, outputs[: seen.outputs], seen.operands, seen.attrs, node)
        if seen.kind in ("conv", "linear") and "bias" not in seen.operands:
            self.layers[outputs[0].id] = len(self.ops) - 1

    def _share(self, call_: Call) -> tuple[int, tuple[int, ...]] | None:
        """What is summed, and over which axes, where a sum is divided by the count of what it sums: a mean."""
        x, *numbers = call_.args
        if plain(call_.op) not in _DIVISIONS or not isinstance(x, Value) or len(numbers) != 1:
            return None
        maker = next((op for op in reversed(self.ops) if x.id in op.outputs), None)
        if maker is None or maker.kind != "reduce" or plain(maker.raw) != "sum":
            return None
        shape = self.tensors[maker.inputs[0]].shape
        axes = tuple(maker.attrs["axes"])
        counts = isinstance(numbers[0], (int, float)) and numbers[0] == prod(shape[a] for a in axes)
        return (maker.inputs[0], axes) if counts else None

    def _unpadded(self, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """What a pool reads where a pad stands right before it: MindSpore's pools pad no other way."""
        last = self.ops[-1] if self.ops else None
        if last is None or last.kind != "pad" or last.outputs != (inputs[0].id,):
            return inputs
        if any((*last.attrs["before"][:2], *last.attrs["after"][:2])):
            return inputs  # channels are added
        self.ops.pop()
        return (Value(last.inputs[0], self.tensors[last.inputs[0]].shape),)

    def _append(
        self, kind: str, inputs: Any, outputs: Any, operands: tuple[str, ...], attrs: dict[str, Any], node: Node
    ) -> None:
        where = self.places.get(node.scope, "").rstrip(".:")
        ids = tuple(t.id for t in inputs), tuple(t.id for t in outputs)
        self.ops.append(Op(kind, *ids, operands, attrs, node.scope, node.op, where))

    def _fuse(self, node: Node) -> bool:
        """A bias that is added to a layer's result belongs to the layer; other uses of it have not begun."""
        x, bias = (self.env.get(name) for name in node.inputs[:2])
        layer = self.layers.pop(x.id, None) if isinstance(x, Value) else None
        if layer is None or not isinstance(bias, Value):
            return self._channel_bias(node, x, bias)
        op = self.ops[layer]
        operands, inputs = (*op.operands, "bias"), (*op.inputs, bias.id)
        self.ops[layer] = replace(op, operands=operands, inputs=inputs)
        self.env[node.output] = x
        return True

    def _channel_bias(self, node: Node, x: Any, bias: Any) -> bool:
        if not isinstance(x, Value) or not isinstance(bias, Value):
            return False
        out = self._new(*node.shapes[0])
        self.env[node.output] = out
        axis = 1 if len(x.shape) > 1 else 0
        self._append("channel_affine", (x, bias), (out,), ("input", "bias"), {"axis": axis, "numbers": ()}, node)
        return True

    def _matmul(self, node: Node) -> None:
        """A product with a weight is a linear layer; flags for transposed operands become permutes."""
        left, right, *flags = (self._argument(self.env.get(name)) for name in node.inputs)
        flip_left, flip_right = (bool(flags[0]), bool(flags[1])) if len(flags) > 1 else (False, False)
        if flip_left:
            left = self._flipped(left, node)
        learned = isinstance(right, Value) and self.tensors[right.id].role == "parameter" and len(right.shape) == 2
        if learned:
            weight = right if flip_right else self._flipped(right, node)
            self._record(node, (left, weight), "Dense")
            return
        if flip_right:
            right = self._flipped(right, node)
        out = self._new(*node.shapes[0])
        self.env[node.output] = out
        self._append("matmul", (left, right), (out,), ("left", "right"), {"numbers": ()}, node)

    def _flipped(self, x: Value, node: Node) -> Value:
        rank = len(x.shape)
        perm = (*range(rank - 2), rank - 1, rank - 2)
        out = self._new(tuple(x.shape[a] for a in perm))
        self._append("permute", (x,), (out,), ("input",), {"perm": perm, "numbers": ()}, node)
        return out

    def _strided_slice(self, node: Node) -> None:
        """One slice for each axis that is cut; whole axes are left out."""
        x, begin, end, strides, *masks = (self._argument(self.env.get(name)) for name in node.inputs)
        masks = [int(m) for m in masks] or [int(node.attrs.get(n, 0)) for n in _MASKS]
        if not all(isinstance(v, tuple) for v in (begin, end, strides)) or masks[2] or masks[3]:
            self._record(node, (x,), "StridedSlice of another kind")
            return
        axis, out = 0, x
        for k, (start, stop, step) in enumerate(zip(begin, end, strides, strict=True)):
            length, single = out.shape[axis], bool(masks[4] >> k & 1)
            if single:
                first = int(start) % length
                part = (first, first + 1, 1)
            else:
                given = (None if masks[0] >> k & 1 else int(start), None if masks[1] >> k & 1 else int(stop), int(step))
                part = slice(*given).indices(length)
            if single or part != (0, length, 1):
                out = self._sliced(node, out, axis, part, single)
            axis += not single
        self.env[node.output] = out

    def _sliced(self, node: Node, x: Value, axis: int, part: tuple[int, int, int], single: bool) -> Value:
        kept = () if single else (len(range(*part)),)
        out = self._new((*x.shape[:axis], *kept, *x.shape[axis + 1 :]))
        attrs = {"axis": axis, "parts": (part,), "even": False, "squeeze": single, "numbers": ()}
        self._append("slice", (x,), (out,), ("input",), attrs, node)
        return out

"""What a network is: the abstract layer descriptors that every backend traces a model into.

A :class:`Graph` is a flat list of ops over tensors, the same for every framework. The kinds of
op, their operands and their attributes are:

=============== ============================================= ==================================
kind            operands                                      attrs
=============== ============================================= ==================================
conv            input, weight, [bias]                         groups, transposed, spatial,
                                                              [stride, padding, dilation] (spatial)
linear          input, weight, [bias]                         [transposed] (weight (I, O))
matmul          left, right
elementwise     input, input, …  (broadcast)                  [statistics] (axes that a norm runs over)
channel_affine  input, [weight, bias, mean, var]              axis, [statistics] (of the input itself)
layer_norm      input, [weight, bias]                         axes
group_norm      input, [weight, bias]                         groups, axis
reduce          input                                         axes, keepdims, picks (gives indices)
pool            input                                         spatial (trailing axes pooled), [window]
softmax         input                                         axis
attention       query, key, value, [mask]                     scaled (a scale is given), causal
reshape         input
permute         input                                         perm
expand          input
concat          input, input, …                               axis
slice           input                                         axis, parts, even
pad             input                                         before, after (per axis)
roll            input                                         axes
rearrange       input                                         axis, blocks, how
tile            input                                         repeats (per axis), [each] (one by one)
gather          input, …                                      axis (indexed axis), table (bool)
scatter         input, values, indices                        axis (indexed axis)
einsum          input, input, …                               equation
create                                                        uniform (zeros rather than arange)
identity        input
opaque          any                                           (unknown: all it touches is frozen)
=============== ============================================= ==================================

Weights are written in the canonical layout: conv (O, I/groups, *kernel), transposed conv
(I, O/groups, *kernel), linear (O, I). A conv's ``stride`` and ``dilation`` hold one number per spatial axis
and its ``padding`` a pair (before, after); without them it is transposed, or its backend cannot tell.
``slice.parts`` holds one (start, stop, step) per output;
``rearrange`` makes one channel of ``blocks`` that follow each other (``how="join"``: pixel shuffle) or so many of each
(``"split"``), reads ``blocks`` rows of channels column by column (``"swap"``: channel shuffle), or makes one of each
column (``"fold"``: a gated linear unit).
``even`` says that the parts come from a split into equal parts computed at run time.

Any op may have three more: ``counts`` says that an output is as long as there are values of some kind (boxes above
a threshold), and ``numbers`` holds the numbers other than sizes that it was given, as text.
One that changes with a network's widths (a division by the number of channels) shows there alone. ``sizeless`` says
that no size was given to it by code other than the framework's own, so that it takes tensors of any width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["KINDS", "Graph", "Op", "Tensor"]

Role = Literal["parameter", "buffer", "input", "constant", "activation"]

KINDS = frozenset(
    [
        "conv",
        "linear",
        "matmul",
        "elementwise",
        "channel_affine",
        "layer_norm",
        "group_norm",
        "reduce",
        "pool",
        "softmax",
        "attention",
        "reshape",
        "permute",
        "expand",
        "concat",
        "slice",
        "pad",
        "roll",
        "rearrange",
        "tile",
        "gather",
        "scatter",
        "einsum",
        "create",
        "identity",
        "opaque",
    ]
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value that flows through a network.

    Attributes:
        id: Position in ``Graph.tensors``.
        shape: Its shape, e.g. ``(N, C, H, W)``.
        role: What it is: a parameter, a buffer, an input, a constant or an activation.
        name: Canonical name of a parameter or buffer (``"layer1.0.conv1.weight"``), else ``""``.
        itemsize: Bytes per element.
    """

    id: int
    shape: tuple[int, ...]
    role: Role = "activation"
    name: str = ""
    itemsize: int = 4


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a network.

    Attributes:
        kind: One of :data:`KINDS`.
        inputs: Tensor ids, as named by ``operands``.
        outputs: Tensor ids.
        operands: A name for each input (``("input", "weight", "bias")``).
        attrs: What the kind needs to know besides shapes.
        scope: Dotted name of the layer that ran it (``"layer1.0.conv1"``).
        raw: The framework's own name of the op.
        where: ``file.py:line`` in the user's source, where known.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operands: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""
    raw: str = ""
    where: str = ""

    def operand(self, name: str) -> int | None:
        """Tensor id of the operand called ``name``, or None."""
        for operand, tensor in zip(self.operands, self.inputs, strict=False):
            if operand == name:
                return tensor
        return None


@dataclass(frozen=True)
class Graph:
    """A network as traced once.

    Attributes:
        tensors: All tensors, by id.
        ops: The ops of inference, in the order they ran.
        inputs: Ids of the network's inputs.
        outputs: Ids of the network's outputs, of inference and of ``train_ops``.
        train_ops: Ops of a second trace in training mode, kept where it reaches parameters
            that inference does not (auxiliary heads). They couple channels and cost nothing.
        unreached: Names of the parameters that no trace reached.
        names: Parameter names in the order the model registers them.
        valued: Whether the trace needed an input with values: without, the model's code cannot run.
        broken: Whether the model stopped with an error after these ops.
    """

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    train_ops: tuple[Op, ...] = ()
    unreached: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    valued: bool = False
    broken: bool = False

    @property
    def all_ops(self) -> tuple[Op, ...]:
        """The ops of inference, then those of training mode."""
        return self.ops + self.train_ops

    def parameters(self) -> dict[str, Tensor]:
        """Parameters by name, each once, in the order the model registers them."""
        found = {t.name: t for t in self.tensors if t.role == "parameter"}
        return {name: found[name] for name in self.names if name in found}

    def fingerprint(self) -> str:
        """A hash of the parameters' names and shapes: the same in every framework."""
        table = sorted((t.name, list(t.shape)) for t in self.parameters().values())
        return hashlib.sha256(json.dumps(table).encode()).hexdigest()[:32]

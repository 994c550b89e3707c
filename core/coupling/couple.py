"""From a graph to channel groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from prunekit.core._names import nearest
from prunekit.core.coupling import _rules_layers, _rules_shapes
from prunekit.core.coupling._form import form
from prunekit.core.coupling.groups import Coupling
from prunekit.core.coupling.propagate import RULES, Flow
from prunekit.core.errors import InputError
from prunekit.core.graph import KINDS, Graph

__all__ = ["couple"]

assert set(RULES) == KINDS, (_rules_layers, _rules_shapes, set(RULES) ^ KINDS)

# a reshape is a split into heads when its result reaches attention through these alone
_CARRIERS = frozenset({"permute", "reshape", "slice", "identity", "elementwise", "expand"})


def couple(
    graph: Graph,
    *,
    attention: str = "heads",
    ignore: Sequence[str] = (),
    frozen_ops: Mapping[int, str] | None = None,
) -> Coupling:
    """Find what must be cut together.

    Every axis of every parameter gets one label per index; labels flow through the ops as data
    would, and what meets is united (DepGraph, Fang et al. 2023, finds groups layer by layer; here
    the channel is the unit). Components with the same footprint form a group.

    Args:
        graph: A traced network.
        attention: Which axis is cut where channels are split into heads: ``"heads"`` (whole
            heads) or ``"head_dim"`` (the same positions in every head).
        ignore: Name patterns (``"layer4.*"``) of layers whose outputs must stay.
        frozen_ops: Reason by position in ``graph.all_ops`` of ops whose channels must all stay.

    Returns:
        Groups, frozen groups, and the length of every axis as a function of group widths.

    Raises:
        InputError: The policy is unknown, or a pattern matches no layer.
    """
    if attention not in ("heads", "head_dim"):
        raise InputError(f"attention must be 'heads' or 'head_dim', got {attention!r}")
    flow = Flow(graph, attention, _feeds_attention(graph))
    flow.run(frozen_ops or {})
    _ignore(flow, ignore)
    return form(flow)


def _ignore(flow: Flow, patterns: Sequence[str]) -> None:
    names = {t.id: t.name for t in flow.graph.tensors if t.role == "parameter"}
    for pattern in patterns:
        hits = 0
        for tensor, name in names.items():
            layer = name.rpartition(".")[0]
            if not fnmatch.fnmatchcase(layer, pattern) and not layer.startswith(pattern + "."):
                continue
            hits += 1
            for axis in range(flow.rank(tensor)):
                labels = flow.get(tensor, axis)
                if labels is not None and flow.roles.get((tensor, axis), ("", ""))[0] != "in":
                    flow.space.freeze(labels, f"ignored by the user ({pattern})")
        if not hits:
            layers = dict.fromkeys(name.rpartition(".")[0] for name in names.values())
            hint = nearest(pattern, layers)
            raise InputError(f"an ignore pattern must match a layer with parameters, got {pattern!r}; {hint}")


def _feeds_attention(graph: Graph) -> Collection[int]:
    """Outputs of reshapes from which attention (or a product of activations) is reached."""
    ops = graph.all_ops
    reaches = np.zeros(len(graph.tensors), dtype=bool)
    for op in reversed(ops):
        if op.kind == "attention":
            reaches[list(op.inputs[:3])] = True
        elif op.kind == "matmul":
            moving = [t for t in op.inputs[:2] if graph.tensors[t].role == "activation"]
            if len(moving) == 2:
                reaches[moving] = True
        elif op.kind in _CARRIERS and op.inputs and reaches[list(op.outputs)].any():
            reaches[list(op.inputs)] = True
    return {out for op in ops if op.kind == "reshape" for out in op.outputs if reaches[out]}

"""From a graph to channel groups."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace

from prunekit.core._names import nearest
from prunekit.core.coupling import _rules_layers, _rules_shapes
from prunekit.core.coupling._form import form
from prunekit.core.coupling._heads import feeds_attention
from prunekit.core.coupling.groups import Coupling, Tie
from prunekit.core.coupling.propagate import RULES, Flow, Freeze
from prunekit.core.errors import InputError
from prunekit.core.graph import KINDS, Graph

__all__ = ["couple"]

assert set(RULES) == KINDS, (_rules_layers, _rules_shapes, set(RULES) ^ KINDS)


def couple(
    graph: Graph,
    *,
    attention: str = "heads",
    grouped: str = "within",
    ignore: Sequence[str] = (),
    frozen_ops: Mapping[int, Freeze] | None = None,
    ties: Sequence[Tie] = (),
) -> Coupling:
    """Find what must be cut together.

    Every axis of every parameter gets one label per index; labels flow through the ops as data
    would, and what meets is united (DepGraph, Fang et al. 2023, finds groups layer by layer; here
    the channel is the unit). Components with the same footprint form a group.

    Args:
        graph: A traced network.
        attention: Which axis is cut where channels are split into heads: ``"heads"`` (whole
            heads) or ``"head_dim"`` (the same positions in every head).
        grouped: How grouped convolutions are cut: ``"within"`` their groups (the same positions in
            every group), or by ``"whole"`` groups; transposed ones are always cut within.
        ignore: Name patterns (``"layer4.*"``) of layers whose outputs must stay.
        frozen_ops: By position in ``graph.all_ops``, the ops whose channels must stay.
        ties: Axes to be cut alike, although nothing in the graph says so.

    Returns:
        Groups, frozen groups, and the length of every axis as a function of group widths.

    Raises:
        InputError: The policy is unknown, or a pattern matches no layer.
    """
    if attention not in ("heads", "head_dim"):
        raise InputError(f"attention must be 'heads' or 'head_dim', got {attention!r}")
    if grouped not in ("within", "whole"):
        raise InputError(f"grouped must be 'within' or 'whole', got {grouped!r}")
    flow = Flow(graph, attention, feeds_attention(graph), grouped)
    flow.run(frozen_ops or {}, ties)
    _ignore(flow, ignore)
    return replace(form(flow), ties=tuple(ties))


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

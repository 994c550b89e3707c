"""What channel pruning says of its result: the FLOPs that are really kept, beside the ratios that were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunekit.algorithms.channel_pruning.settings import ChannelPruningSettings
from prunekit.core.cost import Cost
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import PreserveRatioEncoding
from prunekit.core.method import Task
from prunekit.core.plan import PruningPlan

__all__ = ["report"]


def report(
    task: Task,
    coupling: Coupling,
    plan: PruningPlan,
    settings: ChannelPruningSettings,
    asked: Mapping[str, float] | None,
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """Say what is kept, layer by layer and in total, and return it as plain data.

    FLOPs are those of PocketFlow: multiply-accumulates of convs alone.
    """
    cost = Cost(coupling, "pocketflow")
    widths = plan.widths(coupling)
    before = {row.layer: row.figures["flops"] for row in cost.per_layer(metrics=("flops",))}
    after = {row.layer: row.figures["flops"] for row in cost.per_layer(widths, metrics=("flops",))}
    inputs = _inputs(coupling, plan)
    layers = [
        {"layer": layer, "asked": (asked or {}).get(layer), "inputs": inputs.get(layer), "flops": [flops, after[layer]]}
        for layer, flops in before.items()
        if flops
    ]
    total = [sum(before.values()), sum(after.values())]
    share = total[1] / max(total[0], 1)
    goal = _goal(settings, asked)
    task.say("channel pruning, layer: inputs asked for, inputs kept, FLOPs kept")
    for row in layers:
        task.say(_line(row))
    task.say(f"channel pruning: {goal}; {share:.2%} of the conv FLOPs are kept ({total[1]:,} of {total[0]:,})")
    return {
        "prune_option": settings.prune_option,
        "asked": goal,
        "flops": total,
        "preserved": share,
        "layers": layers,
        "groups": {g.name: len(plan.kept[g.name]) / g.size for g in coupling.groups},
        "notes": dict(notes),
    }


def _goal(settings: ChannelPruningSettings, asked: Mapping[str, float] | None) -> str:
    if settings.prune_option == "auto":
        return f"{settings.cp_preserve_ratio:.2%} of the conv FLOPs asked for"
    if not asked:
        return "widths given"
    low, high = min(asked.values()), max(asked.values())
    return f"{low:g} of each conv's inputs asked for" if low == high else f"{low:g} to {high:g} of inputs asked for"


def _line(row: Mapping[str, Any]) -> str:
    before, after = row["flops"]
    asked = "-" if row["asked"] is None else f"{row['asked']:g}"
    inputs = "-" if row["inputs"] is None else f"{row['inputs'][1]} of {row['inputs'][0]}"
    return f"  {row['layer']}: {asked}, {inputs}, {after / before:.1%}"


def _inputs(coupling: Coupling, plan: PruningPlan) -> dict[str, list[int]]:
    """Input channels before and after, of every conv that has a ratio."""
    layers = set(PreserveRatioEncoding(coupling).layers)
    cuts = coupling.cuts(plan)
    result = {}
    for op in coupling.graph.ops:
        position = op.operand("weight")
        if op.kind != "conv" or op.scope not in layers or position is None:
            continue
        weight = coupling.graph.tensors[position]
        axis = 0 if op.attrs.get("transposed") else 1
        size = weight.shape[axis]
        result[op.scope] = [size, len(cuts.get(weight.name, {}).get(axis, range(size)))]
    return result

"""The order of a network's ops, the same whatever the framework that wrote them down."""

from __future__ import annotations

import heapq

from prunekit.core.graph import Graph

__all__ = ["run_order"]


def run_order(graph: Graph) -> list[int]:
    """Positions of the ops in an order in which they may run, the same for every framework.

    Where branches are side by side, frameworks write them down in different orders; here the layer that the model
    registers first goes first.
    """
    rank = {name: k for k, name in enumerate(graph.names)}
    makers = {t: k for k, op in enumerate(graph.ops) for t in op.outputs}
    needs = [{makers[t] for t in op.inputs if t in makers and makers[t] != k} for k, op in enumerate(graph.ops)]
    users: dict[int, list[int]] = {}
    for k, before in enumerate(needs):
        for other in before:
            users.setdefault(other, []).append(k)

    def key(k: int) -> tuple[int, int]:
        own = [rank[graph.tensors[t].name] for t in graph.ops[k].inputs if graph.tensors[t].name in rank]
        return (min(own, default=-1), k)

    left = [len(before) for before in needs]
    ready = [key(k) for k, count in enumerate(left) if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, k = heapq.heappop(ready)
        order.append(k)
        for user in users.get(k, ()):
            left[user] -= 1
            if left[user] == 0:
                heapq.heappush(ready, key(user))
    return order

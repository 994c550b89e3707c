"""How long it takes to understand and cut a network, beside Torch-Pruning in the same run.

    python benchmarks/analysis.py [--rounds 7] [--json FILE]

Medians in seconds on one machine, one thread. *graph* is our trace + coupling and Torch-Pruning's
dependency graph; *prune* is, given that graph, ranking by L2 norm and cutting half of every group
(our part includes the check of the result). Population: MACs and parameters of 10,000 candidates.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.budget import Budget
from prunekit.core.cost import Cost
from prunekit.core.importance import score
from prunekit.core.prune import select

BACKEND = TorchBackend()


def timed(*functions: Callable[[], Any], rounds: int) -> list[float]:
    """Median seconds of each function; the rounds alternate, so that all meet the same machine."""
    samples: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, mine in zip(functions, samples, strict=True):
            begin = time.perf_counter()
            function()
            mine.append(time.perf_counter() - begin)
    return [statistics.median(mine) for mine in samples]


def build(name: str) -> tuple[Any, torch.Tensor]:
    """A torchvision classifier in inference mode and an image."""
    return BACKEND.build_model(f"torchvision:{name}").eval(), torch.randn(1, 3, 224, 224)


def against_rival(name: str, rounds: int) -> dict[str, float]:
    """Graph and pruning times, ours and Torch-Pruning's."""
    import torch_pruning as tp

    model, example = build(name)

    def ours() -> Any:
        return analyse(BACKEND, model, example, probe=False)

    def theirs() -> Any:
        return tp.DependencyGraph().build_dependency(model, example_inputs=example)

    graph_ours, graph_theirs = timed(ours, theirs, rounds=rounds)
    analysis = analyse(BACKEND, model, example)
    (probed,) = timed(lambda: analyse(BACKEND, model, example), rounds=rounds)
    prune_ours, prune_theirs = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        scores = score(analysis.coupling, "l2", BACKEND.get_state(model, copy=False))
        plan = select(analysis, Budget.of(ratio=0.5), scores, scope="layer")
        BACKEND.apply(analysis, plan)
        prune_ours.append(time.perf_counter() - begin)
        rival_model = build(name)[0]
        rival = tp.pruner.BasePruner(
            rival_model, example, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=[m for m in rival_model.modules() if getattr(m, "out_features", 0) == 1000],
        )  # fmt: skip
        begin = time.perf_counter()
        rival.step()
        prune_theirs.append(time.perf_counter() - begin)
    return {
        "graph": graph_ours,
        "graph with probe": probed,
        "graph, Torch-Pruning": graph_theirs,
        "graph ratio": graph_ours / graph_theirs,
        "prune": statistics.median(prune_ours),
        "prune, Torch-Pruning": statistics.median(prune_theirs),
        "prune ratio": statistics.median(prune_ours) / statistics.median(prune_theirs),
    }


def population(rounds: int, size: int = 10_000) -> dict[str, float]:
    """Cost of many ResNet-50 candidates in one call."""
    model, example = build("resnet50")
    coupling = analyse(BACKEND, model, example, probe=False).coupling
    widths = np.random.default_rng(0).integers(1, coupling.widths + 1, size=(size, len(coupling.groups)))
    cost = Cost(coupling)
    (seconds,) = timed(lambda: cost.of(widths, metrics=("macs", "params")), rounds=rounds)
    return {"candidates": size, "seconds": seconds}


def depth(rounds: int) -> dict[str, float]:
    """Analysis time per op as ResNets get deeper: constant where time is linear."""
    result = {}
    for name in ("resnet50", "resnet101", "resnet152"):
        model, example = build(name)
        (seconds,) = timed(lambda m=model, e=example: analyse(BACKEND, m, e, probe=False), rounds=rounds)
        result[name] = seconds
        result[f"{name}, ms per op"] = 1000 * seconds / len(BACKEND.trace(model, example).ops)
    return result


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"machine": f"{platform.processor() or platform.machine()}, 1 thread"}
    for name in ("resnet50", "densenet121"):
        figures[name] = against_rival(name, options.rounds)
    figures["population"] = population(options.rounds)
    figures["depth"] = depth(options.rounds)
    for title, rows in figures.items():
        print(title if isinstance(rows, dict) else f"{title}: {rows}")
        for key, value in rows.items() if isinstance(rows, dict) else ():
            print(f"  {key:26s} {value:10.3f}")
    if options.json:
        with open(options.json, "w") as stream:
            json.dump(figures, stream, indent=1)


if __name__ == "__main__":
    main()

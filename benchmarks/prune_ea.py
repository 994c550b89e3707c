"""Whether PruneEA finds a better front than chance: hypervolume beside that of random search, over seeds.

    python benchmarks/prune_ea.py [--generations 10] [--individuals 32] [--random-models 64] [--seeds 0 1 2]

ResNet-20 on Fashion-MNIST (or digits) at 14 px, one trained base network (cached). Random search scores as many models,
drawn as those of PruneEA's first generation are. The hypervolume is that of error and MACs, as shares of the unpruned
network's, with the reference point (1, 1): 0 is nothing, 1 would be a network without errors and without MACs. Scores
are shares of right answers on the held-out images, once statistics are taken anew; nothing is trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from typing import Any

import torch
from _base import base_network

from prunekit.algorithms.prune_ea import PruneEA
from prunekit.core.analysis import Analysis
from prunekit.core.cost import Cost
from prunekit.core.method import Task


def setting(backend: str, validation_batches: int, weights: str | None) -> tuple[Analysis, Any]:
    """The base network, and its data with so many held-out batches."""
    changes = [f"backend={backend}", "export.formats=[]", *([] if weights is None else [f"weights={weights}"])]
    job, analysis = base_network(*changes, config="eagle_eye_resnet20")
    held = list(itertools.islice(iter(job.loaders.validation), validation_batches))
    return analysis, dataclasses.replace(job.loaders, validation=held)


def search(analysis: Analysis, loaders: Any, seed: int, **keys: int) -> dict[str, Any]:
    """Figures of one search without any training."""
    begin = time.monotonic()
    task = Task(analysis, loaders, model="resnet20", seed=seed)
    found = dict(PruneEA({"train_front": 0, **keys}).run(task).figures)
    return {**found, "seconds": time.monotonic() - begin}


def accurate(found: dict[str, Any], share: float, full: int) -> float:
    """The best score on the front within a share of the MACs."""
    return max((line["score"] for line in found["front"] if line["macs"] <= share * full), default=0.0)


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--individuals", type=int, default=32)
    parser.add_argument("--random-models", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bn-batches", type=int, default=4)
    parser.add_argument("--validation-batches", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--weights", help="folder of a saved base network, instead of the cache's")
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    analysis, loaders = setting(options.backend, options.validation_batches, options.weights)
    full = Cost(analysis.coupling).full(("macs",))["macs"]
    count = options.random_models + options.generations * options.individuals
    shared = {"bn_batches": options.bn_batches, "num_individual": options.individuals}
    ways = {
        "PruneEA": {"num_generation": options.generations, "random_models": options.random_models},
        "random": {"num_generation": 0, "random_models": count},
    }
    print(f"{'seed':>4} {'way':<8} {'models':>6} {'front':>5} {'hypervolume':>11} {'best at 50%':>11} {'seconds':>8}")
    table: list[dict[str, Any]] = []
    for seed in options.seeds:
        for way, keys in ways.items():
            found = search(analysis, loaders, seed, **shared, **keys)
            table.append({"seed": seed, "way": way, **found})
            print(
                f"{seed:>4} {way:<8} {found['evaluated']:>6} {len(found['front']):>5} "
                f"{found['hypervolume'][-1]:>11.4f} {accurate(found, 0.5, full):>11.4f} {found['seconds']:>8.1f}",
                flush=True,
            )
        print(f"     by generation: {' '.join(f'{v:.3f}' for v in table[-2]['hypervolume'])}", flush=True)
    ahead = sum(a["hypervolume"][-1] > b["hypervolume"][-1] for a, b in zip(table[::2], table[1::2], strict=True))
    print(f"PruneEA is above random search on {ahead} of {len(options.seeds)} seeds")
    if options.json:
        with open(options.json, "w") as stream:
            json.dump(table, stream, indent=1)


if __name__ == "__main__":
    main()

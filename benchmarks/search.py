"""What a search costs beside its evaluations, what a second process gains, and how long a resume takes.

    python benchmarks/search.py [--candidates 10000] [--rounds 5] [--json FILE]

PyTorch, ResNet-20. *overhead* is the time of a whole search, study on disk, with evaluations that cost nothing, per
candidate, in milliseconds; what MetaPruning needs to train its PruningNet is in it. *resume* is the time in seconds
in which the same search runs through that study again. Below is what one and two worker processes evaluate.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _base import base_network
from _workers import compare_workers

from prunekit.algorithms.eagle_eye import EagleEye
from prunekit.algorithms.meta_pruning import MetaPruning
from prunekit.algorithms.prune_ea import PruneEA
from prunekit.core.analysis import analyse
from prunekit.core.candidates import Evaluation, Request
from prunekit.core.executor import LocalExecutor
from prunekit.core.method import SearchMethod, Task
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_backend
from prunekit.core.study import STUDY_FILE, Study


class Free(LocalExecutor):
    """Scores by what stays of each group, unevenly, in no time."""

    def prepare(self, evaluation: Any) -> None:
        """Take no evaluation but one's own."""

        def score(request: Request) -> dict[str, float]:
            shares = [len(kept) / request.plan.sizes[name] for name, kept in request.plan.kept.items()]
            worth = [1 / (1 + place % 5) for place in range(len(shares))]
            value = sum(w * s**0.5 for w, s in zip(worth, shares, strict=True)) / sum(worth)
            return {"score": value, "loss": 1 - value}

        def make() -> Evaluation:
            return score

        super().prepare(make)


def methods(count: int) -> dict[str, SearchMethod]:
    """Searches over so many candidates."""
    few = 32
    generations = max(count // few - 1, 1)
    half = {"population": few, "keep": few, "mutations": few // 2, "crossovers": few // 2}
    training = {"epochs": 1, "steps_per_epoch": 2}
    return {
        "EagleEye": EagleEye({"candidates": count, "bn_batches": 2}),
        "PruneEA": PruneEA(
            {
                "random_models": 2 * few, "num_individual": few, "num_generation": generations - 1, "train_front": 0,
                "bn_batches": 2,
            }
        ),
        "MetaPruning": MetaPruning(
            {**half, "iterations": generations, "training": training, "bn_batches": 2, "flops_range": [0.3, 0.7]}
        ),
    }  # fmt: skip


def overhead_and_resume(method: SearchMethod, task: dict[str, Any], folder: Path) -> tuple[int, float, float]:
    """Candidates, milliseconds that each costs, and seconds of the same search on its finished study."""
    config = {"method": method.name}
    times = []
    for _ in range(2):
        with Study(folder / STUDY_FILE, config) as study:
            begin = time.perf_counter()
            method.run(Task(**task, folder=folder, study=study, executor=Free()))
            times.append(time.perf_counter() - begin)
            count = len(study)
    return count, 1000 * times[0] / count, times[1]


def main() -> None:
    """Run it and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of one and two processes")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    backend: Any = get_backend("torch")
    model = backend.build_model("resnet20", seed=0, in_channels=1)
    task = {
        "analysis": analyse(backend, model, backend.example((1, 1, 8, 8))),
        "loaders": backend.loaders("digits", 32, seed=0, limit=256),
        "model": "resnet20",
        "finetune": Recipe(epochs=0),
        "build": lambda: backend.build_model("resnet20", seed=0, in_channels=1),
    }
    figures: dict[str, Any] = {"searches": {}}
    print("                 candidates   overhead (ms)   resume (s)")
    for name, method in methods(options.candidates).items():
        with tempfile.TemporaryDirectory() as folder:
            count, overhead, resume = overhead_and_resume(method, task, Path(folder))
        figures["searches"][name] = {"candidates": count, "overhead_ms": overhead, "resume_seconds": resume}
        print(f"{name:<16} {count:>10}   {overhead:>13.2f}   {resume:>10.2f}")
        sys.stdout.flush()
    job, analysis = base_network("method.bn_batches=20", config="eagle_eye_resnet20")
    rates = compare_workers(job, analysis, rounds=options.rounds, candidates=8)
    print(f"one process      {rates.one:>10.0f}   candidates per hour, ResNet-20 at 14 pixels, one thread each")
    print(f"two processes    {rates.two:>10.0f}   × {rates.ratio:.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps({**figures, "processes": dataclasses.asdict(rates)}, indent=1))


if __name__ == "__main__":
    main()

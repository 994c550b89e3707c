"""How accurate networks are that each method prunes to one budget, beside Torch-Pruning and chance, in one run.

    python benchmarks/accuracy.py [--seeds 3] [--budgets 0.5 0.25] [--epochs 1] [--candidates 50] [--json FILE]

ResNet-20 on Fashion-MNIST at 14 pixels, PyTorch. All methods start from one trained network; the budget is a share
of its MACs. Accuracy is that of the 10,000 test images, as the mean over seeds and the distance of the extremes:

- *pruned*: the network cut, its weights and batch norm statistics as they were;
- *recalibrated*: batch norm statistics taken anew over 100 training batches;
- *reconstructed*: weights fitted by least squares to the outputs of the original, then recalibrated;
- *fine-tuned*: the best of these, after the same short training.

Rows: random channels at even widths (the floor), L2 norm at even widths, Torch-Pruning's group L2 norm, EagleEye
(the best of ``--candidates`` random networks), channel pruning with uniform ratios, and with ratios searched by
evolution and by DDPG. *seconds* are those of search, selection and fitting, without the fine-tuning.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _base import base_network

from prunekit.cli.job import Job
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.budget import Budget
from prunekit.core.cost import Cost
from prunekit.core.data import load_images
from prunekit.core.method import Task
from prunekit.core.plan import PruningPlan
from prunekit.core.prune import prune
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_algorithm
from prunekit.core.strategies import best_first, read_strategies

BATCHES = 30
SLACK = 0.0025
STAGES = ("pruned", "recalibrated", "reconstructed", "fine-tuned")


@dataclass
class Found:
    """A network that a method made.

    Attributes:
        small: It, ready for fine-tuning.
        stages: Test accuracy by stage.
        seconds: Time it took.
        notes: Further figures.
    """

    small: Any
    stages: dict[str, float]
    seconds: float
    notes: dict[str, float] = field(default_factory=dict)


class Bench:
    """One base network, its data, and what is measured on them."""

    def __init__(self, epochs: float, candidates: int) -> None:
        self.candidates = candidates
        self.job: Job
        self.analysis: Analysis
        self.job, self.analysis = base_network()
        self.backend = self.job.backend
        data = self.job.config.data
        self.splits = load_images(data.name, size=data.size, validation=data.validation, seed=self.job.config.seed)
        self.recipe = Recipe(epochs=epochs, lr=0.02, schedule="linear", weight_decay=5e-4, channels_last=True)
        self.full = Cost(self.analysis.coupling).full(("macs",))["macs"]

    def loaders(self, seed: int) -> Any:
        """The same parts of the data for every seed, in an order of its own."""
        return self.backend.loaders(self.splits, self.job.config.data.batch_size, seed=seed)

    def test(self, model: Any) -> float:
        """Share of right answers on the test set."""
        return float(self.backend.evaluate(model, self.job.loaders.test)["top1"])

    def task(self, seed: int) -> Task:
        """What a search method is given."""
        return Task(self.analysis, self.loaders(seed), model="resnet20", finetune=self.recipe, seed=seed)

    def macs(self, model: Any) -> float:
        """Share of the MACs that a network keeps, from a trace of its own."""
        seen = analyse(self.backend, model, self.job.example(), probe=False)
        return Cost(seen.coupling).full(("macs",))["macs"] / self.full

    def recalibrated(self, small: Any) -> Any:
        """A copy with statistics taken anew."""
        copied = self.backend.clone(small)
        self.backend.recalibrate(copied, self.job.loaders.calibration, 100)
        return copied

    def measured(self, small: Any, seconds: float, **notes: float) -> Found:
        """A network that was only cut."""
        fresh = self.recalibrated(small)
        return Found(fresh, {"pruned": self.test(small), "recalibrated": self.test(fresh)}, seconds, notes)

    def of_plan(self, plan: PruningPlan, begin: float, **notes: float) -> Found:
        """What a plan leaves of the base network."""
        small = self.backend.apply(self.analysis, plan)
        return self.measured(small, time.monotonic() - begin, **notes)


def by_importance(bench: Bench, keep: float, seed: int, importance: str) -> Found:
    """Even widths; within a group the least important channels go."""
    begin = time.monotonic()
    small, _ = prune(
        bench.backend, bench.analysis.model, bench.job.example(), Budget.of(macs=keep), importance=importance,
        scope="layer", seed=seed,
    )  # fmt: skip
    return bench.measured(small, time.monotonic() - begin)


def torch_pruning(bench: Bench, keep: float, seed: int) -> Found:
    """Torch-Pruning's group L2 norm over the whole network, in small steps until the budget is met."""
    import torch_pruning as tp

    begin = time.monotonic()
    model = copy.deepcopy(bench.analysis.model).eval()
    example = bench.job.example()
    pruner = tp.pruner.BasePruner(
        model, example, importance=tp.importance.GroupMagnitudeImportance(p=2), global_pruning=True,
        pruning_ratio=1.0, max_pruning_ratio=0.9, iterative_steps=400, ignored_layers=[model.fc],
    )  # fmt: skip
    whole, _ = tp.utils.count_ops_and_params(model, example)
    while tp.utils.count_ops_and_params(model, example)[0] > keep * whole:
        pruner.step()
    return bench.measured(model, time.monotonic() - begin)


def eagle_eye(bench: Bench, keep: float, seed: int) -> Found:
    """The best of so many random networks; beside it the one of median score, also on the test images."""
    begin = time.monotonic()
    # never above the budget
    settings = {"flops_target": keep - SLACK, "tolerance": SLACK, "max_rate": 0.8 if keep < 0.4 else 0.7}
    method = get_algorithm("eagle_eye")({**settings, "candidates": bench.candidates, "bn_batches": BATCHES})
    with tempfile.TemporaryDirectory() as folder:
        outcome = method.run(dataclasses.replace(bench.task(seed), folder=Path(folder)))
        ranked = best_first(read_strategies(Path(folder) / method.settings.output_file))
    found = bench.of_plan(outcome.plan, begin)
    median = ranked[len(ranked) // 2]
    given = {"strategy": list(median.vector), **{key: settings[key] for key in ("flops_target", "max_rate")}}
    plan = get_algorithm("eagle_eye")(given).run(bench.task(seed)).plan
    there = bench.of_plan(plan, begin).stages["recalibrated"]
    print(
        f"EagleEye, {keep:.0%}, seed {seed}: recalibrated, test images: chosen {found.stages['recalibrated']:.4f}, "
        f"median candidate {there:.4f}; scores {ranked[0].score:.4f}, {median.score:.4f}",
        flush=True,
    )
    return dataclasses.replace(found, notes={"median candidate": there})


def channel_pruning(bench: Bench, keep: float, seed: int, **settings: Any) -> Found:
    """Channels by LASSO, weights fitted again."""
    begin = time.monotonic()
    outcome = get_algorithm("channel_pruning")({"cp_nb_batches": BATCHES, **settings}).run(bench.task(seed))
    fitted = bench.backend.apply(outcome.analysis, outcome.plan)
    seconds = time.monotonic() - begin
    found = bench.of_plan(outcome.plan, begin)
    fresh = bench.recalibrated(fitted)
    return Found(fresh, {**found.stages, "reconstructed": bench.test(fresh)}, seconds)


def uniform_ratio(bench: Bench, keep: float) -> float:
    """The ratio for all convs that leaves a share of the MACs."""
    from prunekit.core.encoding import PreserveRatioEncoding

    encoding, cost = PreserveRatioEncoding(bench.analysis.coupling), Cost(bench.analysis.coupling)
    ratios = np.linspace(0.05, 1.0, 381)
    figures = cost.of(encoding.widths(np.repeat(ratios[:, None], encoding.length, axis=1)), ("macs",))["macs"]
    return float(ratios[np.flatnonzero(figures <= keep * bench.full)[-1]])


METHODS: dict[str, Callable[[Bench, float, int], Found]] = {
    "random channels": lambda b, keep, seed: by_importance(b, keep, seed, "random"),
    "L2 norm": lambda b, keep, seed: by_importance(b, keep, seed, "l2"),
    "Torch-Pruning group L2": torch_pruning,
    "EagleEye": eagle_eye,
    "channel pruning, uniform": lambda b, keep, seed: channel_pruning(
        b, keep, seed, prune_option="uniform", cp_uniform_preserve_ratio=uniform_ratio(b, keep)
    ),
    "channel pruning, evolution": lambda b, keep, seed: channel_pruning(
        b,
        keep,
        seed,
        prune_option="auto",
        cp_preserve_ratio=keep,
        cp_auto_searcher="evolution",
        cp_nb_rlouts=b.candidates,
    ),
    "channel pruning, DDPG": lambda b, keep, seed: channel_pruning(
        b,
        keep,
        seed,
        prune_option="auto",
        cp_preserve_ratio=keep,
        cp_auto_searcher="ddpg",
        cp_nb_rlouts=100,
        cp_nb_rlouts_min=30,
    ),  # fmt: skip
}


def measure(bench: Bench, name: str, keep: float, seed: int) -> dict[str, float]:
    """All figures of one method at one budget and seed."""
    torch.manual_seed(seed)
    found = METHODS[name](bench, keep, seed)
    macs = bench.macs(found.small)
    bench.backend.fit(found.small, bench.loaders(seed).train, Recipe(**{**vars(bench.recipe), "seed": seed}))
    return {
        **found.stages, "fine-tuned": bench.test(found.small), "macs": macs, "seconds": found.seconds, **found.notes
    }  # fmt: skip


def show(title: str, table: dict[str, list[dict[str, float]]]) -> None:
    """Print means, and the distance of the extremes over seeds."""
    print(f"\n{title}")
    print(f"{'':28s}" + "".join(f"{stage:>16s}" for stage in STAGES) + f"{'MACs':>8s}{'seconds':>9s}")
    for name, runs in table.items():
        cells = ""
        for stage in STAGES:
            values = [100 * run[stage] for run in runs if stage in run]
            text = f"{statistics.mean(values):.2f} ±{(max(values) - min(values)) / 2:.2f}" if values else "-"
            cells += f"{text:>16s}"
        macs = statistics.mean(run["macs"] for run in runs)
        print(f"{name:28s}{cells}{macs:8.3f}{statistics.mean(run['seconds'] for run in runs):9.1f}", flush=True)


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--candidates", type=int, default=50, help="networks that each search scores")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    bench = Bench(options.epochs, options.candidates)
    top1, data = bench.test(bench.analysis.model), bench.splits.name
    print(f"{data}: original {100 * top1:.2f} %, {bench.full:,} MACs, chance: 10 %")
    figures: dict[str, dict[str, Any]] = {"original": {"data": data, "top1": top1, "macs": bench.full}}
    for keep in options.budgets:
        table = figures.setdefault(f"{keep:.0%} of the MACs", {})
        for name in options.methods:
            for seed in range(options.seeds):
                table.setdefault(name, []).append(measure(bench, name, keep, seed))
                print(f"{keep:.0%} {name} seed {seed}: {table[name][-1]}", file=sys.stderr, flush=True)
        show(f"{keep:.0%} of the MACs, {options.seeds} seeds", table)
    if options.json:
        with open(options.json, "w") as stream:
            json.dump(figures, stream, indent=1)


if __name__ == "__main__":
    main()

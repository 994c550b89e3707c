"""Whether widths that MetaPruning finds beat one scale for all layers at equal MACs, each trained from scratch.

    python benchmarks/meta_pruning.py [--model mobilenetv1] [--scale 13] [--seeds 0 1 2] [--limit 30000] [--epochs 15]
        [--net-epochs 40] [--generations 10] [--population 40] [--correlation 12] [--threads 1] [--json FILE]
    python benchmarks/meta_pruning.py --join FILE FILE FILE

MobileNetV1-0.25 (or ResNet-20) on Fashion-MNIST at 14 pixels, PyTorch. For each seed a PruningNet is trained, networks
are sought that cost at most what the uniform one does, and these are trained from scratch by one recipe: *found*, the
best of the search; *uniform*, all layers at the same scale (an id of the 31); *random*, two networks drawn from the
same range, the floor. Accuracy is that of the 10,000 test images, which the search does not see. So many candidates of
seed 0's search as ``--correlation`` says are trained as well, from the best score to the worst. Seeds may be run each
by a process of its own, and their files be joined to one table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunekit.algorithms.meta_pruning import MetaPruning
from prunekit.cli.config import load_config
from prunekit.cli.job import Job, prepare
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.cost import Cost
from prunekit.core.encoding import ChannelScaleEncoding
from prunekit.core.method import Task
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe

MODELS = {"mobilenetv1": ["model.options={width: 0.25}"], "resnet20": []}
ROWS = ("found", "uniform", "random")
RANDOM = 2


class Bench:
    """A network and its data, with the seed of everything."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        changes = [f"model.name={options.model}", *MODELS[options.model], f"data.limit={options.limit}"]
        changes += ["data.name=fashion-mnist", f"seed={seed}", "export.formats=[]"]
        self.job: Job = prepare(load_config("meta_pruning_resnet20", changes))
        self.analysis = analyse(self.job.backend, self.job.build(), self.job.example(), probe=False)
        self.recipe = Recipe(
            epochs=options.epochs, lr=options.lr, schedule="onecycle", weight_decay=5e-4, seed=seed, channels_last=True
        )
        self.options, self.seed = options, seed
        self.encoding = ChannelScaleEncoding(self.analysis.coupling)
        self.cost = Cost(self.analysis.coupling)

    def macs(self, vector: Any) -> int:
        """What the network of a vector costs."""
        return int(self.cost.of(self.encoding.widths(vector), ("macs",))["macs"][0])

    def train(self, plan: PruningPlan) -> float:
        """Test accuracy of the network that a plan leaves, trained from scratch."""
        backend, loaders = self.job.backend, self.job.loaders
        whole = Analysis(backend, self.job.build(), self.analysis.example, self.analysis.coupling)
        small = backend.apply(whole, plan)
        backend.fit(small, loaders.train, self.recipe)
        return float(backend.evaluate(small, loaders.test)["top1"])

    def search(self, most: int) -> Any:
        """What a search among networks that cost at most so much finds."""
        o = self.options
        training = {
            "epochs": o.net_epochs, "lr": o.net_lr, "schedule": "linear", "weight_decay": 0.0, "grad_clip": 5.0,
            "warmup_epochs": 1.0, "channels_last": True,
        }  # fmt: skip
        keys = {
            "flops_range": [int(0.93 * most), most], "training": training,
            "population": o.population, "generations": o.generations, "keep": o.population,
            "top_k": max(2, o.population // 4), "mutations": o.population // 2, "crossovers": o.population // 2,
            "bn_batches": o.bn_batches,
            "correlation": o.correlation if self.seed == 0 else 0,
        }  # fmt: skip
        task = Task(
            self.analysis, self.job.loaders, finetune=self.recipe, seed=self.seed, build=self.job.build,
            say=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        )  # fmt: skip
        return MetaPruning(keys).run(task)


def run_seed(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The figures of one seed."""
    begin = time.monotonic()
    bench = Bench(options, seed)
    uniform = [options.scale] * bench.encoding.length
    most = bench.macs(uniform)
    outcome = bench.search(most)
    rng = np.random.default_rng([seed, 1])
    random: list[Any] = []
    while len(random) < RANDOM:
        vector = rng.integers(31, size=bench.encoding.length)
        random += [vector] if 0.93 * most <= bench.macs(vector) <= most else []
    found = {
        "seed": seed,
        "found": bench.train(outcome.plan),
        "uniform": bench.train(bench.encoding.decode(uniform)),
        "random": statistics.fmean(bench.train(bench.encoding.decode(v)) for v in random),
        "macs": [outcome.figures["macs"], most],
        "widths": outcome.plan.widths(bench.analysis.coupling).tolist(),
        "score": outcome.figures["score"],
        "median_of_random_scores": outcome.figures["median_of_random"],
        "correlation": outcome.figures.get("correlation"),
        "seconds": time.monotonic() - begin,
    }
    if found["macs"][0] > most:
        raise AssertionError(f"the network that was found costs {found['macs'][0]:,} MACs, more than {most:,}")
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """The table: accuracy in percent for each seed, their mean, and half the distance of the extremes."""
    print("| network | " + " | ".join(f"seed {row['seed']}" for row in rows) + " | mean | ± | MACs |")
    print("| --- |" + " ---: |" * (len(rows) + 3))
    for name in ROWS:
        values = [100 * row[name] for row in rows]
        macs = statistics.fmean(row["macs"][0 if name == "found" else 1] for row in rows)
        cells = [f"{value:.2f}" for value in (*values, statistics.fmean(values), (max(values) - min(values)) / 2)]
        print(
            f"| {name} | "
            + " | ".join(cells)
            + f" | {'' if name == 'found' else '≤ ' * (name == 'random')}{macs:,.0f} |"
        )
    for row in rows:
        if row["correlation"]:
            c = row["correlation"]["generated"]
            low, high = c["kendall_interval"]
            print(
                f"correlation over {c['points']} candidates: Kendall {c['kendall']:.2f} [{low:.2f}, {high:.2f}]", end=""
            )
            low, high = c["pearson_interval"]
            print(f", Pearson {c['pearson']:.2f} [{low:.2f}, {high:.2f}]")


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv1", choices=list(MODELS))
    for name, default in (
        ("scale", 13), ("limit", 30_000), ("generations", 10), ("population", 40), ("bn-batches", 50),
        ("correlation", 12), ("threads", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("epochs", 15.0), ("lr", 0.1), ("net-epochs", 40.0), ("net-lr", 0.1)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--join", type=Path, nargs="+", default=[], help="files of --json to show as one table")
    options = parser.parse_args()
    if options.join:
        show(
            sorted((row for file in options.join for row in json.loads(file.read_text())), key=lambda row: row["seed"])
        )
        return
    torch.set_num_threads(options.threads)
    rows = [run_seed(options, seed) for seed in options.seeds]
    show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

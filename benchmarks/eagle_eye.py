"""What EagleEye's ways through the candidates find, and for how much time: full, halving and evolution.

    python benchmarks/eagle_eye.py [--candidates 40] [--seeds 3] [--bn-batches 20] [--validation-batches 12]
        [--json FILE]

ResNet-20 on Fashion-MNIST (or digits) at 14 px, half of the MACs, one trained base network (cached). For each
seed, ``full`` scores random candidates, ``halving`` the same ones for less, and ``evolution`` breeds as many. Scores
are shares of right answers on the held-out images, ``cost`` is in whole evaluations, ``cpu`` the processor's seconds
in the search, which other work on the machine disturbs least, and ``time`` their ratio to those of ``full``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

from _base import base_network

from prunekit.algorithms.eagle_eye import EagleEye
from prunekit.core.analysis import Analysis
from prunekit.core.method import Task

WAYS = {"full": {}, "halving": {"search": "halving"}, "evolution": {"proposals": "evolution"}}


def setting(backend: str, validation_batches: int) -> tuple[Analysis, Any]:
    """The base network, and its data with so many held-out batches."""
    job, analysis = base_network(f"backend={backend}", "export.formats=[]", config="eagle_eye_resnet20")
    held = list(itertools.islice(iter(job.loaders.validation), validation_batches))
    return analysis, dataclasses.replace(job.loaders, validation=held)


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bn-batches", type=int, default=20)
    parser.add_argument("--validation-batches", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    analysis, loaders = setting(options.backend, options.validation_batches)
    print(f"{'seed':>4} {'way':<10} {'best':>7} {'median':>7} {'cost':>6} {'cpu':>8} {'time':>6}")
    ratios: dict[str, list[tuple[float, float]]] = {}
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        whole: dict[str, Any] = {}
        for way, keys in WAYS.items():
            method = EagleEye({"candidates": options.candidates, "bn_batches": options.bn_batches, **keys})
            begin = time.process_time()
            found = dict(method.run(Task(analysis, loaders, model="resnet20", seed=seed)).figures)
            found["cpu"] = time.process_time() - begin
            whole = whole or found
            share = found["cpu"] / whole["cpu"]
            ratios.setdefault(way, []).append((found["score"] - whole["score"], share))
            shown = {key: found[key] for key in ("score", "median_of_random", "cost", "cpu")}
            rows.append({"seed": seed, "way": way, **shown, "time": share})
            print(
                f"{seed:>4} {way:<10} {found['score']:>7.4f} {found['median_of_random']:>7.4f} {found['cost']:>6.1f} "
                f"{found['cpu']:>8.1f} {share:>6.2f}",
                flush=True,
            )
    medians = {}
    for way, pairs in ratios.items():
        better, share = (statistics.median(values) for values in zip(*pairs, strict=True))
        medians[way] = {"better": better, "time": share}
        print(f"{way}: best score {better:+.4f} beside full, time × {share:.2f} (medians of {options.seeds} seeds)")
    if options.json is not None:
        options.json.write_text(json.dumps({"rows": rows, "medians": medians}, indent=1))


if __name__ == "__main__":
    main()

"""What the evaluation of one candidate costs, beside the bare forward passes it contains, in the same run.

    python benchmarks/evaluation.py [--rounds 7] [--bn-batches 30] [--json FILE]

Medians in seconds, PyTorch, one thread, ResNet-20 at 14 pixels. *evaluation* cuts the base network, takes batch
norm statistics anew and scores the held-out images; *bare* runs the network that it leaves over the same batches,
in the same modes, and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from _base import base_network

from prunekit.algorithms.evaluation import Evaluator, held_batches
from prunekit.core.testing import random_plan


def bare(small: torch.nn.Module, calibration: list, validation: list) -> float:
    """Seconds of the forward passes alone."""
    begin = time.perf_counter()
    small.eval()
    norms = [m for m in small.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.train()
        for inputs, _ in calibration:
            small(inputs)
        small.eval()
        for inputs, _ in validation:
            small(inputs)
    return time.perf_counter() - begin


def main() -> None:
    """Run it and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bn-batches", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    job, analysis = base_network()
    evaluate = Evaluator(analysis, job.loaders, options.bn_batches)
    calibration = list(held_batches(job.loaders.calibration, options.bn_batches))
    validation = list(held_batches(job.loaders.validation))
    ratios, ours, theirs = [], [], []
    for seed in range(options.rounds):
        plan = random_plan(analysis, keep=0.6, seed=seed)
        small = analysis.backend.apply(analysis, plan, check=False)
        bare(small, calibration[:2], validation[:1])
        # by turns, so that both meet the same machine, and now one is first, now the other
        for bare_now in (True, False) if seed % 2 else (False, True):
            if bare_now:
                theirs.append(bare(small, calibration, validation))
            else:
                begin = time.perf_counter()
                evaluate(plan)
                ours.append(time.perf_counter() - begin)
        ratios.append(ours[-1] / theirs[-1])
    figures = {
        "candidates": options.rounds,
        "batches": {"calibrate": len(calibration), "score": len(validation)},
        "evaluation": statistics.median(ours),
        "bare": statistics.median(theirs),
        "ratio": statistics.median(ratios),
    }
    print(f"batches: {len(calibration)} to calibrate, {len(validation)} to score; {options.rounds} candidates")
    print(f"evaluation  {figures['evaluation']:8.3f} s")
    print(f"bare        {figures['bare']:8.3f} s")
    print(f"ratio       {figures['ratio']:8.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

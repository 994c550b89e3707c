"""What UniPruning costs besides the training, on MindSpore: ``apply`` and one zeroing step of ResNet-50.

    python benchmarks/uni_pruning.py [--rounds 5] [--json FILE]

Medians in seconds on this machine. *compile* is the time inside MindSpore's own compiler, *checkpoint* that
inside ``mindspore.save_checkpoint``; both are parts of the line above them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prunekit.backend_mindspore import UniPruner, _mindir, uni_pruner
from prunekit.backend_mindspore.backend import MindSporeBackend

SETTINGS = {
    "exp_name": "bench", "frequency": 1, "target_sparsity": 0.75, "target_mode": "keep", "pruning_step": 32,
    "filter_lower_threshold": 32, "input_size": (16, 3, 64, 64),
}  # fmt: skip


@contextmanager
def inside(holder: Any, name: str, spent: list[float]) -> Iterator[None]:
    """Add up the time inside a function of the framework."""
    original: Callable[..., Any] = getattr(holder, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            spent.append(time.perf_counter() - begin)

    setattr(holder, name, timed)
    try:
        yield
    finally:
        setattr(holder, name, original)


def once(folder: str) -> dict[str, float]:
    """One ``apply`` and one step on a fresh network."""
    net = MindSporeBackend().build_model("resnet50")
    algo = UniPruner({**SETTINGS, "output_path": folder}, formats=())
    compiling: list[float] = []
    saving: list[float] = []
    executor = _mindir._executor()
    begin = time.perf_counter()
    with inside(executor, "compile", compiling):
        algo.apply(net)
    applied = time.perf_counter() - begin
    begin = time.perf_counter()
    with inside(uni_pruner.ms, "save_checkpoint", saving):
        algo.callbacks()[0].epoch_begin(1)
    step = time.perf_counter() - begin
    return {"apply": applied, "  compile": sum(compiling), "zeroing step": step, "  checkpoint": sum(saving)}


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = [once(folder) for _ in range(options.rounds)]
    medians = {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}
    print("ResNet-50, 64 × 64, step 32, 0.75 of the parameters kept")
    for key, seconds in medians.items():
        print(f"  {key:16s} {seconds:8.3f}")
    if options.json is not None:
        seconds = {key.strip(): value for key, value in medians.items()}
        options.json.write_text(json.dumps({"rounds": options.rounds, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()

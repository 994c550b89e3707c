"""A small network with its data in one framework, and PruneEA by a formula instead of an evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)

from prunekit.algorithms.prune_ea import PruneEA
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Evaluation, Request
from prunekit.core.method import Outcome, Task
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_backend

__all__ = ["BACKENDS", "IF_THERE", "KEYS", "TOTAL", "Bench", "Counting", "make"]

IF_THERE = pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")
BACKENDS = ["torch", pytest.param("mindspore", marks=IF_THERE)]
KEYS: dict[str, Any] = {
    "num_generation": 2, "num_individual": 4, "random_models": 4, "bn_batches": 2, "train_front": 2,
}  # fmt: skip
TOTAL = 4 + 2 * 4


@dataclasses.dataclass(frozen=True)
class Bench:
    """A small network and its data in one framework."""

    name: str
    analysis: Analysis
    loaders: Loaders
    model: str = "resnet20"

    def task(self, folder: Path | None = None, **fields: Any) -> Task:
        recipe = Recipe(epochs=1, lr=0.05, steps_per_epoch=2)
        return Task(
            self.analysis, self.loaders, **{"model": self.model, "folder": folder, "finetune": recipe, **fields}
        )

    def search(self, folder: Path | None = None, keys: Mapping[str, Any] | None = None, **fields: Any) -> Outcome:
        return PruneEA({**KEYS, **(keys or {})}).run(self.task(folder, **fields))


def make(name: str, model: str = "resnet20", data: str = "digits", **options: Any) -> Bench:
    if name == "torch":
        torch.set_num_threads(1)  # more of them only wait for each other over images of 8 x 8
    backend: Any = get_backend(name)
    loaders = backend.loaders(data, 16, limit=96, **options)
    network = backend.build_model(model, seed=0, in_channels=1)
    backend.fit(network, loaders.train, Recipe(epochs=1, lr=0.05, steps_per_epoch=5), show=False)
    example = backend.example((1, *loaders.shape))
    return Bench(name, analyse(backend, network, example, probe=False), loaders, model)


class Counting(PruneEA):
    """Scores by a formula, counts what is asked, and stops after so many."""

    def __init__(self, keys: Mapping[str, Any], most: int = 10**9) -> None:
        super().__init__(keys)
        self.most, self.asked = most, 0

    def evaluation(self, task: Task) -> Evaluation:
        def judge(request: Request) -> dict[str, float]:
            if self.asked == self.most:
                raise KeyboardInterrupt
            self.asked += 1
            kept = np.array(request.vector, dtype=np.float64)
            # the first channels of a segment matter more, and no network is perfect
            return {"score": 0.9 * float(kept @ np.linspace(1.5, 0.5, len(kept))) / len(kept), "loss": 1.0}

        return judge

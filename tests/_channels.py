"""What the tests of channel pruning share: a small task in either framework, and what pruning it gives."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from prunekit.algorithms.channel_pruning.pruner import prune_by_widths
from prunekit.algorithms.channel_pruning.settings import ChannelPruningSettings
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.method import Outcome, Task
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_backend

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)

NEEDS_MINDSPORE = pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")
BACKENDS = ["torch", pytest.param("mindspore", marks=NEEDS_MINDSPORE)]
MOSTLY_TORCH = ["torch", pytest.param("mindspore", marks=[NEEDS_MINDSPORE, pytest.mark.slow])]
# MindSpore runs networks op by op where layers are watched: what takes half a minute there is for the long tests
LONG = ["torch", pytest.param("mindspore", marks=[NEEDS_MINDSPORE, pytest.mark.slow])]
CASES = [
    ("resnet20", "torch"),
    ("lenet5", "torch"),
    pytest.param("lenet5", "mindspore", marks=NEEDS_MINDSPORE),
    pytest.param("resnet20", "mindspore", marks=[NEEDS_MINDSPORE, pytest.mark.slow]),
]
SETTINGS = ChannelPruningSettings(cp_nb_batches=4, cp_nb_points_per_layer=10)


@cache
def state_of(name: str) -> dict[str, np.ndarray]:
    """Weights with sound statistics and norms that are no identities: the same for both frameworks."""
    backend = get_backend("torch")
    model = backend.build_model(name, seed=1, in_channels=1)
    rng = np.random.default_rng(0)
    state = backend.get_state(model)
    for key, value in state.items():
        if value.ndim == 1 and key.endswith("weight"):
            state[key] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif value.ndim == 1 and key.endswith("bias"):
            state[key] = rng.normal(0, 0.3, value.shape).astype(np.float32)
    backend.set_state(model, state)
    backend.recalibrate(model, backend.loaders("digits", 32, size=size_of(name), limit=160).calibration, 4)
    return backend.get_state(model)


def size_of(name: str) -> int:
    return 28 if name == "lenet5" else 8


@cache
def task_of(backend_name: str, name: str = "resnet20") -> Task:
    backend = get_backend(backend_name)
    size = size_of(name)
    loaders = backend.loaders("digits", 32, size=size, limit=160)
    model = backend.build_model(name, seed=1, in_channels=1)
    backend.set_state(model, state_of(name))
    analysis = analyse(backend, model, backend.example((2, 1, size, size), like=model))
    return Task(analysis, loaders, model=name, finetune=Recipe(epochs=1, lr=0.01))


@cache
def pruned(backend_name: str, name: str = "resnet20", **options: Any) -> Outcome:
    task = task_of(backend_name, name)
    correct = options.pop("correct", True)
    settings = SETTINGS.model_copy(update=options)
    return prune_by_widths(task, settings, uneven(task.analysis), correct=correct)


def uneven(analysis: Analysis) -> np.ndarray:
    """About 60 % of each group, no two counts by the same rule."""
    widths = analysis.coupling.widths
    return np.maximum(widths * (50 + 7 * (np.arange(len(widths)) % 4)) // 100, 1)


def logits(analysis: Analysis, loaders: Any, model: Any = None) -> np.ndarray:
    return analysis.backend.predict(analysis.model if model is None else model, loaders.calibration)


def error(outcome: Outcome, task: Task, *, recalibrate: bool = False) -> float:
    """How far the cut network's answers are from the base network's."""
    backend = task.analysis.backend
    small = backend.apply(outcome.analysis, outcome.plan)
    if recalibrate:
        backend.recalibrate(small, task.loaders.calibration, 4)
    wanted = logits(task.analysis, task.loaders)
    return float(np.linalg.norm(logits(task.analysis, task.loaders, small) - wanted) / np.linalg.norm(wanted))

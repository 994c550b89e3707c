"""The law on real MindSpore networks: mindcv's families, in both modes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
import mindspore as ms
from nets_mindspore import randomise

from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.recipe import Recipe
from prunekit.core.testing import random_plan, relative_error

BACKEND = MindSporeBackend()
QUICK = ("resnet18", "mobilenet_v3_small_100")
SLOW = (
    "resnetv2_50", "resnext50_32x4d", "seresnet18", "vgg11", "densenet121", "googlenet", "inception_v3",
    "mobilenet_v1_100", "mobilenet_v2_100", "mnasnet_050", "shufflenet_v1_g3_10", "shufflenet_v2_x0_5",
    "squeezenet1_0", "efficientnet_b0", "regnet_x_400mf", "ghostnet_100", "hrnet_w32", "res2net50", "convnext_tiny",
    "repvgg_a0", "mixnet_s", "dpn92", "xception",
)  # fmt: skip
MODELS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
MODES = ("PYNATIVE", "GRAPH")


def size(name: str) -> int:
    """Side of an image that a network takes."""
    if name.startswith("inception"):  # its auxiliary head takes no smaller one
        return 299
    return 224 if name.startswith("vgg") else 64


@cache
def analysed(name: str) -> Analysis:
    ms.set_seed(1)
    net = randomise(BACKEND.build_model(f"mindcv:{name}", num_classes=10))
    rng = np.random.default_rng(0)
    images = ms.Tensor(rng.normal(size=(4, 3, size(name), size(name))).astype(np.float32))
    # statistics that fit the weights: without, values grow beyond what single precision can tell apart
    BACKEND.recalibrate(net, [(images, ms.Tensor(np.zeros(4, np.int32)))], 1)
    return analyse(BACKEND, net.set_train(False), images)


def outputs(net: Any, images: ms.Tensor) -> np.ndarray:
    return BACKEND.predict(net, images)


@pytest.mark.parametrize("name", MODELS)
def test_pruned_equals_masked(name: str) -> None:
    analysis = analysed(name)
    before = ms.get_context("mode")
    plan = random_plan(analysis, seed=2)
    small = BACKEND.apply(analysis, plan)
    assert len(BACKEND.get_state(small)) == len(BACKEND.get_state(analysis.model))
    try:
        for mode in MODES:
            ms.set_context(mode=getattr(ms, f"{mode}_MODE"))
            full = outputs(analysis.model, analysis.example)
            with BACKEND.masked(analysis, plan):
                expected = outputs(analysis.model, analysis.example)
            found = outputs(small, analysis.example)
            # hrnet adds up dozens of branches in single precision
            assert relative_error(found, expected) < (5e-5 if name.startswith("hrnet") else 1e-5), mode
            assert relative_error(found, full) > 1e-3, "pruning changed nothing: the test is blind"
    finally:
        ms.set_context(mode=before)


@pytest.mark.parametrize("name", MODELS)
def test_pruned_trains_and_is_exported(name: str, tmp_path: Path) -> None:
    analysis = analysed(name)
    small = BACKEND.apply(analysis, random_plan(analysis, seed=2))
    before = BACKEND.get_state(small)
    loader = [(analysis.example, ms.Tensor(np.arange(4, dtype=np.int32)))]
    BACKEND.fit(small, loader, Recipe(epochs=1, lr=0.01, schedule="constant", seed=0), show=False)
    after = BACKEND.get_state(small)
    moved = [n for n in before if "running" not in n and not np.array_equal(before[n], after[n])]
    assert len(moved) > 0.9 * sum("running" not in n for n in before)
    path = BACKEND.export(small, analysis.example, tmp_path / "small.mindir", "mindir")
    assert path.stat().st_size > 0

"""The two frameworks held together: the same network, the same groups, costs, scores, masks and cuts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
import mindspore as ms
import torch
from _twins import Twins, check_budget, check_costs, check_groups, check_plan, worst

from prunekit.algorithms.uni_pruning import UniPruning
from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.prune import score_model
from prunekit.core.testing import random_plan, relative_error

MODELS = [entry.name for entry in TorchBackend().list_models()]
QUICK = ("lenet5", "resnet20", "mobilenetv2")


@cache
def twins(name: str) -> Twins:
    torch_backend, mindspore_backend = TorchBackend(), MindSporeBackend()
    shape = (2, *torch_backend.default_input(name)[1:])
    if shape[-1] > 64:
        shape = (2, 3, 64, 64)
    model = torch_backend.build_model(name, seed=1)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, *shape[1:])).astype(np.float32)
    torch_backend.recalibrate(model, [torch.as_tensor(images)], 1)
    state = {n: _random_norm(n, v, rng) for n, v in torch_backend.get_state(model).items()}
    torch_backend.set_state(model, state)
    net = mindspore_backend.build_model(name, seed=1)
    mindspore_backend.set_state(net, state)
    return Twins(
        analyse(torch_backend, model.eval(), torch.zeros(shape)),
        analyse(mindspore_backend, net.set_train(False), ms.Tensor(np.zeros(shape, np.float32))),
        images,
    )


def _random_norm(name: str, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if value.ndim == 1 and name.endswith("weight"):
        return rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
    if value.ndim == 1 and name.endswith("bias"):
        return rng.normal(0, 0.3, value.shape).astype(np.float32)
    return value


@pytest.fixture(params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS])
def pair(request: Any) -> Twins:
    return twins(request.param)


def test_groups_and_frozen_layers_are_the_same(pair: Twins) -> None:
    check_groups(pair)


def test_outputs_are_the_same(pair: Twins) -> None:
    mine, theirs = pair.outputs(pair.models)
    assert worst(theirs, mine) < 1e-4


def test_costs_are_the_same_to_the_last_unit(pair: Twins) -> None:
    check_costs(pair)


@pytest.mark.parametrize("criterion", ["l1", "l2", "l2_gamma", "bn_gamma", "fpgm", "lamp"])
def test_scores_are_the_same(pair: Twins, criterion: str) -> None:
    try:
        left = score_model(pair.torch, criterion)
    except Exception as error:
        with pytest.raises(type(error)):
            score_model(pair.mindspore, criterion)
        return
    right = score_model(pair.mindspore, criterion)
    assert left.keys() == right.keys()
    assert all(relative_error(right[g], left[g]) < 1e-5 for g in left)


def test_a_budget_gives_the_same_plan(pair: Twins) -> None:
    check_budget(pair)


def test_uni_pruning_takes_the_same_channels(pair: Twins) -> None:
    method = UniPruning({"target_sparsity": 0.3, "pruning_step": 4, "filter_lower_threshold": 4})
    masks = [
        method.choose(a.coupling, a.backend.get_state(a.model)).plan.mask(a.coupling)
        for a in (pair.torch, pair.mindspore)
    ]
    assert masks[0] == masks[1]


def test_a_plan_of_one_framework_cuts_the_twin(pair: Twins) -> None:
    whole, cut = check_plan(pair)
    assert worst(cut, whole) > 1e-3


@pytest.mark.parametrize("source", ["torch", "mindspore"])
def test_a_folder_of_one_framework_loads_in_the_other(source: str, tmp_path: Path) -> None:
    pair = twins("lenet5")
    mine, other = (pair.torch, pair.mindspore) if source == "torch" else (pair.mindspore, pair.torch)
    small = mine.backend.apply(mine, random_plan(mine, seed=3))
    mine.backend.save(small, tmp_path)
    again = other.backend.load(other.model, tmp_path)
    both = (small, again) if source == "torch" else (again, small)
    ours, theirs = pair.outputs(both)
    assert worst(theirs, ours) < 1e-4
    assert other.backend.plan_of(again).kept == mine.backend.plan_of(small).kept

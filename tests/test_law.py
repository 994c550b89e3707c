"""The law on real networks: a pruned network equals the original with the removed channels masked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from nets import randomise, tensors
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.budget import Budget
from prunekit.core.plan import PruningPlan
from prunekit.core.prune import prune
from prunekit.core.testing import random_plan, relative_error

BACKEND = TorchBackend()
QUICK = [
    "resnet18", "resnext50_32x4d", "alexnet", "squeezenet1_0", "googlenet", "mobilenet_v3_small", "mnasnet0_5",
    "shufflenet_v2_x0_5", "regnet_y_400mf",
]  # fmt: skip
REST = [
    "convnext_tiny",
    "resnet50", "wide_resnet50_2", "vgg11_bn", "densenet121", "inception_v3", "mobilenet_v2", "efficientnet_b0",
    "regnet_x_400mf",
]  # fmt: skip
ATTENTION = ["vit_b_16", "swin_t", "maxvit_t"]
TRAIN_ONLY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}


def networks(names: list[str], slow: bool) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if slow else ()) for name in names]


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A torchvision classifier with random norms, and an image of the size it was made for."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in TRAIN_ONLY else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = BACKEND.build_model(f"torchvision:{name}", **options)
    size = 299 if name == "inception_v3" else 224
    return randomise(model).eval(), torch.randn(1, 3, size, size)


def half_of_every_group(analysis: Analysis) -> PruningPlan:
    """The plan that ``ratio=0.5, scope="layer"`` makes."""
    _, plan = prune(BACKEND, analysis.model, analysis.example, Budget.of(ratio=0.5), scope="layer", importance="l1")
    return plan


def check_law(analysis: Analysis, plan: PruningPlan) -> nn.Module:
    """Pruned equals masked in double precision, and differs from the whole network."""
    small = BACKEND.apply(analysis, plan)
    with torch.inference_mode():
        found = small(analysis.example)
        with BACKEND.masked(analysis, plan):
            expected = analysis.model(analysis.example)
        full = analysis.model(analysis.example)
    assert relative_error(found, expected) < 1e-9
    assert relative_error(found, full) > 1e-3
    return small


@pytest.mark.parametrize("name", networks(QUICK, slow=False) + networks(REST, slow=True))
def test_pruned_equals_masked(name: str) -> None:
    model, example = build(name)
    analysis = analyse(BACKEND, model.double(), example.double())
    for plan in (random_plan(analysis), half_of_every_group(analysis)):
        small = check_law(analysis, plan)
        lost = 1 - sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
        assert lost > 0.25, "little was cut: what froze?"


@pytest.mark.parametrize("name", networks(QUICK, slow=False) + networks(REST, slow=True))
def test_nothing_but_the_classifier_is_frozen(name: str) -> None:
    model, example = build(name)
    reasons = {f.reason for f in analyse(BACKEND, model, example).coupling.frozen}
    assert reasons <= {"output of the network", "a single coupled set: nothing can be left out"}


@pytest.mark.parametrize("name", networks(QUICK[::2], slow=False) + networks(QUICK[1::2] + REST, slow=True))
def test_pruned_trains_and_takes_other_batches(name: str) -> None:
    model, example = build(name)
    analysis = analyse(BACKEND, model, example)
    small = BACKEND.apply(analysis, half_of_every_group(analysis))
    with torch.inference_mode():
        assert small(torch.cat([example] * 3)).shape == (3, 1000)
    small.train()
    outputs = tensors(small(torch.cat([example, example.flip(-1)])))
    assert len(outputs) == 1 + len(TRAIN_ONLY.get(name, ()))
    sum(output.square().mean() for output in outputs).backward()
    dead = [n for n, p in small.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead


EXPORTED = ["resnet18", "shufflenet_v2_x0_5"]
NOT_QUICKLY = [name for name in QUICK + REST if name not in EXPORTED]


@pytest.mark.parametrize("name", networks(EXPORTED, slow=False) + networks(NOT_QUICKLY, slow=True))
def test_exports_of_pruned_agree(name: str, tmp_path: Path) -> None:
    model, example = build(name)
    analysis = analyse(BACKEND, model, example)
    small = BACKEND.apply(analysis, random_plan(analysis))
    with torch.inference_mode():
        expected = small(example)
        script = torch.jit.load(BACKEND.export(small, example, tmp_path / "net.ts", "torchscript"))
        assert relative_error(script(example), expected) < 1e-5
    session = onnxruntime.InferenceSession(BACKEND.export(small, example, tmp_path / "net.onnx", "onnx"))
    found = session.run(None, {session.get_inputs()[0].name: example.numpy()})[0]
    assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("name", TRAIN_ONLY)
def test_auxiliary_heads_are_cut_too(name: str) -> None:
    model, example = build(name)
    analysis = analyse(BACKEND, model, example)
    assert analysis.graph.train_ops
    small = BACKEND.apply(analysis, random_plan(analysis))
    before, after = dict(model.named_parameters()), dict(small.named_parameters())
    for head in TRAIN_ONLY[name]:
        cut = [n for n in before if n.startswith(f"{head}.") and after[n].numel() < before[n].numel()]
        assert cut, head
    # train mode: dropout off, so that both see the same; norms keep their statistics
    for network in (model, small):
        network.train()
        for module in network.modules():
            if isinstance(module, nn.Dropout | nn.modules.batchnorm._BatchNorm):
                module.eval()
    with torch.no_grad():
        found = tensors(small(example))
        BACKEND.zero(analysis, random_plan(analysis))
        expected = tensors(model(example))
    assert len(found) == 1 + len(TRAIN_ONLY[name])
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < 1e-4


@pytest.mark.parametrize("name", networks(["vit_b_16"], slow=False) + networks(["swin_t", "maxvit_t"], slow=True))
def test_attention_may_freeze_but_stays_right(name: str) -> None:
    model, example = build(name)
    analysis = analyse(BACKEND, model.double(), example.double())
    assert analysis.groups and analysis.coupling.frozen
    assert all(f.reason for f in analysis.coupling.frozen)
    check_law(analysis, random_plan(analysis))


def test_masks_and_cuts_agree_channel_by_channel() -> None:
    """Removing one channel at a time finds a wrong index that a random cut could hide."""
    model, example = build("shufflenet_v2_x0_5")
    analysis = analyse(BACKEND, model.double(), example.double())
    group = analysis.groups[0]
    for channel in range(0, group.size, 7):
        kept = np.setdiff1d(np.arange(group.size), [channel]).tolist()
        plan = PruningPlan.of(analysis.coupling, {group.name: kept})
        small = BACKEND.apply(analysis, plan, check=False)
        with torch.inference_mode():
            found = small(analysis.example)
            with BACKEND.masked(analysis, plan):
                expected = analysis.model(analysis.example)
        assert relative_error(found, expected) < 1e-9

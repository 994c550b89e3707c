"""The drop-in UniPruner: training, conversion, files, and what it refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from _uni import SHAPE, Toy, analysed, settings_for
from nets import Mixed, randomise
from torch import nn

from prunekit.algorithms.uni_pruning import check_mask
from prunekit.backend_torch import load, plan_of
from prunekit.backend_torch.uni_pruner import UniPruner
from prunekit.core.errors import (
    BudgetError,
    CheckpointError,
    InputError,
    OutputError,
    PlanError,
)

# ---------------------------------------------------------------- training and conversion


def train(model: nn.Module, steps: int = 2, optimizer: torch.optim.Optimizer | None = None) -> None:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    model.train()
    for _ in range(steps):
        inputs, targets = torch.randn(8, *SHAPE[1:]), torch.randint(0, 10, (8,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def test_a_plain_loop_from_training_to_the_smaller_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "prunekit.uni_pruning")
    model = randomise(Mixed())
    algo = UniPruner(settings_for(tmp_path), formats=("torchscript",))
    assert algo.apply(model) is model
    callback = algo.callbacks()[0]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for epoch in range(1, 5):
        callback.epoch_begin(epoch)
        train(model, 1, optimizer)
        callback.epoch_end(epoch, 4)
    folder = tmp_path / "trial"
    assert callback.output_path == str(folder)
    steps = [f"trial_zeroed_rank0_epoch{n}" for n in (1, 3, 4)]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        f"{s}{end}{seal}" for s in steps for end in (".safetensors", "_mask.json") for seal in ("", ".sha256")
    )
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 3 and all("keeps" in line and "prunes" in line for line in lines)

    before = {n: t.clone() for n, t in model.state_dict().items()}
    small = algo.convert(model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    x = torch.randn(5, *SHAPE[1:])
    with torch.no_grad():
        assert torch.allclose(small.eval()(x), model.eval()(x), atol=1e-5, rtol=1e-5)
    size = sum(p.numel() for p in small.parameters())
    assert size < 0.62 * sum(p.numel() for p in model.parameters())
    mask = json.loads((folder / "trial_zeroed_rank0_epoch4_mask.json").read_text())
    assert len(mask["stem.0"]) == 16 - small.stem[0].out_channels
    assert plan_of(small).kept == callback.selection.plan.kept

    stem = "trial_pruned_0_epoch4"
    again = load(Mixed(), folder / stem)
    scripted = torch.jit.load(str(folder / f"{stem}.ts"))
    with torch.no_grad():
        assert torch.equal(again.eval()(x), small(x))
        assert torch.allclose(scripted(x), small(x), atol=1e-5)
    train(small)


def trained(folder: Path, model: nn.Module, **changes: Any) -> tuple[UniPruner, Path, Path]:
    """One epoch of UniPruning: the pruner, the last weights file, the last mask."""
    algo = UniPruner(settings_for(folder, **changes), formats=())
    algo.apply(model)
    callback = algo.callbacks()[0]
    callback.epoch_begin(1)
    train(model)
    callback.epoch_end(1, 1)
    return algo, callback.weights_path, callback.mask_path


def test_the_documented_calls_all_give_the_same_network(tmp_path: Path) -> None:
    model = randomise(Mixed())
    algo, weights, mask_path = trained(tmp_path, model)
    mask = json.loads(mask_path.read_text())
    args = SimpleNamespace(exp_name="trial", epoch_size=7, device_target="GPU")
    x = torch.randn(3, *SHAPE[1:])
    fresh = UniPruner(settings_for(tmp_path), formats=())
    results = [
        algo.convert(model, mask, args, "pruned"),
        algo.prune_by_mask(model, mask, args, "by_mask"),
        fresh.convert(net_opt=Mixed(), ckpt_path=str(weights), mask_path=str(mask_path)),
    ]
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    results.append(fresh.convert(Mixed(), mask, ckpt_path=tmp_path / "weights.pt"))
    expected = algo.convert(model).eval()(x)
    assert all(torch.equal(r.eval()(x), expected) for r in results)
    names = {p.name for p in (tmp_path / "trial").iterdir()}
    assert {"trial_pruned_0_epoch7", "trial_by_mask_0_epoch7"} <= names


def test_original_means_nothing_is_cut(tmp_path: Path) -> None:
    model = Mixed()
    algo, _, _ = trained(tmp_path, model)
    whole = algo.convert(model, None, None, "original")
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in model.parameters())
    loaded = load(Mixed(), tmp_path / "trial" / "trial_original_0_epoch1")
    x = torch.randn(3, *SHAPE[1:])
    assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_a_model_is_pruned_unless_the_original_is_asked_for(tmp_path: Path) -> None:
    model = Mixed()
    algo, _, mask_path = trained(tmp_path, model)
    small = algo.convert(model, None, {"exp_name": "other", "epoch_size": 5, "rate": 0.1}, "pruned")
    assert plan_of(small).mask(analysed(model).coupling) == json.loads(mask_path.read_text())
    assert (tmp_path / "trial" / "other_pruned_0_epoch5" / "plan.json").exists()


class Counting(Mixed):
    """It has state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"count": 1}

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set."""


def test_a_model_of_another_precision_with_extra_state(tmp_path: Path) -> None:
    model = randomise(Counting()).double()
    algo = UniPruner(settings_for(tmp_path), formats=("torchscript",))
    algo.apply(model)
    algo.callbacks()[0].epoch_begin(1)
    small = algo.convert(model, {"hidden": [0, 1]}).eval()
    x = torch.randn(3, *SHAPE[1:], dtype=torch.float64)
    scripted = torch.jit.load(str(tmp_path / "trial" / "trial_pruned_0_epoch1.ts"))
    assert small.hidden.out_features == 18 and torch.allclose(scripted(x), small(x))


def test_a_loop_that_never_tells_its_last_epoch(tmp_path: Path) -> None:
    model = randomise(Mixed())
    algo = UniPruner(settings_for(tmp_path), formats=())
    algo.apply(model)
    callback = algo.callbacks()[0]
    for _ in range(2):
        callback.epoch_begin()
        train(model)
        callback.epoch_end()
    small = algo.convert(model)
    assert (tmp_path / "trial" / "trial_zeroed_rank0_epoch2_mask.json").exists()
    x = torch.randn(3, *SHAPE[1:])
    with torch.no_grad():
        assert torch.allclose(small.eval()(x), model.eval()(x), atol=1e-5, rtol=1e-5)


def test_a_trainer_with_hooks(tmp_path: Path) -> None:
    model = randomise(Mixed())
    algo = UniPruner(settings_for(tmp_path, rank=3), formats=())
    algo.apply(model)
    hooks = algo.callbacks()[0]
    trainer = SimpleNamespace(current_epoch=0, max_epochs=2)
    # what Lightning's Trainer calls, most of which does not concern pruning
    hooks.setup(trainer, model, stage="fit")
    hooks.on_train_start(trainer, model)
    for trainer.current_epoch in range(2):
        hooks.on_train_epoch_start(trainer, model)
        hooks.on_train_batch_start(trainer, model, None, 0)
        train(model)
        hooks.on_train_batch_end(trainer, model, None, None, 0)
        hooks.on_train_epoch_end(trainer, model)
        hooks.load_state_dict(hooks.state_dict())
    hooks.on_train_end(trainer, model)
    hooks.teardown(trainer, model, stage="fit")
    assert hooks.state_key and not hasattr(hooks, "train_epoch")
    masks = sorted(p.name for p in (tmp_path / "trial").glob("*.json"))
    assert masks == ["trial_zeroed_rank3_epoch1_mask.json", "trial_zeroed_rank3_epoch2_mask.json"]


def test_zeroed_channels_regrow_until_the_last_step(tmp_path: Path) -> None:
    model = randomise(Toy())
    algo = UniPruner(settings_for(tmp_path, regrow=True), formats=())
    algo.apply(model)
    callback = algo.callbacks()[0]
    callback.epoch_begin(1)
    gone = callback.mask["conv1"]
    assert gone and not model.conv1.weight[gone].any()
    train(model, 3)
    assert model.conv1.weight[gone].flatten(1).any(1).any()
    callback.epoch_end(1, 1)
    final = callback.mask["conv1"]
    assert not model.conv1.weight[final].any() and not model.bn1.bias[final].any()


class Tied(Toy):
    """A second use of one weight, between layers of the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.conv3.weight = self.conv2.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv3(self.conv2(x))))
        return self.fc(x.mean((2, 3)))


def test_tied_weights_in_checkpoints(tmp_path: Path) -> None:
    model = randomise(Tied())
    algo, weights, mask_path = trained(tmp_path, model)
    again = UniPruner(settings_for(tmp_path), formats=()).convert(Tied(), ckpt_path=weights, mask_path=mask_path)
    x = torch.randn(3, *SHAPE[1:])
    assert again.conv2.weight is again.conv3.weight and again.conv2.weight.shape[0] < 8
    assert torch.equal(again.eval()(x), algo.convert(model).eval()(x))


def test_pruning_switched_off(tmp_path: Path) -> None:
    model = Mixed()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    algo = UniPruner(settings_for(tmp_path, prune_flag=0, target_sparsity=0.99999), formats=())
    algo.apply(model)
    callback = algo.callbacks()[0]
    callback.epoch_begin(1)
    callback.epoch_end(1, 1)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- bad input


def test_an_unreachable_target_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="least that can be reached"):
        UniPruner(settings_for(tmp_path, target_sparsity=0.99)).apply(Mixed())
    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="writable"):
        UniPruner(settings_for(tmp_path / "file")).apply(Mixed())


def test_callbacks_before_apply_and_epochs_from_zero(tmp_path: Path) -> None:
    algo = UniPruner(settings_for(tmp_path))
    early = algo.callbacks()[0]
    assert early.output_path == str(tmp_path / "trial")
    with pytest.raises(InputError, match="apply"):
        early.epoch_begin(1)
    algo.apply(Mixed())
    assert algo.callbacks()[0] is early
    with pytest.raises(InputError, match="from 1"):
        early.epoch_begin(0)
    algo.apply(Mixed())
    assert algo.callbacks()[0] is not early


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"layer1.0.conv1": [0, 1]}, "layer1.0.conv1"),
        ({"stem.0": [99]}, "99"),
        ({"stem.0": [0], "a": [1]}, "coupled layers"),
        ({"fc": [0]}, "fc"),
        ({"stem.0": list(range(16))}, "at least one"),
        ({"stem.0": "all"}, "channel indices"),
        ({"stem.0": [0.5]}, "channel indices"),
        ([1, 2], "layer names"),
    ],
)
def test_masks_that_do_not_fit(tmp_path: Path, mask: Any, message: str) -> None:
    algo = UniPruner(settings_for(tmp_path / "out"), formats=())
    path = tmp_path / "mask.json"
    path.write_text(json.dumps(mask))
    with pytest.raises(PlanError, match=message):
        algo.convert(Mixed(), mask, None, "pruned")
    with pytest.raises(PlanError, match=message):
        algo.convert(net_opt=Mixed(), mask_path=str(path))
    assert not (tmp_path / "out").exists()


def test_masks_of_numpy_arrays() -> None:
    assert check_mask({"conv": np.array([1, 2])}) == {"conv": [1, 2]}


def test_checkpoints_that_are_damaged_or_foreign(tmp_path: Path) -> None:
    model = Mixed()
    algo, weights, mask_path = trained(tmp_path, model)
    data = weights.read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(data[: len(data) // 2])
    torch.save(model, tmp_path / "whole.pt")
    torch.save(model.state_dict(), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:3000])
    torch.save(Toy().state_dict(), tmp_path / "toy.pt")
    for path in (broken, tmp_path / "whole.pt", tmp_path / "cut.pt", tmp_path / "toy.pt", tmp_path / "none"):
        with pytest.raises(CheckpointError):
            algo.convert(model, mask_path=mask_path, ckpt_path=path)
    with pytest.raises(PlanError, match="readable JSON"):
        algo.convert(model, mask_path=broken)


def test_a_mask_that_leaves_layers_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    algo = UniPruner(settings_for(tmp_path), formats=())
    algo.prune_by_mask(Toy(), {"conv1": [0], "conv2": []})
    assert "is it of another model" not in caplog.text
    algo.prune_by_mask(Toy(), {"conv1": [0]}, tag="part")
    assert "the mask names 1 of 2 layers that may be cut and not, for instance, conv2" in caplog.text

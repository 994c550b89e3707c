"""UniPruning: the published figures, the rule against a slow reading of it, the schedule, and the drop-in."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Mixed, randomise
from torch import nn

from prunekit.algorithms.uni_pruning import UniPruning, UniPruningConfig, check_mask
from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.store import load, plan_of
from prunekit.backend_torch.uni_pruner import UniPruner
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.cost import Cost
from prunekit.core.errors import (
    BudgetError,
    CheckpointError,
    ConfigError,
    InputError,
    NothingToPruneError,
    OutputError,
    PlanError,
)

GOLDEN = Path(__file__).parent / "golden"
SHAPE = (2, 3, 12, 12)


class Toy(nn.Module):
    """The network of the golden files."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def toy(norms: dict[str, list[float]]) -> Toy:
    """A toy whose channels have exactly the given norms: one weight of each is not zero."""
    model = Toy()
    with torch.no_grad():
        for layer, values in norms.items():
            weight = getattr(model, layer).weight
            weight.zero_()
            for channel, value in enumerate(values):
                weight[channel, channel % weight.shape[1], 1, 1] = value
    return model


def analysed(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> Analysis:
    return analyse(TorchBackend(), model, torch.zeros(shape))


def state_of(analysis: Analysis) -> Any:
    return analysis.backend.get_state(analysis.model)


def settings_for(folder: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "exp_name": "trial",
        "frequency": 2,
        "target_sparsity": 0.4,
        "pruning_step": 2,
        "filter_lower_threshold": 2,
        "input_size": SHAPE,
        "output_path": str(folder),
    }
    return {**values, **changes}


# ---------------------------------------------------------------- the rule


@pytest.mark.parametrize("name", ["uni_toy_0.5", "uni_toy_0.75"])
def test_golden_toy(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    analysis = analysed(toy(golden["norms"]))
    method = UniPruning(
        {
            "pruning_step": golden["pruning_step"],
            "filter_lower_threshold": golden["filter_lower_threshold"],
            "target_sparsity": golden["target_sparsity"],
            "target_mode": "keep",
            "use_gamma": False,
        }
    )
    chosen = method.choose(analysis.coupling, state_of(analysis))
    result = golden["result"]
    assert (chosen.full, chosen.target) == (result["full"], result["target"])
    steps = [
        {"layer": s.group, "group": s.index, "channels": list(s.channels), "ratio": s.ratio, "size": s.size}
        for s in chosen.steps
    ]
    assert steps == result["steps"]
    assert chosen.plan.mask(analysis.coupling) == result["mask"]


def slow_choice(analysis: Analysis, config: UniPruningConfig) -> list[tuple[str, tuple[int, ...], int]]:
    """The rule as the documentation words it, one group at a time."""
    state, cost = state_of(analysis), Cost(analysis.coupling, "unipruning")
    parts, tops, alive = {}, {}, {}
    for group in analysis.groups:
        producer = group.producers[0]
        norm = np.sqrt((state[producer.name].reshape(producer.length, -1).astype(float) ** 2).sum(1))
        order = list(np.argsort(norm, kind="stable"))
        step = config.pruning_step
        first = group.size % step or step
        chunks = [order[:first]] + [order[i : i + step] for i in range(first, group.size, step)]
        parts[group.name] = [(float(np.median(norm[c])), tuple(sorted(int(i) for i in c))) for c in chunks]
        tops[group.name] = parts[group.name][-1][0]
        alive[group.name] = group.size
    target = config.kept_share * cost.full(("params",))["params"]
    taken: list[tuple[str, tuple[int, ...], int]] = []
    while True:
        size = int(cost.of(np.array([alive[g.name] for g in analysis.groups]), ("params",))["params"][0])
        if taken:
            taken[-1] = (*taken[-1][:2], size)
        if size <= target:
            return taken
        allowed = [
            (tops[name] / (left[0][0] + 1e-5), name)
            for name, left in parts.items()
            if len(left) > 1 and alive[name] - len(left[0][1]) >= config.filter_lower_threshold
        ]
        best = max(ratio for ratio, _ in allowed)
        name = next(n for ratio, n in allowed if ratio == best)
        channels = parts[name].pop(0)[1]
        alive[name] -= len(channels)
        taken.append((name, channels, 0))


@settings(max_examples=40)
@given(
    step=st.integers(1, 5), threshold=st.integers(1, 8), share=st.floats(0.3, 1.0), seed=st.integers(0, 10_000)
)
def test_the_rule_is_the_slow_greedy_search(step: int, threshold: int, share: float, seed: int) -> None:
    analysis = TOY_ANALYSIS
    torch.manual_seed(seed)
    with torch.no_grad():
        for layer in (analysis.model.conv1, analysis.model.conv2):
            layer.weight.normal_().mul_(torch.rand(8, 1, 1, 1) * 3)
    config = UniPruningConfig(
        pruning_step=step, filter_lower_threshold=threshold, target_sparsity=share, target_mode="keep", use_gamma=False
    )
    method = UniPruning(config)
    least = method.least_size(analysis.coupling)
    full = Cost(analysis.coupling, "unipruning").full(("params",))["params"]
    if least > share * full:
        with pytest.raises(BudgetError, match=f"least that can be reached is {least:,}"):
            method.choose(analysis.coupling, state_of(analysis))
        return
    chosen = method.choose(analysis.coupling, state_of(analysis))
    assert [(s.group, s.channels, s.size) for s in chosen.steps] == slow_choice(analysis, config)
    assert all(len(k) >= min(threshold, 8) for k in chosen.plan.kept.values())


TOY_ANALYSIS = analysed(Toy())


def test_target_is_the_share_pruned_unless_asked_otherwise() -> None:
    analysis = analysed(randomise(Toy()))
    common = {"pruning_step": 1, "filter_lower_threshold": 1}
    pruned = UniPruning({**common, "target_sparsity": 0.25}).choose(analysis.coupling, state_of(analysis))
    kept = UniPruning({**common, "target_sparsity": 0.75, "target_mode": "keep"}).choose(
        analysis.coupling, state_of(analysis)
    )
    assert pruned.plan.kept == kept.plan.kept
    assert pruned.kept <= 0.75 < pruned.steps[-2].size / pruned.full
    assert "target: keep 75.00%, prune 25.00%" in str(pruned)


def test_the_gain_of_the_norm_counts_unless_left_out() -> None:
    model = toy({"conv1": [5.0] * 8, "conv2": [5.0] * 8})
    with torch.no_grad():
        model.bn1.weight.copy_(torch.tensor([1, 1, -0.1, 1, 1, 1, 1, 0.2]))
    analysis = analysed(model)
    common = {"pruning_step": 2, "filter_lower_threshold": 6, "target_sparsity": 0.1}
    first = UniPruning(common).choose(analysis.coupling, state_of(analysis)).steps[0]
    assert (first.group, first.channels) == ("conv1", (2, 7))
    plain = UniPruning({**common, "use_gamma": False}).choose(analysis.coupling, state_of(analysis)).steps[0]
    assert plain.channels == (0, 1)


def test_coupled_layers_lose_the_same_channels_and_outputs_none() -> None:
    analysis = analysed(randomise(Mixed()))
    method = UniPruning({"pruning_step": 4, "filter_lower_threshold": 4, "target_sparsity": 0.5})
    mask = method.select(analysis.coupling, state_of(analysis)).mask(analysis.coupling)
    assert mask["stem.0"] == mask["a"] == mask["depthwise"] == mask["excite"]
    assert "fc" not in mask
    assert sum(len(gone) for gone in mask.values()) > 0


def test_what_is_left_is_a_whole_number_of_steps() -> None:
    model = nn.Sequential(nn.Conv2d(3, 22, 3), nn.ReLU(), nn.Conv2d(22, 4, 3), nn.Flatten(), nn.Linear(256, 3))
    analysis = analysed(model)
    method = UniPruning({"pruning_step": 8, "filter_lower_threshold": 8, "target_sparsity": 0.05})
    widths = method.select(analysis.coupling, state_of(analysis)).widths(analysis.coupling)
    assert widths[0] in (8, 16)


def test_the_least_reachable_share_is_reachable() -> None:
    analysis = analysed(randomise(Mixed()))
    tight = UniPruning({"target_sparsity": 0.999, "pruning_step": 4, "filter_lower_threshold": 6})
    with pytest.raises(BudgetError, match="least that can be reached") as caught:
        tight.check_reachable(analysis.coupling)
    least, full = tight.least_size(analysis.coupling), Cost(analysis.coupling, "unipruning").full(("params",))["params"]
    assert f"target_sparsity={1 - least / full:.4f}" in str(caught.value)
    config = {**tight.config.model_dump(), "target_mode": "keep", "target_sparsity": least / full}
    assert UniPruning(config).choose(analysis.coupling, state_of(analysis)).size == least


def test_a_network_without_channels_to_cut() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(NothingToPruneError, match="may be cut"):
        UniPruning({}).check_reachable(analysed(model, (2, 3, 2, 2)).coupling)


def test_weights_that_are_not_finite() -> None:
    model = Toy()
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="finite"):
        UniPruning({"pruning_step": 2, "filter_lower_threshold": 2, "target_sparsity": 0.2}).select(
            TOY_ANALYSIS.coupling, TorchBackend().get_state(model)
        )


# ---------------------------------------------------------------- settings


def test_defaults_are_the_documented_ones() -> None:
    values = UniPruning({}).config.model_dump()
    documented = {
        "exp_name": "unipruning", "frequency": 9, "target_sparsity": 0.75, "pruning_step": 32,
        "filter_lower_threshold": 32, "input_size": (16, 3, 224, 224), "output_path": "./outputs",
        "prune_flag": 1, "rank": 0, "device_target": "Ascend",
    }  # fmt: skip
    assert {key: values[key] for key in documented} == documented


def test_settings_may_be_attributes_of_anything() -> None:
    config = UniPruning(SimpleNamespace(exp_name="a", frequency=3, learning_rate=0.1, epoch_size=12)).config
    assert (config.exp_name, config.frequency, config.epoch_size) == ("a", 3, 12)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target_sparcity": 0.5}, "did you mean 'target_sparsity'"),
        ({"pruning_step": 0}, "pruning_step=0"),
        ({"frequency": "often"}, "frequency='often'"),
        ({"target_sparsity": 1.5}, "target_sparsity=1.5"),
        ({"target_sparsity": 1.0}, "keeps nothing"),
        ({"target_sparsity": 0, "target_mode": "keep"}, "keeps nothing"),
        ({"exp_name": "../up"}, "plain file name"),
        ({"input_size": (0, 3, 8, 8)}, "input_size"),
        ({"prune_flag": 2}, "prune_flag"),
        (3, "dict"),
    ],
)
def test_wrong_settings(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("'", ".")):
        UniPruner(config)


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
        f"{s}{end}" for s in steps for end in (".safetensors", "_mask.json")
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
    with pytest.raises(InputError, match="apply"):
        algo.callbacks()
    algo.apply(Mixed())
    with pytest.raises(InputError, match="from 1"):
        algo.callbacks()[0].epoch_begin(0)


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

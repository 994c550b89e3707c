"""UniPruning: the published figures, the rule against a slow reading of it, and its settings."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from _uni import Toy, analysed, state_of
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Mixed, randomise
from torch import nn

from prunekit.algorithms.uni_pruning import UniPruning, UniPruningConfig
from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.uni_pruner import UniPruner
from prunekit.core.analysis import Analysis
from prunekit.core.cost import Cost
from prunekit.core.errors import (
    BudgetError,
    ConfigError,
    InputError,
    NothingToPruneError,
)

GOLDEN = Path(__file__).parent / "golden"


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
@given(step=st.integers(1, 5), threshold=st.integers(1, 8), share=st.floats(0.3, 1.0), seed=st.integers(0, 10_000))
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

"""Roll-outs of automatic channel pruning: the action wall, the environment, and the budget they keep."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Mixed
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.zoo import build_model
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.cost import Cost
from prunekit.core.encoding import PreserveRatioEncoding
from prunekit.core.errors import BudgetError, NothingToPruneError
from prunekit.core.rollouts import ActionWall, Decisions, lower_bound
from prunekit.core.rollouts.env import PruningEnv

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "pocketflow_resnet20_action_wall_issue52.json").read_text(encoding="utf-8")
)


class Dense(nn.Module):
    """Every conv reads what all before it gave, concatenated."""

    def __init__(self, growth: int = 12, layers: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.convs = nn.ModuleList(nn.Conv2d(16 + growth * k, growth, 3, padding=1) for k in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 + growth * k) for k in range(layers))
        self.last = nn.Conv2d(16 + growth * layers, 24, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


@cache
def analysis(name: str) -> Analysis:
    if name == "dense":
        model, shape = Dense(), (1, 3, 12, 12)
    elif name == "mixed":
        model, shape = Mixed(), (1, 3, 8, 8)
    else:
        model, shape = build_model(name), (1, *TorchBackend().default_input(name)[1:])
        shape = shape if shape[-1] <= 32 else (1, shape[1], 64, 64)
    return analyse(TorchBackend(), model.eval(), torch.zeros(shape), probe=False)


@cache
def decisions(name: str, ratio: float, align: int = 1) -> Decisions:
    return Decisions(analysis(name).coupling, ratio, align)


def play(env: PruningEnv, actions: Any) -> tuple[np.ndarray, list[float]]:
    """The widths that a roll-out ends with, and its rewards."""
    env.reset()
    rewards, done = [], False
    while not done:
        observation, reward, done, truncated, info = env.step(np.array([actions(len(rewards))], dtype=np.float32))
        assert env.observation_space.contains(observation)
        assert not truncated
        rewards.append(reward)
    return info["widths"], rewards


def share_of_budget(found: Decisions, widths: np.ndarray) -> float:
    return float(Cost(found.coupling, "pocketflow").of(widths, ("macs",))["macs"][0] / found.target)


# ---------------------------------------------------------------- the wall


def test_the_wall_is_pocketflows_to_the_last_bit() -> None:
    wall = ActionWall.of_fathers(GOLDEN["layer_flops"], GOLDEN["father"], GOLDEN["preserve_ratio"])
    assert lower_bound(GOLDEN["preserve_ratio"]) == GOLDEN["lbound"]
    assert wall.budget == GOLDEN["desired_preserve"]
    assert wall.strategy.tolist() == GOLDEN["initial_strategy"]
    limits = wall.limits(GOLDEN["state"])
    assert limits.this_flops == GOLDEN["this_flops"]
    assert limits.recommended_action == GOLDEN["recommended_action"]
    assert wall.cost(GOLDEN["state"], GOLDEN["action"]) == GOLDEN["max_reduced_flops"]


def test_pocketflows_wall_holds_its_budget_to_the_end(rng: np.random.Generator) -> None:
    flops, fathers = GOLDEN["layer_flops"], GOLDEN["father"]
    for _ in range(20):
        wall = ActionWall.of_fathers(flops, fathers, 0.5)
        shares = [1.0]
        for state in range(1, len(flops) - 1):
            limits = wall.limits(state)
            shares.append(limits.clip(rng.uniform(GOLDEN["lbound"], 1.0)))
            wall.keep(state, shares[-1])
            assert wall.strategy[state, 0] == shares[-1]
            assert wall.strategy[fathers[state], 1] == shares[-1] if fathers[state] is not None else True
        wall.keep(len(flops) - 1, 1.0)
        spent = sum(f * a * b for f, (a, b) in zip(flops, wall.strategy.tolist(), strict=True))
        assert wall.flops == pytest.approx(spent, rel=1e-12)
        # the last father's outputs are all kept at the end, which the wall of the original does not foresee
        left_out = flops[20] * wall.strategy[20, 0] * (1 - GOLDEN["lbound"])
        assert wall.flops <= GOLDEN["desired_preserve"] + left_out + 1e-6


@pytest.mark.parametrize("name", ["resnet20", "dense", "mobilenetv1", "mixed"])
def test_the_wall_knows_what_a_network_costs(name: str, rng: np.random.Generator) -> None:
    ratio = 0.742 if name == "mixed" else 0.5
    found = decisions(name, ratio)
    for _ in range(5):
        wall, kept = found.wall(), found.least.copy()
        assert wall.flops == pytest.approx(int(found.macs(kept)[0]), rel=1e-9)
        for decision, options in enumerate(found.options):
            kept[decision] = rng.choice(options)
            share = kept[decision] / found.sizes[decision]
            assert wall.cost(decision, share) == pytest.approx(int(found.macs(kept)[0]), rel=1e-9)
            wall.keep(decision, share)
            assert wall.flops == pytest.approx(int(found.macs(kept)[0]), rel=1e-9)
        assert wall.reducible == pytest.approx(0.0, abs=1e-6 * found.full)


@pytest.mark.parametrize("name", ["resnet20", "dense", "mobilenetv2"])
def test_the_wall_stands_where_the_budget_ends(name: str) -> None:
    found = decisions(name, 0.5)
    wall, walls = found.wall(), 0
    for decision in range(len(found)):
        limits = wall.limits(decision)
        if limits.recommended_action < 1:
            walls += 1
            assert wall.cost(decision, limits.recommended_action) == pytest.approx(found.target, rel=1e-9)
        wall.keep(decision, limits.clip(1.0))
    assert walls
    assert wall.flops == pytest.approx(found.target, rel=1e-9)


@pytest.mark.parametrize("name", ["resnet20", "dense", "mobilenetv2"])
def test_the_floor_is_where_later_decisions_can_still_use_up_the_budget(name: str) -> None:
    found = decisions(name, 0.5)
    wall, floors, shares = found.wall(), 0, np.ones(len(found))
    for decision in range(len(found)):
        limits = wall.limits(decision)
        shares[decision] = max(limits.clip(0.0), found.least[decision] / found.sizes[decision])
        wall.keep(decision, shares[decision])
        if limits.floor > found.least[decision] / found.sizes[decision]:
            floors += 1
            greatest = found.wall()
            for other, share in enumerate(shares):
                greatest.keep(other, share)
            assert greatest.flops == pytest.approx(0.99 * found.target, rel=1e-9)
    assert floors
    assert wall.flops >= 0.99 * found.target * (1 - 1e-9)


# ---------------------------------------------------------------- decisions


def test_convs_add_up_to_the_conv_only_cost() -> None:
    for name in ("resnet20", "mobilenetv1", "mobilenetv2", "dense", "mixed"):
        found = decisions(name, 1.0)
        assert found.wall().limits(0).other_flops <= found.full
        assert Cost(found.coupling, "pocketflow").full(("macs",))["macs"] == found.full
        whole = found.wall()
        for decision in range(len(found)):
            whole.keep(decision, 1.0)
        assert whole.flops == found.full


def test_the_last_conv_keeps_its_inputs_and_the_order_is_the_graphs() -> None:
    found = decisions("resnet20", 0.5)
    coupling = found.coupling
    encoding = PreserveRatioEncoding(coupling)
    named = [coupling.groups[g].name for g in found.groups]
    assert "layer3.2.conv1" not in named and len(named) == len(coupling.groups) - 1
    first = [
        min(encoding.layers.index(m.layer) for m in coupling.groups[g].consumers if m.layer in encoding.layers)
        for g in found.groups
    ]
    assert first == sorted(first)


def test_counts_are_multiples_of_four_where_asked(rng: np.random.Generator) -> None:
    found = decisions("resnet20", 0.5, 4)
    env = PruningEnv(found, lambda widths: 0.0)
    for _ in range(10):
        widths, _ = play(env, lambda k: rng.uniform(found.lbound, 1.0))
        assert (widths % 4 == 0).all()
        assert 0.99 <= share_of_budget(found, widths) <= 1


def test_a_share_that_cannot_be_reached_is_refused() -> None:
    coupling = analysis("mixed").coupling
    with pytest.raises(BudgetError, match=r"must lie in the reachable range \[0\.133, 1\], got 0\.1 .*use 0\.133"):
        Decisions(coupling, 0.1)
    with pytest.raises(BudgetError, match=r"within 1% by whole channels, got 0\.75, .*use 0\.\d+$") as error:
        Decisions(coupling, 0.75)
    advice = float(str(error.value).rpartition("use ")[2])
    assert len(Decisions(coupling, advice)) == 2  # what the message says works
    with pytest.raises(BudgetError, match="or cp_quadruple: false"):
        Decisions(coupling, 0.75, 4)
    with pytest.raises(NothingToPruneError, match="conv before the last one"):
        Decisions(analysis("lenet5").coupling, 0.5)


# ---------------------------------------------------------------- the environment


def test_gymnasium_accepts_the_environment() -> None:
    env = PruningEnv(decisions("resnet20", 0.5), lambda widths: 0.5)
    assert isinstance(env, gymnasium.Env)
    with pytest.warns(UserWarning, match="symmetric and normalized"):  # shares are not
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mobilenetv1", "mobilenetv2", "dense"])
@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.3])
def test_every_roll_out_uses_up_its_budget_and_no_more(name: str, ratio: float, rng: np.random.Generator) -> None:
    found = decisions(name, ratio)
    env = PruningEnv(found, lambda widths: float(widths.sum()))
    ways = [
        lambda k: 1.0,
        lambda k: found.lbound,
        lambda k: float(k % 2),
        *[lambda k: rng.uniform(found.lbound, 1.0)] * 8,
    ]
    for way in ways:
        widths, rewards = play(env, way)
        assert 0.99 <= share_of_budget(found, widths) <= 1 + 1e-9
        assert len(rewards) == len(found)
        assert rewards == [0.0] * (len(found) - 1) + [float(widths.sum())]


@cache
def all_costs() -> np.ndarray:
    """What every network that can be cut from the concatenated one costs."""
    found = decisions("dense", 1.0)
    grid = np.meshgrid(*found.options, indexing="ij")
    return found.macs(np.stack([axis.ravel() for axis in grid], axis=1))


@settings(max_examples=60)
@given(
    ratio=st.floats(0.12, 1.0),
    seed=st.integers(0, 1000),
    name=st.sampled_from(["resnet20", "dense", "mobilenetv1"]),
)
def test_any_ratio_that_can_be_met_is_met(ratio: float, seed: int, name: str) -> None:
    try:
        found = Decisions(analysis(name).coupling, ratio)
    except BudgetError:  # a channel of a small network may be more than a hundredth of it
        assert name == "dense"
        every = all_costs() / decisions(name, 1.0).full
        assert not ((every >= 0.99 * ratio) & (every <= ratio)).any()
        return
    rng = np.random.default_rng(seed)
    widths, _ = play(PruningEnv(found, lambda w: 0.0), lambda k: rng.uniform(-0.2, 1.2))
    assert 0.99 <= share_of_budget(found, widths) <= 1 + 1e-9
    assert (widths >= 1).all() and (widths <= found.coupling.widths).all()


def test_the_state_is_the_documented_one() -> None:
    found = decisions("resnet20", 0.5)
    env = PruningEnv(found, lambda widths: 0.0)
    first, _ = env.reset()
    assert first.shape == (8,) and first.dtype == np.float32
    states = [first]
    for _ in range(len(found)):
        states.append(env.step(np.array([found.lbound], dtype=np.float32))[0])
    table = np.array(states)
    assert table[0, 0] == 0 and table[-2, 0] == 1  # the layer
    assert table[0, 1:3].tolist() == [0.25, 0.25]  # layer1.0.conv1: 16 of at most 64 outputs and inputs
    assert table[0, 3:6].tolist() == [1, 1, 1]  # the largest maps; no first reader has a stride
    assert table[0, 6] == 1 and table[-1, 6] == 0  # what can still be taken away
    assert (np.diff(table[:, 6]) <= 0).all()

"""From a model and a budget to a smaller model: the budget holds, and what is kept is the best."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Mixed, randomise
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.zoo import build_model
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.budget import Budget
from prunekit.core.cost import Cost
from prunekit.core.errors import BudgetError, ConfigError, InputError, NothingToPruneError
from prunekit.core.prune import prune, score_model, select

EXAMPLE = torch.zeros(1, 3, 12, 12)


def build(name: str) -> Analysis:
    torch.manual_seed(0)
    model, size = (Mixed(), 12) if name == "mixed" else (build_model(name), 32)
    return analyse(TorchBackend(), randomise(model).eval(), torch.zeros(1, 3, size, size), probe=False)


ANALYSES = {name: build(name) for name in ("mixed", "resnet20")}
SCORES = {name: score_model(analysis, "l2") for name, analysis in ANALYSES.items()}


@pytest.mark.parametrize("name", list(ANALYSES))
@pytest.mark.parametrize("scope", ["global", "layer"])
@settings(max_examples=25)
@given(
    share=st.floats(0.25, 1.0),
    metric=st.sampled_from(["macs", "flops", "params"]),
    align=st.sampled_from([None, 2, "quadruple"]),
    min_channels=st.integers(1, 4),
)
def test_budgets_hold(name: str, scope: str, share: float, metric: str, align: Any, min_channels: int) -> None:
    analysis = ANALYSES[name]
    budget = Budget.of(**{metric: share})
    plan = select(analysis, budget, SCORES[name], scope=scope, align=align, min_channels=min_channels)
    cost, widths = Cost(analysis.coupling), plan.widths(analysis.coupling)
    full, got = cost.full((metric,))[metric], int(cost.of(widths, (metric,))[metric][0])
    assert got <= share * full * (1 + 1e-12)  # the rounding of a product, not an operation
    assert plan.achieved[metric] == [full, got]
    step = {None: 1, 2: 2, "quadruple": 4}[align]
    sizes = analysis.coupling.widths
    for group, width in zip(analysis.groups, widths, strict=True):
        channels = {m.indices.shape[1] * width for m in group.producers}  # a unit may be several channels
        assert width == group.size or all(c % step == 0 for c in channels)
    assert (widths >= np.minimum(min_channels, sizes)).all()
    for group in analysis.groups:
        kept = np.zeros(group.size, dtype=bool)
        kept[list(plan.kept[group.name])] = True
        if not kept.all():
            assert SCORES[name][group.name][kept].min() >= SCORES[name][group.name][~kept].max()


@pytest.mark.parametrize("metric", ["macs", "params"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_global_selection_comes_close_and_cannot_be_filled_further(metric: str, share: float) -> None:
    analysis = ANALYSES["resnet20"]
    plan = select(analysis, Budget.of(**{metric: share}), SCORES["resnet20"])
    cost, widths = Cost(analysis.coupling), plan.widths(analysis.coupling)
    full, got = plan.achieved[metric]
    assert share - 0.01 <= got / full <= share
    for group in range(len(widths)):
        if widths[group] < analysis.coupling.widths[group]:
            wider = widths.copy()
            wider[group] += 1
            assert cost.of(wider, (metric,))[metric][0] > share * full


def test_global_selection_takes_the_lowest_scores() -> None:
    """Without coupling between cost and score, a prefix of the sorted channels goes."""
    analysis = ANALYSES["mixed"]
    plan = select(analysis, Budget.of(ratio=0.5), SCORES["mixed"])
    kept, gone = [], []
    for group in analysis.groups:
        mask = np.isin(np.arange(group.size), plan.kept[group.name])
        scores = SCORES["mixed"][group.name]
        kept.append(scores[mask])
        if mask.sum() > 1:
            gone.append(scores[~mask])
            continue
        gone.append(scores[~mask])
        kept.pop()  # the last channel stays whatever its score
    assert np.concatenate(kept).min() >= np.concatenate(gone).max()
    total = sum(g.size for g in analysis.groups)
    assert sum(len(k) for k in plan.kept.values()) == total // 2
    assert plan.achieved["ratio"] == [1.0, (total // 2) / total]


def test_ratio_by_layer_keeps_that_share_of_every_group() -> None:
    for share in (0.5, 0.3, 0.01, 1.0):
        plan = select(ANALYSES["mixed"], Budget.of(ratio=share), SCORES["mixed"], scope="layer")
        for group in ANALYSES["mixed"].groups:
            assert len(plan.kept[group.name]) == max(round(share * group.size), 1)


def test_layer_scope_with_a_budget_is_the_largest_share_that_fits() -> None:
    analysis, cost = ANALYSES["resnet20"], Cost(ANALYSES["resnet20"].coupling)
    plan = select(analysis, Budget.of(macs=0.5), SCORES["resnet20"], scope="layer")
    sizes, full = analysis.coupling.widths, cost.full(("macs",))["macs"]
    fits = [
        row for share in np.linspace(0, 1, 4001)
        if cost.of(row := np.maximum(np.rint(share * sizes), 1).astype(int))["macs"][0] <= full / 2
    ]  # fmt: skip
    assert plan.widths(analysis.coupling).tolist() == fits[-1].tolist()


def test_requested_and_aligned_widths_are_reported() -> None:
    plan = select(ANALYSES["resnet20"], Budget.of(params=0.5), SCORES["resnet20"], align="cuda-fp16")
    table = plan.achieved["widths"]
    assert all(row["kept"] % 8 == 0 for row in table.values())
    assert any(row["requested"] % 8 for row in table.values())
    assert {name: row["kept"] for name, row in table.items()} == {n: len(k) for n, k in plan.kept.items()}
    assert json.loads(json.dumps(plan.achieved)) == plan.achieved


def test_absolute_budgets_and_tolerance() -> None:
    analysis = ANALYSES["resnet20"]
    plan = select(analysis, Budget.of(macs=20_000_000), SCORES["resnet20"])
    assert 19_000_000 < plan.achieved["macs"][1] <= 20_000_000
    loose = select(analysis, Budget.of(macs=0.5, tolerance=0.05), SCORES["resnet20"])
    full, got = loose.achieved["macs"]
    assert 0.5 < got / full <= 0.55


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_unreachable_budget_names_the_least(scope: str) -> None:
    analysis = ANALYSES["resnet20"]
    with pytest.raises(BudgetError, match=r"the least that can be reached is [\d,]+ \(macs=0\.\d+\)") as caught:
        select(analysis, Budget.of(macs=0.01), SCORES["resnet20"], scope=scope, min_channels=8)
    share = float(str(caught.value).split("(macs=")[1].split(")")[0])
    reached = select(analysis, Budget.of(macs=share), SCORES["resnet20"], scope=scope, min_channels=8)
    assert reached.widths(analysis.coupling).max() == 8


def test_bad_arguments() -> None:
    analysis, scores = ANALYSES["mixed"], SCORES["mixed"]
    half = Budget.of(macs=0.5)
    with pytest.raises(ConfigError, match="did you mean 'global'"):
        select(analysis, half, scores, scope="globl")
    with pytest.raises(InputError, match="none for 'stem.0'"):
        select(analysis, half, {})
    with pytest.raises(InputError, match="16 finite numbers"):
        select(analysis, half, {**scores, "stem.0": np.full(16, np.nan)})


def test_prune_leaves_the_model_and_gives_a_working_smaller_one() -> None:
    model = randomise(Mixed()).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small, plan = prune(TorchBackend(), model, EXAMPLE, Budget.of(params=0.4))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    count = sum(p.numel() for p in small.parameters())
    assert [sum(p.numel() for p in model.parameters()), count] == plan.achieved["params"]
    assert 0.3 < count / plan.achieved["params"][0] <= 0.4
    assert small(torch.randn(5, 3, 12, 12)).shape == (5, 10)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another on a busy machine would hide what a network costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_prune_by_latency() -> None:
    wide = nn.Sequential(nn.Conv2d(3, 96, 3), nn.ReLU(), nn.Conv2d(96, 96, 3), nn.ReLU(), nn.Conv2d(96, 8, 3)).eval()
    small, plan = prune(TorchBackend(), wide, torch.zeros(1, 3, 24, 24), Budget.of(latency=0.6))
    before, after = plan.achieved["latency"]
    assert after <= 0.6 * before
    assert plan.achieved["macs"][1] < plan.achieved["macs"][0]
    assert small(torch.zeros(1, 3, 24, 24)).shape == (1, 8, 18, 18)


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_prune_from_data(importance: str) -> None:
    model = randomise(Mixed()).eval()
    data = [(torch.randn(4, 3, 12, 12), torch.arange(4)) for _ in range(2)]
    small, plan = prune(TorchBackend(), model, EXAMPLE, Budget.of(macs=0.5), importance=importance, data=data)
    assert plan.achieved["macs"][1] <= 0.5 * plan.achieved["macs"][0]
    assert small(EXAMPLE).shape == (1, 10)
    with pytest.raises(InputError, match=f"importance='{importance}' is computed from .* over data, got data=None"):
        prune(TorchBackend(), model, EXAMPLE, Budget.of(macs=0.5), importance=importance)


def test_prune_with_own_importance_and_ignored_layers() -> None:
    def leading(group: Any, state: Any) -> np.ndarray:
        return -np.arange(group.size)

    model = Mixed().eval()
    small, plan = prune(
        TorchBackend(), model, EXAMPLE, Budget.of(ratio=0.5), scope="layer", importance=leading, ignore=("hidden",)
    )
    assert small.hidden.out_features == model.hidden.out_features
    assert all(kept == tuple(range(len(kept))) for kept in plan.kept.values())


def test_random_importance_is_reproducible() -> None:
    def kept(seed: int) -> Any:
        budget = Budget.of(macs=0.5)
        return prune(TorchBackend(), Mixed().eval(), EXAMPLE, budget, importance="random", seed=seed)[1].kept

    assert kept(1) == kept(1) != kept(2)


def test_nothing_to_prune_lists_the_reasons() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(NothingToPruneError, match=r"1 \(4\): .*output"):
        prune(TorchBackend(), model, torch.zeros(1, 3, 2, 2), Budget.of(macs=0.5))

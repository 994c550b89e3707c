"""What `inspect` says is true of the network."""

from __future__ import annotations

import json

import numpy as np
import pytest

from prunekit.core.analysis import analyse
from prunekit.core.cost import Cost
from prunekit.core.errors import InputError
from prunekit.core.inspection import Inspection
from prunekit.core.plan import PruningPlan
from prunekit.core.registry import get_backend

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def analysis():
    backend = get_backend("torch")
    model = backend.build_model("resnet20", seed=0, in_channels=1)
    return analyse(backend, model, backend.example((2, 1, 14, 14)))


def test_figures_are_those_of_the_network(analysis) -> None:
    seen = Inspection.of(analysis)
    assert seen.params == sum(p.numel() for p in analysis.model.parameters())
    assert seen.model == type(analysis.model).__name__
    assert seen.inputs == ((2, 1, 14, 14),)
    assert [g.name for g in seen.groups] == [g.name for g in analysis.groups]
    assert [f.name for f in seen.frozen] == ["fc"]
    assert "output" in seen.frozen[0].reason


def test_what_half_of_a_group_saves_is_what_a_cut_saves(analysis) -> None:
    row, group = Inspection.of(analysis).groups[1], analysis.groups[1]
    plan = PruningPlan.of(analysis.coupling, {group.name: range(group.size // 2)})
    small = analysis.backend.apply(analysis, plan)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (analysis.model, small))
    assert row.params == before - after
    assert row.layers[0] == group.name
    assert row.readers == tuple(dict.fromkeys(m.layer for m in group.consumers))


def test_budgets_are_kept_and_the_least_is_the_least(analysis) -> None:
    seen = Inspection.of(analysis, keep=(0.9, 0.5, 0.1, 1e-6))
    *asked, least = seen.budgets
    for row in asked[:3]:
        assert row.reached
        assert row.macs <= row.keep * seen.macs
    assert not asked[3].reached
    ones = np.ones((1, len(analysis.groups)), dtype=np.int64)
    assert least.macs == Cost(analysis.coupling).of(ones)["macs"][0]
    assert least.keep is None


def test_text_and_json_say_the_same(analysis) -> None:
    seen = Inspection.of(analysis, model="a name")
    text, data = str(seen), json.loads(json.dumps(seen.to_dict()))
    assert text.startswith("a name, input 2x1x14x14: ")
    assert f"{data['params']:,} parameters" in text
    for group in data["groups"]:
        assert group["name"] in text
    assert data["frozen"][0]["reason"] in text
    assert "50% of the MACs" in text
    assert text.isprintable() or "\n" in text


def test_an_ignored_layer_is_listed_with_its_reason() -> None:
    backend = get_backend("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    seen = Inspection.of(analyse(backend, model, torch.randn(1, 3, 9, 9), ignore=["0"]))
    assert seen.groups == ()
    assert seen.budgets == ()
    assert any(row.name == "0" and "ignored" in row.reason for row in seen.frozen)
    assert "Nothing can be cut." in str(seen)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_out_of_range_is_refused(analysis, share: float) -> None:
    with pytest.raises(InputError, match="keep must hold shares"):
        Inspection.of(analysis, keep=(share,))

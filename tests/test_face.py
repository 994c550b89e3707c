"""What users call: the short way from a network to a smaller one, and what bad input meets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets import Mixed, randomise
from torch import nn

import prunekit.backend_torch
from prunekit.backend_torch import inspect, load, plan_of, prune, save
from prunekit.core.errors import (
    BudgetError,
    ExportError,
    InputError,
    NothingToPruneError,
    OutputError,
    PlanError,
    PrunekitError,
    TraceError,
)


@pytest.fixture
def net() -> nn.Module:
    return randomise(Mixed()).eval()


EXAMPLE = torch.zeros(1, 3, 16, 16)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("budget", ["macs", "flops", "params"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_budget_is_kept_and_the_given_model_is_untouched(net: nn.Module, budget: str, scope: str) -> None:
    before = {n: v.clone() for n, v in net.state_dict().items()}
    small = prune(net, EXAMPLE, **{budget: 0.5}, scope=scope)
    whole, left = plan_of(small).achieved[budget]
    assert 0.3 * whole < left <= 0.5 * whole
    if budget == "params":
        assert (whole, left) == (count(net), count(small))
    assert small is not net
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())


def test_ratio_by_layer_halves_every_group(net: nn.Module) -> None:
    plan = plan_of(prune(net, EXAMPLE, ratio=0.5, scope="layer"))
    assert plan.sizes and all(len(plan.kept[name]) == round(size / 2) for name, size in plan.sizes.items())


def test_classifier_and_input_are_never_cut(net: nn.Module) -> None:
    small = prune(net, EXAMPLE, params=0.2)
    assert small.fc.out_features == 10 and small.stem[0].in_channels == 3
    assert small(EXAMPLE).shape == (1, 10)


def test_the_weakest_channels_go(net: nn.Module) -> None:
    with torch.no_grad():
        net.hidden.weight[::2] *= 1e-3
        net.fc.weight[:, ::2] *= 1e-3
    plan = plan_of(prune(net, EXAMPLE, ratio=0.5, scope="layer", importance="l2"))
    assert plan.kept["hidden"] == tuple(range(1, 20, 2))


def test_pruned_twice_is_saved_against_the_original(net: nn.Module, tmp_path: Path) -> None:
    once = prune(net, EXAMPLE, ratio=0.75, scope="layer")
    twice = prune(once, EXAMPLE, ratio=0.5, scope="layer")
    save(twice, tmp_path)
    again = load(Mixed().eval(), tmp_path)
    x = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(again(x), twice(x))


def test_inspect_tells_groups_and_reasons(net: nn.Module) -> None:
    text = str(inspect(net, EXAMPLE))
    for word in ("stem.0", "hidden", "output of the network", "MACs"):
        assert word in text


def test_without_a_plan(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="prune"):
        plan_of(net)


class OnlyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


def test_nothing_to_prune_lists_what_is_frozen() -> None:
    with pytest.raises(NothingToPruneError, match=r"fc.*output of the network"):
        prune(OnlyOutputs(), torch.zeros(1, 8), macs=0.5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"macs": 1.7}, BudgetError, "1.7"),
        ({"macs": -1}, BudgetError, "-1"),
        ({"macs": 0.5, "params": 0.5}, PrunekitError, "one"),
        ({}, PrunekitError, "one"),
        ({"macs": 0.0001}, BudgetError, "least"),
        ({"macs": "half"}, PrunekitError, "half"),
        ({"macs": 0.5, "tolerance": "1%"}, BudgetError, "'1%'"),
        ({"macs": 0.5, "importance": "l3"}, PrunekitError, "l2"),
        ({"macs": 0.5, "importance": "taylor"}, InputError, "loader"),
        ({"macs": 0.5, "scope": "network"}, PrunekitError, "global"),
        ({"macs": 0.5, "align": "cuda"}, PrunekitError, "cuda-"),
        ({"macs": 0.5, "attention": "both"}, InputError, "heads"),
        ({"macs": 0.5, "ignore": ("nosuch",)}, InputError, "nosuch"),
        ({"macs": 0.5, "min_channels": 0}, PrunekitError, "min_channels"),
    ],
)
def test_bad_options_are_told(net: nn.Module, options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        prune(net, EXAMPLE, **options)


def test_an_example_of_the_wrong_shape(net: nn.Module) -> None:
    with pytest.raises(TraceError, match=r"\(1, 4, 16, 16\)"):
        prune(net, torch.zeros(1, 4, 16, 16), macs=0.5)
    with pytest.raises(TraceError, match="example"):
        inspect(net, torch.zeros(16))


def test_a_model_of_another_framework() -> None:
    with pytest.raises(InputError, match="torch backend"):
        prune({"not": "a model"}, EXAMPLE, macs=0.5)


def test_a_folder_that_cannot_be_written(net: nn.Module, tmp_path: Path) -> None:
    small = prune(net, EXAMPLE, macs=0.5)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="another folder|writable"):
        save(small, tmp_path / "file" / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_s_ending_says_its_format_whatever_was_exported_before(net: nn.Module, tmp_path: Path) -> None:
    for _ in range(2):  # a submodule of that name would take the function's place
        path = prunekit.backend_torch.export(net, EXAMPLE, tmp_path / "net.pt2")
    assert torch.export.load(path).module()(EXAMPLE).shape == net(EXAMPLE).shape
    with pytest.raises(ExportError, match="must say its format, got .*net.bin'; use .ts"):
        prunekit.backend_torch.export(net, EXAMPLE, tmp_path / "net.bin")

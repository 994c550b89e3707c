"""Layers of networks in the wild, in both frameworks: each is cut exactly, or stays and the rest is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _frameworks import BOTH, cases
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from prunekit.core.analysis import Analysis, analyse
from prunekit.core.backend import Backend
from prunekit.core.errors import InputError, PlanError
from prunekit.core.registry import get_backend
from prunekit.core.store import load_network, save_network
from prunekit.core.verification import random_plan, verify

IMAGE, ROWS = (2, 3, 8, 8), (2, 6, 9)


class Body(nn.Module):
    """Some layers between two convs, and a classifier."""

    def __init__(self, *middle: nn.Module, out: int = 12) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 12, 3, padding=1), nn.Sequential(*middle)
        self.last, self.fc = nn.Conv2d(out, 10, 3, padding=1), nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.last(self.middle(torch.relu(self.first(x)))))
        return self.fc(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A recurrent layer, which is cut by nothing, between linear ones."""

    def __init__(self, layer: nn.Module, out: int = 12) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 12))
        self.layer = layer
        self.head = nn.Sequential(nn.Linear(out, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x))[0][:, -1])


def normed(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Body(wrap(nn.Conv2d(12, 12, 3, padding=1)), nn.ReLU())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "grouped": lambda: Body(nn.Conv2d(12, 8, 3, padding=1, groups=4), out=8),
    "depthwise, twice as wide": lambda: Body(nn.Conv2d(12, 24, 3, padding=1, groups=12), out=24),
    "transposed": lambda: Body(nn.ConvTranspose2d(12, 8, 3, 2, padding=1, output_padding=1), out=8),
    "transposed, grouped": lambda: Body(nn.ConvTranspose2d(12, 8, 2, 2, groups=4), out=8),
    "transposed, depthwise": lambda: Body(nn.ConvTranspose2d(12, 12, 2, 2, groups=12)),
    "glu": lambda: Body(nn.Conv2d(12, 24, 1), nn.GLU(1)),
    "pixel shuffle": lambda: Body(nn.Conv2d(12, 24, 1), nn.PixelShuffle(2), out=6),
    "pixel unshuffle": lambda: Body(nn.PixelUnshuffle(2), nn.Conv2d(48, 12, 1)),
    "channel shuffle": lambda: Body(nn.Conv2d(12, 12, 1, groups=3), nn.ChannelShuffle(3)),
    "prelu of one": lambda: Body(nn.PReLU()),
    "prelu of many": lambda: Body(nn.PReLU(12)),
    "weight norm": normed(parametrizations.weight_norm),
    "weight norm of the whole": normed(lambda m: parametrizations.weight_norm(m, dim=None)),
    "weight norm, older": normed(old_weight_norm),
    "weight norm, transposed": lambda: Body(parametrizations.weight_norm(nn.ConvTranspose2d(12, 12, 1))),
    "spectral norm": normed(parametrizations.spectral_norm),
    "spectral norm, older": normed(old_spectral_norm),
    "weight norm and depthwise": lambda: Body(parametrizations.weight_norm(nn.Conv2d(12, 12, 3, padding=1, groups=12))),
    "spectral norm and depthwise": lambda: Body(old_spectral_norm(nn.Conv2d(12, 12, 3, padding=1, groups=12))),
}
RECURRENT: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: Recurrent(nn.RNN(12, 12, batch_first=True)),
    "lstm": lambda: Recurrent(nn.LSTM(12, 12, 2, batch_first=True)),
    "lstm, both ways": lambda: Recurrent(nn.LSTM(12, 12, batch_first=True, bidirectional=True), out=24),
    "gru": lambda: Recurrent(nn.GRU(12, 12, batch_first=True)),
}


def mindspore_layers() -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    import mindspore as ms
    from mindspore import nn as mnn
    from mindspore import ops
    from nets_mindspore import conv

    class MsBody(mnn.Cell):
        def __init__(self, *middle: mnn.Cell, out: int = 12) -> None:
            super().__init__()
            self.first, self.middle = conv(3, 12, 3), mnn.SequentialCell(*middle)
            self.last, self.fc = conv(out, 10, 3), mnn.Dense(10, 5)

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            x = ops.relu(self.last(self.middle(ops.relu(self.first(x)))))
            return self.fc(x.mean((2, 3)))

    class MsRecurrent(mnn.Cell):
        def __init__(self, layer: mnn.Cell, out: int = 12) -> None:
            super().__init__()
            self.embed = mnn.SequentialCell(mnn.Dense(9, 16), mnn.ReLU(), mnn.Dense(16, 12))
            self.layer = layer
            self.head = mnn.SequentialCell(mnn.Dense(out, 32), mnn.ReLU(), mnn.Dense(32, 5))

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            return self.head(self.layer(self.embed(x))[0][:, -1])

    def transposed(inputs: int, outputs: int, groups: int = 1) -> mnn.Cell:
        return mnn.Conv2dTranspose(inputs, outputs, 2, 2, pad_mode="pad", group=groups, has_bias=True)

    layers: dict[str, Callable[[], Any]] = {
        "grouped": lambda: MsBody(conv(12, 8, 3, group=4), out=8),
        "depthwise, twice as wide": lambda: MsBody(conv(12, 24, 3, group=12), out=24),
        "transposed": lambda: MsBody(transposed(12, 8), out=8),
        "transposed, grouped": lambda: MsBody(transposed(12, 8, 4), out=8),
        "transposed, depthwise": lambda: MsBody(transposed(12, 12, 12)),
        "glu": lambda: MsBody(conv(12, 24, 1), mnn.GLU(1)),
        "pixel shuffle": lambda: MsBody(conv(12, 24, 1), mnn.PixelShuffle(2), out=6),
        "pixel unshuffle": lambda: MsBody(mnn.PixelUnshuffle(2), conv(48, 12, 1)),
        "channel shuffle": lambda: MsBody(conv(12, 12, 1, group=3), mnn.ChannelShuffle(3)),
        "prelu of one": lambda: MsBody(mnn.PReLU()),
        "prelu of many": lambda: MsBody(mnn.PReLU(12)),
    }
    recurrent: dict[str, Callable[[], Any]] = {
        "rnn": lambda: MsRecurrent(mnn.RNN(12, 12, batch_first=True)),
        "lstm": lambda: MsRecurrent(mnn.LSTM(12, 12, batch_first=True)),
        "gru": lambda: MsRecurrent(mnn.GRU(12, 12, batch_first=True)),
    }
    return layers, recurrent


def build(framework: str, name: str, kind: int) -> tuple[Backend, Any, Any]:
    backend = get_backend(framework)
    torch.manual_seed(0)
    known = (LAYERS, RECURRENT) if framework == "torch" else mindspore_layers()
    model = known[kind][name]()
    if framework == "torch":
        model.eval()
    return backend, model, backend.example((IMAGE, ROWS)[kind])


def frozen_names(analysis: Analysis) -> set[str]:
    return {f.name for f in analysis.coupling.frozen}


IN_TORCH_ALONE = [name for name in LAYERS if "norm" in name]


@pytest.mark.parametrize(("framework", "name"), cases([*LAYERS], [n for n in LAYERS if n not in IN_TORCH_ALONE]))
def test_a_layer_is_cut_with_those_around_it(framework: str, name: str) -> None:
    backend, model, example = build(framework, name, 0)
    found = verify(backend, model, example, name=name, seeds=2)
    assert found.status in ("exact", "non-neutral exact"), found.message
    analysis = analyse(backend, model, example)
    if (framework, name) == ("mindspore", "pixel shuffle"):  # written out in reshapes there: that layer stays
        assert frozen_names(analysis) == {"middle.0", "fc"} and found.lost > 0.2
        return
    assert not {n for n in frozen_names(analysis) if not n.startswith("fc")}, analysis.coupling.frozen
    assert found.lost > 0.3
    small = backend.apply(analysis, random_plan(analysis))
    assert backend.outputs(small, backend.example((3, 3, 12, 10)))[0].shape == (3, 5)


@pytest.mark.parametrize(("framework", "name"), cases([*RECURRENT], ["rnn", "lstm", "gru"]))
def test_a_recurrent_layer_stays_and_the_rest_is_cut(framework: str, name: str) -> None:
    backend, model, example = build(framework, name, 1)
    found = verify(backend, model, example, name=name, seeds=2)
    assert found.status == "exact", found.message
    analysis = analyse(backend, model, example)
    sizes = {g.name: g.size for g in analysis.groups}
    # where MindSpore writes the layer out in plain ops, its inputs are cut, too
    assert {"embed.0": 16, "head.0": 32}.items() <= sizes.items()
    assert sizes.keys() <= {"embed.0", "embed.2", "head.0"}
    assert any("layer" in f.name for f in analysis.coupling.frozen) and found.frozen


@pytest.mark.parametrize(("framework", "name"), cases(["grouped", "channel shuffle"], ["grouped"]))
def test_whole_groups_are_cut(framework: str, name: str, tmp_path: Path) -> None:
    backend, model, example = build(framework, name, 0)
    found = verify(backend, model, example, name=name, grouped="whole")
    # channels are shuffled so that one of each group lies next to one another: no group can go alone
    assert found.status == "exact", found.message
    analysis = analyse(backend, model, example, grouped="whole")
    if name == "channel shuffle":
        assert {g.name: g.size for g in analysis.groups} == {"last": 10}
        return
    by_name = {g.name: g for g in analysis.groups}
    assert by_name["first"].size == 4 and {m.indices.shape for m in by_name["first"].producers} == {(4, 3), (4, 2)}
    plan = random_plan(analysis, 0.5)
    small = backend.apply(analysis, plan)
    weight = backend.get_state(small)["middle.0.weight"]
    assert weight.shape[:2] == (4, 3)  # two groups of four are left, each as wide as before
    save_network(backend, small, tmp_path / "small")
    again = load_network(backend, model, tmp_path / "small")
    for a, b in zip(backend.outputs(small, example), backend.outputs(again, example), strict=True):
        np.testing.assert_array_equal(a, b)
    other = analyse(backend, model, example)
    with pytest.raises(InputError, match="grouped must be 'within' or 'whole', got 'some'"):
        analyse(backend, model, example, grouped="some")
    assert {g.size for g in other.groups} >= {2, 3}  # within groups: the same channels of each


@pytest.mark.parametrize("framework", BOTH)
def test_a_second_pruning_uses_the_policies_of_the_first(framework: str) -> None:
    backend, model, example = build(framework, "grouped", 0)
    first = analyse(backend, model, example, grouped="whole")
    once = backend.apply(first, random_plan(first, 0.5))
    again = analyse(backend, once, example, grouped="whole")
    assert backend.apply(again, random_plan(again, 0.5))
    other = analyse(backend, once, example)
    expected = r"got attention='heads', grouped='within' after attention='heads', grouped='whole'; pass attention"
    with pytest.raises(PlanError, match=expected):
        backend.apply(other, random_plan(other, 0.5))

"""Layers and habits of networks in the wild: each is cut exactly, and lives on as its original did."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.testing import random_plan, relative_error
from prunekit.core.verification import verify

BACKEND = TorchBackend()
IMAGE = (2, 3, 8, 8)


class Body(nn.Module):
    """Some layers between two convs, and a classifier."""

    def __init__(self, *middle: nn.Module, width: int = 12, out: int | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.middle = nn.Sequential(*middle)
        self.last = nn.Conv2d(out or width, 10, 3, padding=1)
        self.fc = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.last(self.middle(torch.relu(self.first(x)))))
        return self.fc(x.mean((2, 3)))


def conv(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Body(wrap(nn.Conv2d(12, 12, 3, padding=1)), nn.ReLU())


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "prelu of one": lambda: Body(nn.PReLU()),
    "prelu of many": lambda: Body(nn.PReLU(12)),
    "glu": lambda: Body(nn.Conv2d(12, 24, 1), nn.GLU(1)),
    "pixel shuffle": lambda: Body(nn.Conv2d(12, 24, 1), nn.PixelShuffle(2), out=6),
    "pixel unshuffle": lambda: Body(nn.PixelUnshuffle(2), nn.Conv2d(48, 12, 1)),
    "channel shuffle": lambda: Body(nn.Conv2d(12, 12, 1, groups=3), nn.ChannelShuffle(3)),
    "as many groups as channels in": lambda: Body(nn.Conv2d(12, 24, 3, padding=1, groups=12), out=24),
    "groups of one output": lambda: Body(nn.Conv2d(12, 6, 3, padding=1, groups=6), out=6),
    "transposed, grouped, with output padding": lambda: Body(
        nn.ConvTranspose2d(12, 8, 3, 2, padding=1, output_padding=1, groups=4), out=8
    ),
    "weight norm": conv(parametrizations.weight_norm),
    "weight norm, old": conv(old_weight_norm),
    "weight norm over all": conv(lambda m: parametrizations.weight_norm(m, dim=None)),
    "weight norm of a transposed conv": lambda: Body(parametrizations.weight_norm(nn.ConvTranspose2d(12, 12, 1))),
    "spectral norm": conv(parametrizations.spectral_norm),
    "spectral norm, old": conv(old_spectral_norm),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    torch.manual_seed(0)
    model = LAYERS[name]().eval()
    a = analyse(BACKEND, model, torch.randn(IMAGE))
    print([(g.name, g.size) for g in a.groups], [(f.name, f.reason) for f in a.coupling.frozen])
    found = verify(BACKEND, model, torch.randn(IMAGE))
    print(found.status, found.message, found.lost)
    assert found.status != "failed"
    assert found.lost > .2
    plan = random_plan(a)
    small = BACKEND.apply(a, plan)
    copy.deepcopy(small); pickle.loads(pickle.dumps(small)) if "param" not in str(type(list(model.middle.children())[0])).lower() else 0

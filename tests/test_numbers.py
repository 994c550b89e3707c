"""Whole numbers in lists and tuples, several that one line needs at once, and rounds of a loop that must agree."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from _frameworks import BOTH
from torch import nn

from prunekit.core.backend import Backend
from prunekit.core.numbers import set_number, whole_numbers
from prunekit.core.registry import get_backend
from prunekit.core.verification import verify


class Scaled(nn.Module):
    """A learned scale that is viewed by a tuple: ``Scale.shape`` of MetaFormers."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (8, 1, 1)
        self.conv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.conv(x)) * self.scale.view(self.shape))


class Parts(nn.Module):
    """Channels dealt out to convolutions by a list: ``MixedConv2d.splits``."""

    def __init__(self) -> None:
        super().__init__()
        self.splits = [4, 4, 6]
        self.first, self.last = nn.Conv2d(3, 14, 3, padding=1), nn.Conv2d(14, 4, 1)
        self.convs = nn.ModuleList([nn.Conv2d(n, n, 3, padding=1) for n in self.splits])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(torch.relu(self.first(x)), self.splits, 1)
        return self.last(torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1))


class Rounds(nn.Module):
    """A head a round, each with a layer of its own, and two widths for all, as in EfficientViT's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.key_dim, self.val_dim = 6, 8
        self.qkvs = nn.ModuleList([nn.Linear(12, 20) for _ in range(2)])
        self.proj, self.fc = nn.Linear(28, 10), nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = []
        for qkv in self.qkvs:
            q, k, v = qkv(x).split([self.key_dim, self.key_dim, self.val_dim], dim=-1)
            heads += [q * k, v]
        return self.fc(torch.relu(self.proj(torch.cat(heads, -1))).mean(1))


def mindspore_networks() -> dict[str, Any]:
    import mindspore as ms
    import numpy as np
    from mindspore import nn as mnn
    from mindspore import ops

    class MsScaled(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.shape = (8, 1, 1)
            self.conv = mnn.Conv2d(3, 8, 3, has_bias=True)
            self.last = mnn.Conv2d(8, 4, 1, has_bias=True)
            self.scale = ms.Parameter(ms.Tensor(np.random.default_rng(0).random(8) + 0.5, ms.float32), name="scale")

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            return self.last(ops.relu(self.conv(x)) * self.scale.view(self.shape))

    class MsParts(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.splits = [4, 4, 6]
            self.first = mnn.Conv2d(3, 14, 3, has_bias=True)
            self.last = mnn.Conv2d(14, 4, 1, has_bias=True)
            self.convs = mnn.CellList([mnn.Conv2d(n, n, 3, has_bias=True) for n in self.splits])

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            a, b, c = ops.split(ops.relu(self.first(x)), self.splits, 1)
            return self.last(ops.cat([self.convs[0](a), self.convs[1](b), self.convs[2](c)], 1))

    class MsRounds(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.key_dim, self.val_dim = 6, 8
            self.qkvs = mnn.CellList([mnn.Dense(12, 20) for _ in range(2)])
            self.proj, self.fc = mnn.Dense(28, 10), mnn.Dense(10, 4)

        def construct(self, x: ms.Tensor) -> ms.Tensor:
            heads = []
            for qkv in self.qkvs:
                q, k, v = ops.split(qkv(x), [self.key_dim, self.key_dim, self.val_dim], -1)
                heads += [q * k, v]
            return self.fc(ops.relu(self.proj(ops.cat(heads, -1))).mean(1))

    return {"scaled": MsScaled, "parts": MsParts, "rounds": MsRounds}


SHAPES = {"scaled": (2, 3, 6, 6), "parts": (2, 3, 6, 6), "rounds": (2, 5, 12)}


def build(backend: Backend, name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    torches = {"scaled": Scaled, "parts": Parts, "rounds": Rounds}
    networks = mindspore_networks() if backend.name == "mindspore" else torches
    return networks[name](), backend.example(SHAPES[name])


@pytest.mark.parametrize("framework", BOTH)
@pytest.mark.parametrize("name", SHAPES)
def test_numbers_follow_widths(name: str, framework: str) -> None:
    backend = get_backend(framework)
    found = verify(backend, *build(backend, name))
    assert found.status == "exact", found
    # but for the outputs, nothing stays
    assert found.frozen_share < 0.02 and all(c.how in ("attribute", "tie") for c in found.constants), found


@pytest.mark.parametrize("framework", BOTH)
def test_rounds_are_tied(framework: str) -> None:
    backend = get_backend(framework)
    found = verify(backend, *build(backend, "rounds"), seeds=1)
    assert {"key_dim", "val_dim"} <= {c.what for c in found.constants if c.how == "attribute"}
    assert any(c.how == "tie" for c in found.constants)


def test_lists_and_tuples_are_replaced() -> None:
    ends = namedtuple("ends", ["a", "b"])

    class Holder:
        sizes, shape, pair, flag = [1, 2], (3, 4), ends(5, 6), True

    holder = Holder()
    before = holder.sizes
    numbers = whole_numbers(vars(Holder), leave_out=["__firstlineno__"])
    assert numbers == {"sizes[0]": 1, "sizes[1]": 2, "shape[0]": 3, "shape[1]": 4, "pair[0]": 5, "pair[1]": 6}
    for name in ("sizes[1]", "shape[0]", "pair[1]"):
        set_number(holder, name, 9)
    assert (holder.sizes, holder.shape, holder.pair) == ([1, 9], (9, 4), ends(5, 9))
    assert before == [1, 2] and type(holder.pair) is ends

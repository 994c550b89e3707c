"""The PyTorch backend keeps the laws of ``core.testing``."""

from __future__ import annotations

from typing import Any

import torch
from nets import Mixed, randomise
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.testing import BackendTestCase


class TestTorchBackend(BackendTestCase):
    backend = TorchBackend()
    formats = (("torchscript", "net.ts"), ("pt2", "net.pt2"), ("onnx", "net.onnx"))

    def build(self) -> tuple[nn.Module, torch.Tensor]:
        torch.manual_seed(0)
        return randomise(Mixed()).eval(), torch.randn(4, 3, 16, 16)

    def loader(self) -> list[Any]:
        generator = torch.Generator().manual_seed(1)
        return [
            (torch.randn(16, 3, 16, 16, generator=generator), torch.randint(0, 10, (16,), generator=generator))
            for _ in range(2)
        ]


class Odd(nn.Module):
    """It refers to itself, to others and to tensors in every way but parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.ModuleList([self.a, nn.Linear(3, 3)])
        self.b[1].weight = self.a.weight
        self.table = {"me": [self], 1: self.a.weight}
        self.b[1].register_forward_hook(self.seen)
        self.register_buffer("kept", self.a.weight.detach())
        self.calls = 0

    def seen(self, *_: Any) -> None:
        self.calls += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b[1](self.a(x)) + self.kept.sum()


class Slotted(nn.Linear):
    """It decides itself how it is copied."""

    def __deepcopy__(self, memo: Any) -> Slotted:
        return Slotted(self.in_features, self.out_features)


def test_copies_are_whole_and_apart() -> None:
    model = nn.Sequential(Odd(), Slotted(3, 2))
    other = TorchBackend().clone(model)
    odd, twin = model[0], other[0]
    assert twin.b[0] is twin.a and twin.b[1].weight is twin.a.weight is twin.table[1] and twin.table["me"][0] is twin
    assert twin.a.weight is not odd.a.weight and torch.equal(twin.a.weight, odd.a.weight)
    other(torch.zeros(1, 3))
    assert (odd.calls, twin.calls) == (0, 1)
    assert isinstance(other[1], Slotted) and other[1].weight is not model[1].weight
    with torch.no_grad():
        twin.a.weight.zero_()
    assert odd.a.weight.any()

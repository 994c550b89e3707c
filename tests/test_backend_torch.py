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

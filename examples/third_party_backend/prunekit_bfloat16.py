"""A backend of another package: PyTorch, but latency, and budgets of latency, are those of bfloat16.

pip install ./examples/third_party_backend
prunekit list backends
prunekit run configs/prune_resnet20.yml --backend torch-bfloat16
"""

from __future__ import annotations

from typing import Any

import torch

from prunekit.backend_torch import TorchBackend
from prunekit.core.backend import Latency


class Bfloat16Backend(TorchBackend):
    """What PyTorch's backend does; that of another framework derives from ``prunekit.core.backend.Backend``."""

    name = "torch-bfloat16"

    def latency(self, model: Any, example: torch.Tensor, *, runs: int = 50, warmup: int = 10) -> Latency:
        """Time forward passes of a copy in bfloat16."""
        return super().latency(self.clone(model).bfloat16(), example.bfloat16(), runs=runs, warmup=warmup)

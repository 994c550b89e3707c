"""What the tests of UniPruning share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse

SHAPE = (2, 3, 12, 12)


class Toy(nn.Module):
    """The network of the golden files."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def analysed(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> Analysis:
    return analyse(TorchBackend(), model, torch.zeros(shape))


def state_of(analysis: Analysis) -> Any:
    return analysis.backend.get_state(analysis.model)


def settings_for(folder: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "exp_name": "trial",
        "frequency": 2,
        "target_sparsity": 0.4,
        "pruning_step": 2,
        "filter_lower_threshold": 2,
        "input_size": SHAPE,
        "output_path": str(folder),
    }
    return {**values, **changes}

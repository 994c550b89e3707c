"""Networks and helpers that several test files share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Mixed(nn.Module):
    """Residual, depthwise, grouped and concatenated convs, squeeze-and-excite, a dense head after flatten."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.a = nn.Conv2d(16, 16, 3, padding=1)
        self.norm_a = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm_b = nn.BatchNorm2d(16)
        self.squeeze = nn.Conv2d(16, 8, 1)
        self.excite = nn.Conv2d(8, 16, 1)
        self.left = nn.Conv2d(16, 12, 3, padding=1, stride=2)
        self.right = nn.Conv2d(16, 20, 1, stride=2)
        self.norm_c = nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 24, 3, padding=1, groups=4)
        self.hidden = nn.Linear(24 * 4, 20)
        self.fc = nn.Linear(20, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + torch.relu(self.norm_a(self.a(x)))
        x = torch.relu(self.norm_b(self.depthwise(x)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = x * gate
        x = torch.relu(self.norm_c(torch.cat([self.left(x), self.right(x)], 1)))
        x = torch.relu(self.grouped(x))
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.fc(torch.relu(self.hidden(x)))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random norms, and random values for parameters that are all but constant.

    Fresh networks hide mistakes: gammas are 1, betas 0, residual branches scaled by 1e-6 or zero.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, norms) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.std() < 1e-3:
                parameter.normal_(0, 0.3, generator=generator)
    return model


def tensors(output: Any) -> list[torch.Tensor]:
    """The tensors of whatever a network returns."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [t for value in output if value is not None for t in tensors(value)]

"""Twins of the networks in ``nets``, for MindSpore."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from prunekit.backend_mindspore._names import parameters


def conv(inputs: int, outputs: int, size: int, bias: bool = True, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, pad_mode="pad", padding=size // 2, has_bias=bias, **options)


class Mixed(nn.Cell):
    """Residual, depthwise, grouped and concatenated convs, squeeze-and-excite, a dense head after flatten."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.SequentialCell(conv(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.a = conv(16, 16, 3)
        self.norm_a = nn.BatchNorm2d(16)
        self.depthwise = conv(16, 16, 3, bias=False, group=16)
        self.norm_b = nn.BatchNorm2d(16)
        self.squeeze = conv(16, 8, 1)
        self.excite = conv(8, 16, 1)
        self.left = conv(16, 12, 3, stride=2)
        self.right = conv(16, 20, 1, stride=2)
        self.norm_c = nn.BatchNorm2d(32)
        self.grouped = conv(32, 24, 3, group=4)
        self.hidden = nn.Dense(24 * 4, 20)
        self.fc = nn.Dense(20, classes)
        self.pool = nn.AdaptiveAvgPool2d(2)

    def construct(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + ops.relu(self.norm_a(self.a(x)))
        x = ops.relu(self.norm_b(self.depthwise(x)))
        gate = ops.sigmoid(self.excite(ops.relu(self.squeeze(x.mean((2, 3), keep_dims=True)))))
        x = x * gate
        x = ops.relu(self.norm_c(ops.cat([self.left(x), self.right(x)], 1)))
        x = ops.relu(self.grouped(x))
        x = ops.flatten(self.pool(x))
        return self.fc(ops.relu(self.hidden(x)))


def randomise(net: nn.Cell, seed: int = 0) -> nn.Cell:
    """Random norms, and random values for parameters that are all but constant."""
    rng = np.random.default_rng(seed)
    for name, parameter in parameters(net).items():
        values = parameter.asnumpy()
        last = name.rpartition(".")[2]
        if last == "running_var":
            values = rng.uniform(0.5, 1.5, values.shape)
        elif last == "running_mean":
            values = rng.normal(0, 0.3, values.shape)
        elif values.ndim == 1 and np.allclose(values, 1):
            values = rng.uniform(0.5, 1.5, values.shape)
        elif values.size > 1 and values.std() < 1e-3:
            values = rng.normal(0, 0.3, values.shape)
        parameter.set_data(ms.Tensor(values.astype(np.float32), parameter.dtype))
    return net

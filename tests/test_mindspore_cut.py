"""Cells of a cut network: the framework's own know their widths, those of the user keep what is theirs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mindspore")

import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
import mindspore as ms
from mindspore import Tensor, nn
from nets_mindspore import conv

from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.backend_mindspore.cut import _regroup, _update, adopt
from prunekit.core.analysis import analyse
from prunekit.core.testing import random_plan

BACKEND = MindSporeBackend()


class Scale(nn.Cell):
    """A learned scale, with a number that it calls as convolutions call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 3
        self.weight = ms.Parameter(ms.Tensor(np.full(12, 1.5, np.float32)), name="weight")

    def construct(self, x: Tensor) -> Tensor:
        return x * self.weight.reshape((1, -1, 1, 1))


class Net(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale = conv(3, 12, 3), Scale()
        self.middle, self.last = conv(12, 8, 3, group=4), conv(8, 5, 1)

    def construct(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.scale(self.first(x))))


def test_attributes_called_groups_are_their_owners() -> None:
    analysis = analyse(BACKEND, Net(), BACKEND.example((2, 3, 6, 6)), grouped="whole")
    plan = random_plan(analysis, keep=0.5)
    small = BACKEND.apply(analysis, plan)
    assert small.scale.groups == 3 and small.middle.group == 2
    with BACKEND.masked(analysis, plan):
        expected = BACKEND.outputs(analysis.model, analysis.example)[0]
    adopt(analysis.model, small)
    assert analysis.model.scale.groups == 3 and analysis.model.middle.group == 2
    np.testing.assert_allclose(BACKEND.outputs(analysis.model, analysis.example)[0], expected, atol=1e-5)


@pytest.mark.parametrize(("name", "rank"), [("Conv1d", 1), ("Conv2d", 2), ("Conv3d", 3)])
def test_layers_of_mint_know_their_groups(name: str, rank: int) -> None:
    kind = getattr(ms.mint.nn, name, None)
    if kind is None:
        pytest.skip("this MindSpore has no such layer")
    for inputs, outputs, groups, left, widths in [(12, 8, 4, 4, (6, 4, 2)), (8, 8, 8, 6, (6, 6, 6))]:
        cell = kind(inputs, outputs, 3, groups=groups)
        shape = (left, inputs // groups, *[3] * rank)
        cell._params["weight"] = ms.Parameter(ms.Tensor(np.zeros(shape, np.float32)), name="weight")
        _regroup(cell)
        _update(cell)
        assert (cell.in_channels, cell.out_channels, cell.groups) == widths

"""What a masked network refuses, and which inputs it takes, where channels are left out of statistics over them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mindspore")

import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
from mindspore import Tensor, nn, ops

from prunekit.backend_mindspore import _running
from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.errors import InputError
from prunekit.core.testing import random_plan, relative_error

BACKEND = MindSporeBackend()
pytestmark = pytest.mark.skipif(_running.Dispatch is None, reason="this MindSpore tells of no ops as they run")


class Normed(nn.Cell):
    """A norm and a softmax over channels that are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Dense(6, 16), nn.Dense(16, 12), nn.Dense(12, 4)
        self.drop, self.norm = nn.Dropout(p=0.5), nn.LayerNorm((16,))

    def construct(self, x: Tensor) -> Tensor:
        x = self.two(self.norm(self.drop(self.one(x))))
        return self.three(ops.softmax(x, -1))


def look(*shape: int) -> Analysis:
    return analyse(BACKEND, Normed(), BACKEND.example(shape or (3, 6)))


def test_a_masked_network_takes_batches_of_any_length() -> None:
    analysis = look()
    plan = random_plan(analysis, keep=0.5)
    small = BACKEND.apply(analysis, plan)
    with BACKEND.in_mode("pynative"), BACKEND.masked(analysis, plan):
        for shape in ((3, 6), (7, 6), (1, 6)):
            example = BACKEND.example(shape)
            expected = BACKEND.outputs(analysis.model, example)[0]
            assert relative_error(BACKEND.outputs(small, example)[0], expected) < 1e-5


def test_a_masked_network_runs_the_ops_it_was_traced_with() -> None:
    analysis = look()
    model = analysis.model
    with BACKEND.in_mode("pynative"), BACKEND.masked(analysis, random_plan(analysis, keep=0.5)):
        model.set_train(True)
        with pytest.raises(InputError, match="must run the ops it was traced with, expected .*set_train"):
            model(analysis.example)
        model.set_train(False)
        assert np.isfinite(model(analysis.example).asnumpy()).all()


def test_a_masked_network_refuses_inputs_that_it_cannot_tell() -> None:
    analysis = look(2, 3, 6)
    before = BACKEND.get_state(analysis.model)
    with BACKEND.in_mode("pynative"), BACKEND.masked(analysis, random_plan(analysis, keep=0.5)):
        analysis.model.set_train(False)
        with pytest.raises(InputError, match=r"must find the inputs.*got .* with \[\(5, 2, 3, 16\).*cut it with apply"):
            analysis.model(BACKEND.example((5, 2, 3, 6)))
    after = BACKEND.get_state(analysis.model)  # the weights are as they were all the same
    assert all(np.array_equal(after[name], values) for name, values in before.items())

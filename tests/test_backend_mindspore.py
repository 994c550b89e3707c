"""The MindSpore backend keeps the laws of ``core.testing``, in both of its modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
import mindspore as ms
from mindspore import nn
from nets_mindspore import Mixed, randomise

from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.core.testing import BackendTestCase


class TestMindSporeBackend(BackendTestCase):
    backend = MindSporeBackend()
    formats = (("mindir", "net.mindir"),)

    @pytest.fixture(autouse=True, params=["PYNATIVE", "GRAPH"])
    def _mode(self, request: Any) -> Iterator[None]:
        before = ms.get_context("mode")
        ms.set_context(mode=getattr(ms, f"{request.param}_MODE"))
        yield
        ms.set_context(mode=before)

    def build(self) -> tuple[nn.Cell, ms.Tensor]:
        ms.set_seed(0)
        net = randomise(Mixed()).set_train(False)
        return net, ms.Tensor(np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32))

    def loader(self) -> list[Any]:
        rng = np.random.default_rng(1)
        return [
            (
                ms.Tensor(rng.normal(size=(16, 3, 16, 16)).astype(np.float32)),
                ms.Tensor(rng.integers(0, 10, 16).astype(np.int32)),
            )
            for _ in range(2)
        ]

"""What ``verify`` says of networks whose outputs are no plain numbers, and of how networks are run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _frameworks import BOTH
from torch import nn

from prunekit.core.backend import Backend
from prunekit.core.registry import get_backend
from prunekit.core.verification import verify


class Two(nn.Module):
    """Two layers, whose result is made into outputs."""

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        super().__init__()
        self.one, self.two, self.finish = nn.Linear(6, 16), nn.Linear(16, 8), finish

    def forward(self, x: torch.Tensor) -> Any:
        return self.finish(self.two(torch.relu(self.one(x))))


def build(framework: str, finish: Callable[[Any], Any]) -> tuple[Backend, Any, Any]:
    backend = get_backend(framework)
    torch.manual_seed(0)
    example = backend.example((5, 6))
    if framework == "torch":
        return backend, Two(finish), example
    import mindspore as ms
    from mindspore import nn as mnn
    from mindspore import ops

    class MsTwo(mnn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = mnn.Dense(6, 16), mnn.Dense(16, 8)

        def construct(self, x: ms.Tensor) -> Any:
            return finish(self.two(ops.relu(self.one(x))))

    return backend, MsTwo(), example


def with_nan(y):  # type: ignore[no-untyped-def]  # MindSpore reads no types here
    return y, (y - y) / (y - y)


def without_numbers(y):  # type: ignore[no-untyped-def]
    return y > 0


@pytest.mark.parametrize("framework", BOTH)
def test_outputs_that_are_no_numbers_do_not_agree(framework: str) -> None:
    found = verify(*build(framework, with_nan))
    assert found.status == "failed" and "differ by nan" in found.message


@pytest.mark.parametrize("framework", BOTH)
def test_outputs_without_numbers_tell_nothing(framework: str) -> None:
    found = verify(*build(framework, without_numbers))
    assert found.status == "failed" and "the check is blind" in found.message


def test_a_cut_may_change_how_many_things_are_found() -> None:
    found = verify(*build("torch", lambda y: y[y > 0.1]))
    assert found.status == "exact", found.message

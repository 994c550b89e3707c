"""Ops of PyTorch that public networks need: grouped queries, transposed weights, scatters, recurrent layers, boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunekit.backend_torch._torchvision import _nms
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.verification import Verification, verify

BACKEND = TorchBackend()


class Grouped(nn.Module):
    """Six heads of queries, two (or one) of keys and values (Ainslie et al., 2023)."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(12, 24), nn.Linear(12, 8 * kept)
        self.proj, self.fc = nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, 4).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, -1, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True)
        return self.fc(torch.relu(self.proj(x.transpose(1, 2).flatten(2))).mean(1))


class Transposed(nn.Module):
    """A layer that keeps its weight as (inputs, outputs), as GPT-2's do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(12))
        self.first, self.last = nn.Linear(5, 8), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(torch.addmm(self.bias, torch.relu(self.first(x)), self.weight)))


class Scattered(nn.Module):
    """Rows written into a table, and images repeated one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        table = torch.zeros(5, x.shape[1], *x.shape[2:], dtype=x.dtype)
        table[torch.tensor([3, 1])] = x
        return self.last(table.repeat_interleave(2, dim=0))


class Interleaved(nn.Module):
    """Every channel twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.conv(x)).repeat_interleave(2, dim=1))


class Repeated(nn.Module):
    """Every value, or every row, as often as a number or a tensor says."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor], inputs: int) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(inputs, 3)
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.how(self.second(torch.relu(self.first(x)))))


class Recurrent(nn.Module):
    """A recurrent layer between two that can be cut."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.rnn = nn.Linear(5, 8), kind(8, 6, batch_first=True, bidirectional=True)
        self.hidden, self.last = nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.hidden(self.rnn(self.first(x))[0][:, -1])))


class Counting(nn.Module):
    """How many rows go on depends on their values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.hidden(x[x.sum(1) > x.sum(1).median()])))


def checked(model: nn.Module, *shape: int) -> Verification:
    torch.manual_seed(0)
    found = verify(BACKEND, model, BACKEND.example(shape))
    assert found.status.endswith("exact"), found
    return found


@pytest.mark.parametrize("kept, heads", [(2, 2), (1, 6)])
def test_queries_go_with_the_keys_that_they_share(kept: int, heads: int) -> None:
    model = Grouped(kept)
    checked(model, 2, 7, 12)
    groups = analyse(BACKEND, model, BACKEND.example((2, 7, 12))).groups
    assert heads in [g.size for g in groups if any(m.name == "q.weight" and m.axis == 0 for m in g.members)]


@pytest.mark.parametrize(
    "model, shape, groups",
    [
        (Transposed, (4, 5), 2),
        (Scattered, (2, 3, 4, 4), 1),
        (Interleaved, (2, 3, 4, 4), 1),
        (Counting, (9, 5), 2),
    ],
)
def test_channels_pass(model: Any, shape: tuple[int, ...], groups: int) -> None:
    assert checked(model(), *shape).groups == groups


def test_weights_of_inputs_by_outputs_have_their_roles() -> None:
    groups = analyse(BACKEND, Transposed(), BACKEND.example((4, 5))).groups
    assert [[m.name for m in g.producers] for g in groups] == [["first.weight"], ["weight"]]
    assert [[m.name for m in g.consumers] for g in groups] == [["weight"], ["last.weight"]]


@pytest.mark.parametrize(
    ("how", "inputs"),
    [
        (lambda x: x.repeat_interleave(2).view(x.shape[0], -1), 12),
        (lambda x: x.repeat_interleave(torch.tensor([2, 0, 1, 1]), dim=0), 6),
        (lambda x: x.repeat_interleave(torch.tensor([2, 0, 1, 1, 3, 1]), dim=1), 8),
        (lambda x: x + torch.repeat_interleave(torch.tensor([2, 0, 1, 1])).float()[:, None], 6),
    ],
)
def test_what_is_repeated_unevenly_stays(how: Callable[[torch.Tensor], torch.Tensor], inputs: int) -> None:
    model = Repeated(how, inputs)
    found = verify(BACKEND, model, BACKEND.example((4, 5)))
    assert found.status == "exact" and found.groups >= 1, found.message
    assert analyse(BACKEND, model, BACKEND.example((4, 5))).coupling.index.keys() >= {"first"}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_stay_and_the_rest_is_cut(kind: type[nn.Module]) -> None:
    found = checked(Recurrent(kind), 2, 7, 5)
    assert found.groups == 1 and any("unknown operation" in reason for reason in found.frozen)


def test_boxes_are_suppressed_as_a_plain_loop_does() -> None:
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=random) * 10
    boxes = torch.cat([corner, corner + torch.rand(60, 2, generator=random) * 5], 1)
    scores = torch.rand(60, generator=random)

    def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
        sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
        both = float(sides.prod())
        return both / (float((a[2:] - a[:2]).prod()) + float((b[2:] - b[:2]).prod()) - both)

    kept: list[int] = []
    for k in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[k], boxes[other]) <= 0.3 for other in kept):
            kept.append(k)
    assert 5 < len(kept) < 55 and _nms(boxes, scores, 0.3).tolist() == kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options",
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn",
         {"box_score_thresh": 0, "rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 20}),
        ("ssdlite320_mobilenet_v3_large", {"score_thresh": 0, "topk_candidates": 20}),
        ("raft_small", {}),
    ],
)  # fmt: skip
def test_detectors_and_optical_flow(name: str, options: dict[str, Any]) -> None:
    name = f"torchvision:{name}"
    found = verify(
        BACKEND, BACKEND.build_model(name, seed=0, **options), BACKEND.default_example(name, **options), seeds=1
    )
    assert found.status.endswith("exact") and found.frozen_share < 0.3, found

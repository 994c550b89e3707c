"""What networks take and give, and what is done with them: pruned ones bear it as their originals did."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.trace import call, leaves
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.testing import random_plan, relative_error
from prunekit.core.verification import verify

BACKEND = TorchBackend()


@dataclass
class Scene:
    """What a network takes, or gives."""

    image: torch.Tensor
    depth: torch.Tensor


class Pair(NamedTuple):
    image: torch.Tensor
    depth: torch.Tensor


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.depth = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(1, 12, 3, padding=1)
        self.norm, self.fuse = nn.BatchNorm2d(24), nn.Conv2d(24, 16, 3, padding=1)
        self.classes, self.maps = nn.Linear(16, 5), nn.Conv2d(16, 2, 1)

    def join(self, image: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = self.norm(torch.cat([self.image(image), self.depth(depth)], 1))
        both = torch.relu(self.fuse(torch.relu(both)))
        return self.classes(both.mean((2, 3))), self.maps(both)

    def forward(self, image: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.join(image, depth)


class InDict(Two):
    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:  # type: ignore[override]
        classes, maps = self.join(batch["image"], batch["depth"])
        return {"classes": classes, "more": [maps, None]}


class InDataclass(Two):
    def forward(self, scene: Scene) -> Scene:  # type: ignore[override]
        return Scene(*self.join(scene.image, scene.depth))


class InTuples(Two):
    def forward(self, scenes: tuple[torch.Tensor, list[torch.Tensor]]) -> Pair:  # type: ignore[override]
        return Pair(*self.join(scenes[0], scenes[1][0]))


class Kind(Enum):
    """What an answer is of."""

    IMAGE = "image"


class Answer:
    """An object that tells its kind, points at the network that made it, and at its parts, as they do at it."""

    def __init__(self, kind: Kind, maker: nn.Module, parts: list[torch.Tensor]) -> None:
        self.kind, self.maker, self.parts = kind, maker, [*parts, self]
        self.whole = self


class InObject(Two):
    def forward(self, image: torch.Tensor, depth: torch.Tensor) -> Answer:  # type: ignore[override]
        return Answer(Kind.IMAGE, self, list(self.join(image, depth)))


class WithAuxiliary(Two):
    """A head that training alone reads."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.auxiliary = nn.Conv2d(12, 8, 1), nn.Linear(8, 5)

    def forward(self, image: torch.Tensor, depth: torch.Tensor) -> Any:
        classes, maps = self.join(image, depth)
        if self.training:
            return classes, maps, self.auxiliary(torch.relu(self.side(self.image(image))).mean((2, 3)))
        return classes, maps


def inputs(n: int = 2, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n * side)
    return torch.randn(n, 3, side, side, generator=generator), torch.randn(n, 1, side, side, generator=generator)


def named(image: torch.Tensor, depth: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"image": image, "depth": depth}


WAYS: dict[str, tuple[type[nn.Module], Callable[..., Any]]] = {
    "positional": (Two, lambda a, b: (a, b)),
    "keywords": (Two, named),
    "a dict": (InDict, lambda a, b: (named(a, b),)),
    "a dataclass": (InDataclass, lambda a, b: (Scene(a, b),)),
    "nested tuples": (InTuples, lambda a, b: ((a, [b]),)),
    "an object": (InObject, lambda a, b: (a, b)),
    "a head for training": (WithAuxiliary, lambda a, b: (a, b)),
}


def build(way: str) -> nn.Module:
    torch.manual_seed(0)
    return WAYS[way][0]().eval()


def analysed(way: str) -> Analysis:
    return analyse(BACKEND, build(way), WAYS[way][1](*inputs()))


def outputs(model: nn.Module, example: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return leaves(call(model, example))


def check_same(found: nn.Module, small: nn.Module, example: Any) -> None:
    pairs = zip(outputs(found, example), outputs(small, example), strict=True)
    assert all(relative_error(f, e) == 0 for f, e in pairs)


@pytest.mark.parametrize("way", WAYS)
def test_networks_take_and_give_what_they_like(way: str) -> None:
    make = WAYS[way][1]
    found = verify(BACKEND, build(way), make(*inputs()), seeds=2)
    assert found.status == "exact", found.message
    analysis = analysed(way)
    sizes = {g.name: g.size for g in analysis.groups}
    expected = {"image": 12, "depth": 12, "fuse": 16} | ({"side": 8} if "training" in way else {})
    assert sizes == expected
    plan = random_plan(analysis)
    small = BACKEND.apply(analysis, plan)
    assert type(call(small, make(*inputs()))) is type(call(analysis.model, make(*inputs())))
    with BACKEND.masked(analysis, plan), torch.inference_mode():
        for n, side in ((1, 8), (5, 8), (2, 12), (3, 5)):  # other batches, other sizes of image
            given = make(*inputs(n, side))
            for one, other in zip(leaves(call(small, given)), leaves(call(analysis.model, given)), strict=True):
                assert relative_error(one, other) < 1e-5


class Known(pickle.Unpickler):
    """Unpickles what this file pickled."""

    def find_class(self, module: str, name: str) -> Any:
        if module != __name__ and module.partition(".")[0] not in {"torch", "prunekit", "collections", "builtins"}:
            raise pickle.UnpicklingError(f"only what was pickled here is read, got {module}.{name}")
        return super().find_class(module, name)


@pytest.mark.parametrize("way", WAYS)
def test_pruned_networks_are_copied_pickled_saved_and_loaded(way: str, tmp_path: Path) -> None:
    analysis = analysed(way)
    small = BACKEND.apply(analysis, random_plan(analysis))
    example = analysis.example
    check_same(copy.deepcopy(small), small, example)
    check_same(BACKEND.clone(small), small, example)
    again = Known(io.BytesIO(pickle.dumps(small))).load()
    check_same(again, small, example)
    assert BACKEND.plan_of(again) == BACKEND.plan_of(small)
    torch.save(small.state_dict(), tmp_path / "state.pt")
    fresh = BACKEND.apply(analysed(way), random_plan(analysis))
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    check_same(fresh, small, example)
    BACKEND.save(small, tmp_path / "folder")
    check_same(BACKEND.load(build(way), tmp_path / "folder", example), small, example)


@contextmanager
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("way", ["positional", "keywords", "a head for training"])
def test_pruned_networks_run_and_train_in_wrappers(way: str) -> None:
    analysis = analysed(way)
    small = BACKEND.apply(analysis, random_plan(analysis))
    example = WAYS[way][1](*inputs(4))
    check_same(nn.DataParallel(small), small, example)
    with one_process():
        wrapped = nn.parallel.DistributedDataParallel(small)
        check_same(wrapped, small, example)
        wrapped.train()
        sum(t.square().mean() for t in leaves(call(wrapped, example))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())


@pytest.mark.parametrize("way", ["positional", "keywords"])
def test_wrapped_networks_are_pruned(way: str) -> None:
    model = nn.DataParallel(build(way))
    found = verify(BACKEND, model, WAYS[way][1](*inputs()), seeds=1)
    assert found.status == "exact", found.message
    assert found.groups == 3


def test_a_head_for_training_is_cut_with_the_rest() -> None:
    analysis = analysed("a head for training")
    plan = random_plan(analysis)
    small = BACKEND.apply(analysis, plan).train()
    small.norm.eval()
    with BACKEND.masked(analysis, plan) as model:
        model.train()
        model.norm.eval()
        expected = outputs(model, analysis.example)
    found = outputs(small, analysis.example)
    assert len(found) == len(expected) == 3
    assert all(relative_error(f, e) < 1e-5 for f, e in zip(found, expected, strict=True))
    assert small.auxiliary.in_features == 6


class Keeps(nn.Module):
    """Works out positions in its first call and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.place = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(1, 16)
        self.register_buffer("positions", torch.zeros(0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.positions) != x.shape[1]:
            self.positions = torch.arange(x.shape[1])[:, None] / 10
        return self.two(torch.softmax(self.one(x) + self.place(self.positions), -1))


def test_what_a_network_keeps_from_its_first_call_is_part_of_it() -> None:
    model, example = Keeps().eval(), torch.randn(2, 5, 6)
    assert verify(TorchBackend(), model, example).status == "non-neutral exact"
    analysis = analyse(TorchBackend(), model, example)
    model(example)
    plan = random_plan(analysis)
    with TorchBackend().masked(analysis, plan), torch.inference_mode():
        expected = model(example)
    torch.testing.assert_close(TorchBackend().apply(analysis, plan)(example), expected)


def test_parameters_with_two_names_keep_one_value() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for layer in (model[0], model[2]):
        layer.bias = nn.Parameter(torch.zeros(8)) if layer is model[0] else model[0].bias
    assert verify(TorchBackend(), model.eval(), torch.randn(4, 6)).status == "exact"

"""MindSpore's training by a recipe, in both modes: it learns, repeats itself, follows PyTorch and keeps masks."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("prunekit.backend_mindspore")

import mindspore as ms
import mindspore.dataset as ds
from mindspore import Tensor, nn, ops

from prunekit.backend_mindspore import _random
from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.backend_mindspore.observe import evaluate
from prunekit.backend_mindspore.state import get_state, set_state
from prunekit.backend_mindspore.train import classification_loss, fit, shapes_of
from prunekit.backend_torch import train as torch_train
from prunekit.core.analysis import analyse
from prunekit.core.data import load_images
from prunekit.core.errors import ConfigError, DataError, InputError, TrainingError
from prunekit.core.logs import RunLog
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe

Batches = list[tuple[np.ndarray, np.ndarray]]


class Small(nn.Cell):
    """Two convolutions with batch norm, dropout and a classifier, for the digits."""

    def __init__(self, drop: float = 0.1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, pad_mode="pad", padding=1, has_bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, pad_mode="pad", padding=1, has_bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.pool = nn.MaxPool2d(2, 2)
        self.drop = nn.Dropout(p=drop)
        self.fc = nn.Dense(16, 10)

    def construct(self, x: Tensor) -> Tensor:
        x = self.pool(ops.relu(self.bn1(self.conv1(x))))
        x = ops.relu(self.bn2(self.conv2(x)))
        return self.fc(self.drop(x.max(axis=(2, 3))))


class Twin(torch.nn.Module):
    """The same for PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(12)
        self.conv2 = torch.nn.Conv2d(12, 16, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(16)
        self.fc = torch.nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        return self.fc(torch.relu(self.bn2(self.conv2(x))).amax((2, 3)))


@pytest.fixture(params=["pynative", "graph"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    yield request.param
    ms.set_context(mode=before)


def batches(split: str, size: int, count: int | None = None) -> Batches:
    images = getattr(load_images("digits"), split)
    x = images.images.transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1
    return [(x[i : i + size], images.labels[i : i + size]) for i in range(0, len(x), size)][:count]


@pytest.fixture(scope="module")
def digits() -> Batches:
    return batches("train", 16, 6)


@pytest.fixture
def net() -> Small:
    return Small()


def twins(drop: float = 0.0) -> tuple[Small, Twin]:
    """Two networks with the same weights."""
    torch.manual_seed(0)
    net, twin = Small(drop), Twin()
    set_state(net, {k: v.numpy() for k, v in twin.state_dict().items() if "num_batches" not in k})
    return net, twin


def furthest(net: nn.Cell, twin: torch.nn.Module) -> float:
    """Largest difference of any weight or statistic."""
    values = twin.state_dict()
    return max(float(np.abs(v - values[name].numpy()).max()) for name, v in get_state(net).items())


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def fast(**values: Any) -> Recipe:
    return Recipe(**{"epochs": 1, "lr": 0.05, "steps_per_epoch": 5, **values})


def test_it_learns_the_digits(mode: str, net: Small, tmp_path: Path) -> None:
    chosen = ms.get_context("mode")
    net.set_train(False)
    net.drop.set_train(True)
    numbers, generator, primitive = np.random.get_state()[1].copy(), ms.get_rng_state().asnumpy(), net.drop.dropout
    names = [p.name for p in net.get_parameters()]
    data, validation = batches("train", 128), batches("validation", 128)
    with RunLog(tmp_path) as log:
        recipe = Recipe(epochs=4, lr=0.1, schedule="onecycle", nesterov=True, label_smoothing=0.05)
        result = fit(net, data, recipe, validation=validation, log=log, show=False)
    assert evaluate(net, batches("test", 128))["top1"] > 0.85
    assert [h["epoch"] for h in result.history] == [1, 2, 3, 4] and result.steps == 4 * len(data)
    assert result.last["val_top1"] == pytest.approx(evaluate(net, validation)["top1"])
    assert result.history[0]["loss"] > result.last["loss"] and result.last["top1"] > 0.7
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["val_top1"] for line in lines] == [h["val_top1"] for h in result.history]
    # all else is as it was
    assert not net.training and net.phase == "predict" and net.drop.training and net.drop.dropout is primitive
    assert np.array_equal(np.random.get_state()[1], numbers) and ms.get_context("mode") == chosen
    assert np.array_equal(ms.get_rng_state().asnumpy(), generator)
    assert [p.name for p in net.get_parameters()] == names


@pytest.mark.parametrize(
    "mode, options", [("graph", {}), ("pynative", {"optimizer": "adamw", "lr": 1e-3})], indirect=["mode"]
)
def test_the_same_recipe_gives_the_same_weights(mode: str, options: dict[str, Any]) -> None:
    data = batches("train", 16, 5)
    start, found = get_state(Small(0.5)), []
    for seed in (3, 3, 4):
        net = Small(0.5)
        set_state(net, start)
        ms.set_seed(np.random.randint(1000) + 1)
        fit(net, data, fast(epochs=2, seed=seed, **options), show=False)
        found.append(get_state(net))
    assert same(found[0], found[1]) and not same(found[0], found[2]) and not same(found[0], start)


def test_numbers_from_a_seed_leave_the_process_alone() -> None:
    def draw() -> list[float]:
        plain = [random.random(), np.random.rand()]
        return plain + ops.dropout(ops.ones((64,)), p=0.5).asnumpy().tolist()

    ms.set_seed(5)
    with _random.seeded(3):
        first = draw()
    middle = draw()
    with _random.seeded(3):
        assert draw() == first
    ms.set_seed(5)
    assert draw()[1:] == middle[1:] and ms.get_seed() == 5
    with _random.seeded(9):
        assert draw() != first


OPTIONS = {"nesterov": True, "weight_decay": 1e-2, "grad_clip": 0.5, "decay_norms": False, "label_smoothing": 0.1}


@pytest.mark.parametrize(
    "mode, options",
    [("pynative", OPTIONS), ("graph", OPTIONS), ("pynative", {"momentum": 0.0, "weight_decay": 1e-2})],
    indirect=["mode"],
)
def test_steps_follow_torch(mode: str, options: dict[str, Any]) -> None:
    net, twin = twins()
    data = [*batches("train", 32, 3), *batches("train", 10, 1)]
    recipe = Recipe(epochs=2, lr=0.05, warmup_epochs=0.5, **options)
    found = fit(net, data, recipe, validation=data, show=False)
    expected = torch_train.fit(twin, data, recipe, validation=data, show=False)
    assert furthest(net, twin) < 1e-5
    for mine, other in zip(found.history, expected.history, strict=True):
        assert {k: v for k, v in mine.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in other.items() if k != "seconds"}, rel=1e-5
        )


@pytest.mark.parametrize("mode", ["pynative", "graph"], indirect=True)
def test_a_step_whose_gradients_overflow_is_left_out(mode: str) -> None:
    y = Tensor(np.arange(4) % 3, ms.int32)
    usual = Tensor(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)), y
    huge = Tensor(np.full((4, 8), 1e30, np.float32)), y
    net, twin = nn.Dense(8, 3), nn.Dense(8, 3)
    ms.load_param_into_net(twin, net.parameters_dict())
    recipe = Recipe(epochs=1, lr=0.1, schedule="constant", grad_clip=1.0)
    found = fit(net, [usual, huge, usual], recipe, show=False)
    fit(twin, [usual, usual], recipe, show=False)
    assert found.history[0]["skipped"] == 1
    np.testing.assert_array_equal(net.weight.asnumpy(), twin.weight.asnumpy())
    with pytest.raises(TrainingError, match="20 steps in succession where they did, up to step 20"):
        fit(net, [huge] * 40, recipe, show=False)


class Two(nn.Cell):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Dense(4, 6), nn.Dense(3, 6), nn.Dense(6, 3)

    def construct(self, left: Tensor, right: Tensor) -> Tensor:
        return self.fc(ops.relu(self.a(left) + self.b(right)))


@pytest.mark.parametrize("mode", ["graph"], indirect=True)
def test_batches_of_every_kind_train_alike(mode: str) -> None:
    """Two inputs by position and by name, whole numbers of any type, arrays, tensors, and batches on the fly."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    y = np.arange(6) % 3

    def on_the_fly() -> Iterator[Any]:
        while True:
            yield (Tensor(left), Tensor(right)), Tensor(y, ms.int64)

    kinds = [
        [((left, right), y)],
        [({"right": right, "left": left}, y.astype(np.uint8))],
        on_the_fly(),
    ]
    start, found = get_state(Two()), []
    for loader in kinds:
        net = Two()
        set_state(net, start)
        fit(net, loader, fast(epochs=3, steps_per_epoch=1), show=False)
        found.append(get_state(net))
    assert all(same(found[0], other) for other in found) and not same(found[0], start)
    with pytest.raises(InputError, match=r"must name those of the network, got \['left', 'up'\]"):
        fit(Two(), [({"left": left, "up": right}, y)], fast(steps_per_epoch=None), show=False)


def test_a_dataset_of_mindspore_is_a_loader(digits: Batches) -> None:
    x, y = (np.concatenate([batch[i] for batch in digits[:3]]) for i in (0, 1))
    data = ds.NumpySlicesDataset((x, y.astype(np.int32)), ["x", "y"], shuffle=True).batch(16)
    start, found, orders = get_state(Small()), [], []
    for _ in range(2):
        net = Small()
        set_state(net, start)
        seen: list[list[int]] = []

        def loss(outputs: Tensor, targets: Tensor, seen: list[list[int]] = seen) -> Tensor:
            seen.append(targets.asnumpy().tolist())
            return ops.cross_entropy(outputs, targets)

        seed = ds.config.get_seed()
        assert fit(net, data, Recipe(epochs=2, lr=0.05), loss=loss, show=False).steps == 6
        assert ds.config.get_seed() == seed
        found.append(get_state(net))
        orders.append(seen)
    assert same(*found) and orders[0] == orders[1] and orders[0][:3] != orders[0][3:]
    assert evaluate(net, data)["loss"] == pytest.approx(evaluate(net, digits[:3])["loss"], rel=1e-4)


def test_a_soft_mask_stays_zero_and_cuts_without_a_trace(mode: str, net: Small, digits: Batches) -> None:
    backend = MindSporeBackend()
    analysis = analyse(backend, net, Tensor(digits[0][0][:2]))
    plan = PruningPlan.of(analysis.coupling, {g.name: range(1, g.size, 2) for g in analysis.groups})
    before = get_state(net)
    fit(net, digits, fast(epochs=2, weight_decay=1e-2), analysis=analysis, plan=plan, show=False)
    after = get_state(net)
    assert not after["conv1.weight"][::2].any() and not after["bn2.bias"][::2].any()
    assert not after["fc.weight"][:, ::2].any()
    # what stays goes on learning at every step: ten of them
    assert np.abs(after["fc.weight"] - before["fc.weight"])[:, 1::2].max() > 0.03
    small = backend.apply(analysis, plan)
    assert small.conv2.weight.shape == (8, 6, 3, 3)
    x = digits[-1][0]
    np.testing.assert_allclose(backend.predict(small, x), backend.predict(net, x), rtol=1e-4, atol=1e-5)
    fit(small, digits, fast(), show=False)
    with pytest.raises(InputError, match="the very model that is trained"):
        fit(small, digits, fast(), analysis=analysis, plan=plan)


def test_distillation_is_that_of_torch(mode: str) -> None:
    (net, twin), teacher, torch_teacher = twins(), Small(0.5), Twin()
    set_state(teacher, {k: v.numpy() for k, v in torch_teacher.state_dict().items() if "num_batches" not in k})
    data = batches("train", 32, 2)
    teacher.set_train(True)
    before = get_state(teacher)
    recipe = Recipe(lr=0.05, distill_weight=4.0, distill_temperature=4.0)
    found = fit(net, data, recipe, teacher=teacher, show=False)
    expected = torch_train.fit(twin, data, recipe, teacher=torch_teacher, show=False)
    assert furthest(net, twin) < 1e-5
    assert found.last["loss"] == pytest.approx(expected.last["loss"], rel=1e-5)
    assert same(before, get_state(teacher)) and teacher.training and teacher.drop.training


class Auxiliary(nn.Cell):
    """More outputs in training: a tuple or a dict, one of which is no score of the classes."""

    def __init__(self, heads: int, named: bool) -> None:
        super().__init__()
        self.named = named
        self.flat = nn.Flatten()
        self.main = nn.Dense(64, 10)
        self.more = nn.CellList([nn.Dense(64, 10) for _ in range(heads)])

    def construct(self, x: Tensor) -> Any:
        x = self.flat(x)
        outputs = (self.main(x), x)
        for head in self.more:
            outputs += (head(x),)
        if not self.training:
            return outputs[0]
        return {"features": x, "out": outputs[0], "aux": outputs[2]} if self.named else outputs


@pytest.mark.parametrize(
    "mode, heads, named, weight",
    [("pynative", 2, False, 0.3), ("graph", 1, False, 0.4), ("graph", 1, True, 0.4)],
    indirect=["mode"],
)
def test_auxiliary_outputs_count(mode: str, heads: int, named: bool, weight: float) -> None:
    net, data = Auxiliary(heads, named), batches("train", 16, 1)
    x, y = data[0]
    state = get_state(net)
    flat = torch.tensor(x.reshape(16, -1))
    scores = [
        flat @ torch.tensor(state[f"{n}.weight"]).T + torch.tensor(state[f"{n}.bias"])
        for n in ("main", *(f"more.{i}" for i in range(heads)))
    ]
    losses = [torch.nn.functional.cross_entropy(s, torch.tensor(y)).item() for s in scores]
    expected = losses[0] + weight * sum(losses[1:])
    assert fit(net, data, Recipe(lr=0.1), show=False).last["loss"] == pytest.approx(expected, rel=1e-5)
    outputs = tuple(Tensor(s.numpy()) for s in scores)
    assert float(classification_loss(outputs, Tensor(y), Recipe())) == pytest.approx(expected, rel=1e-5)
    assert float(classification_loss(outputs, Tensor(y), Recipe(aux_weight=0.0))) == pytest.approx(losses[0])


def test_a_loss_that_is_not_finite_stops(net: Small, digits: Batches) -> None:
    with pytest.raises(TrainingError, match="the loss must stay finite"):
        fit(Small(), digits, fast(lr=1e12, epochs=4), show=False)
    set_state(net, {**get_state(net), "fc.bias": np.full(10, math.nan, np.float32)})
    with pytest.raises(TrainingError, match=r"must stay finite, got nan at step 1 with a learning rate of 0\.05"):
        fit(net, digits, fast(), show=False)


def test_callbacks_and_a_trainer_that_restores_the_dense_model(net: Small, digits: Batches) -> None:
    class Restore:
        def __init__(self) -> None:
            self.calls: list[tuple[str, int]] = []

        def epoch_begin(self, epoch: int) -> None:
            self.calls.append(("begin", epoch))

        def epoch_end(self, epoch: int) -> None:
            self.calls.append(("end", epoch))
            if epoch == 2:
                net.conv1 = nn.Conv2d(1, 24, 3)

    callback = Restore()
    with pytest.raises(TrainingError, match=r"'conv1\.weight' \(12, 1, 3, 3\) before and \(24, 1, 3, 3\) after"):
        fit(net, digits, fast(epochs=3), callbacks=[callback], show=False)
    assert callback.calls == [("begin", 1), ("end", 1), ("begin", 2), ("end", 2)]
    assert "bn1.running_mean" not in shapes_of(net)


def test_fractions_of_epochs_and_none(net: Small, digits: Batches) -> None:
    before = get_state(net)
    assert fit(net, digits, Recipe(epochs=0), show=False).history == [] and same(before, get_state(net))
    result = fit(net, digits[:4], Recipe(epochs=1.5, lr=0.01), show=False)
    assert result.steps == 6 and [h["step"] for h in result.history] == [4, 6]


@pytest.mark.parametrize("mode", ["graph"], indirect=True)
def test_soft_targets(mode: str) -> None:
    net, twin = twins()
    soft = [(x, np.eye(10, dtype=np.float32)[y]) for x, y in batches("train", 16, 2)]
    found = fit(net, soft, Recipe(lr=0.05), show=False).last
    expected = torch_train.fit(twin, soft, Recipe(lr=0.05), show=False).last
    assert furthest(net, twin) < 1e-5 and found["top1"] == expected["top1"] > 0


def test_what_does_not_go_together(net: Small, digits: Batches) -> None:
    before = get_state(net)
    with pytest.raises(ConfigError, match="needs a teacher, got distill_weight=4 and none"):
        fit(net, digits, fast(distill_weight=4.0))
    with pytest.raises(ConfigError, match="a teacher needs a distill_weight above 0"):
        fit(net, digits, fast(), teacher=net)
    with pytest.raises(InputError, match=r"a teacher must give the outputs of its pupil, got \(16, 3\)"):
        teacher = nn.SequentialCell(nn.Flatten(), nn.Dense(64, 3))
        fit(net, digits, fast(distill_weight=1.0), teacher=teacher, show=False)
    with pytest.raises(DataError, match="classes of the network, got 10 for 10 outputs"):
        fit(net, [(x, y * 0 + 10) for x, y in digits], fast(), show=False)
    with pytest.raises(DataError, match=r"classes \(N,\), or probabilities of the shape of the outputs, got \(16, 1\)"):
        fit(net, [(x, y[:, None]) for x, y in digits], fast(), show=False)
    with pytest.raises(DataError, match="at least one batch, got none"):
        fit(net, [], fast())
    with pytest.raises(DataError, match="must have a length"):
        fit(net, (batch for batch in digits), Recipe())
    with pytest.raises(DataError, match="got 1 instead of 5"):
        fit(Small(), (batch for batch in digits[:1]), fast(), show=False)
    for batch, said in ((np.zeros((4, 1, 8, 8)), r"ndarray of shape \(4, 1, 8, 8\)"), ({"x": 0, "y": 1}, "dict")):
        with pytest.raises(DataError, match=rf"a pair \(inputs, targets\), got {said}"):
            fit(net, [batch], fast(steps_per_epoch=None), show=False)
    weights = {n: v for n, v in get_state(net).items() if "running" not in n}
    assert same(weights, before), "what is refused must not have moved the weights"

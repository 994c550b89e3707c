"""Training by a recipe on real images: it learns, repeats itself, keeps masks and stops when something is wrong."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from prunekit.backend_torch._random import seeded
from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.data import Loaders, loaders
from prunekit.backend_torch.observe import evaluate
from prunekit.backend_torch.train import build_optimizer, classification_loss, fit, shapes_of
from prunekit.backend_torch.zoo import build_model
from prunekit.core.analysis import analyse
from prunekit.core.errors import ConfigError, DataError, InputError, TrainingError
from prunekit.core.logs import RunLog
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe, lr_curve
from prunekit.core.training import check_shapes


class Small(nn.Module):
    """Two convolutions with batch norm, dropout and a classifier, for the digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(self.drop(x.amax((2, 3))))


@pytest.fixture(scope="module")
def digits() -> Loaders:
    return loaders("digits", 64)


@pytest.fixture
def model() -> Small:
    torch.manual_seed(0)
    return Small()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def fast(**values: Any) -> Recipe:
    return Recipe(**{"epochs": 1, "lr": 0.05, "steps_per_epoch": 5, **values})


def test_it_learns_the_digits(model: Small, digits: Loaders, tmp_path: Path) -> None:
    model.eval()
    model.drop.train()
    before = torch.get_rng_state()
    with RunLog(tmp_path, tensorboard=True) as log:
        recipe = Recipe(epochs=4, lr=0.1, schedule="onecycle", nesterov=True, label_smoothing=0.05)
        result = fit(model, digits.train, recipe, validation=digits.validation, log=log)
    assert evaluate(model, digits.test)["top1"] > 0.9
    assert [h["epoch"] for h in result.history] == [1, 2, 3, 4] and result.steps == 80 and result.seconds > 0
    assert result.last["val_top1"] == pytest.approx(evaluate(model, digits.validation)["top1"])
    assert result.history[0]["loss"] > result.last["loss"] and result.last["top1"] > 0.8
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["val_top1"] for line in lines] == [h["val_top1"] for h in result.history]
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(e.step, e.value) for e in curves.Scalars("train/loss")]
    assert points == [(h["step"], pytest.approx(h["loss"])) for h in result.history]
    # modes and the process's random numbers are as they were
    assert not model.training and model.drop.training and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "lr": 1e-3}, {"channels_last": True}])
def test_the_same_recipe_gives_the_same_weights(options: dict[str, Any]) -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        model = Small()
        torch.manual_seed(np.random.randint(1000))
        fit(model, loaders("digits", 64, augment=True).train, fast(seed=seed, **options), show=False)
        found.append(weights(model))
    assert same(found[0], found[1]) and not same(found[0], found[2])
    assert model.conv2.weight.is_contiguous()


def test_augmentation_with_any_generator_is_repeatable(model: Small) -> None:
    class Noisy(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 16

        def __getitem__(self, i: int) -> Any:
            return torch.full((1, 8, 8), np.random.rand() + random.random()) + torch.rand(1, 8, 8), i % 10

    found = []
    for draws in (0, 3):
        twin = copy.deepcopy(model)
        for _ in range(draws):
            np.random.rand(), random.random(), torch.rand(1)
        before = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()
        fit(twin, torch.utils.data.DataLoader(Noisy(), 4, shuffle=True), fast(steps_per_epoch=None), show=False)
        assert before == (np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist())
        found.append(weights(twin))
    assert same(*found)


def test_a_model_in_another_memory_layout_stays_in_it(model: Small, digits: Loaders) -> None:
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(model, digits.train, fast(channels_last=True), show=False)
    assert model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.conv2.weight.is_contiguous()


def test_numbers_from_a_seed_leave_the_process_alone() -> None:
    before = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(2)
    with seeded(3):
        assert torch.equal(torch.rand(2), first)
    assert torch.equal(torch.get_rng_state(), before)


class Two(nn.Module):
    """Two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.a(left) + self.b(right)))


def test_batches_of_every_kind_train_alike() -> None:
    """Two inputs by position and by name, whole numbers of any type, arrays, and batches made on the fly."""
    left, right, y = torch.randn(6, 4), torch.randn(6, 3), torch.arange(6) % 3

    def on_the_fly() -> Iterator[Any]:
        while True:
            yield (left, right), y

    class Named(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: int) -> Any:
            return {"left": left[i], "right": right[i]}, int(y[i])

    kinds = [
        [((left, right), y)],
        [({"right": right, "left": left}, y.int())],
        [([left.numpy(), right.numpy()], y.numpy().astype(np.uint8))],
        torch.utils.data.DataLoader(Named(), 6),
        on_the_fly(),
    ]
    start, found = Two(), []
    for loader in kinds:
        model = copy.deepcopy(start)
        fit(model, loader, fast(epochs=3, steps_per_epoch=1), show=False)
        found.append(weights(model))
    assert all(same(found[0], other) for other in found) and not same(found[0], weights(start))
    assert evaluate(start, kinds[1]) == evaluate(start, kinds[0])


def test_training_where_gradients_are_off(model: Small, digits: Loaders) -> None:
    before = weights(model)
    with torch.no_grad():
        fit(model, digits.train, fast(), show=False)
        assert not torch.is_grad_enabled()
    assert not same(before, weights(model))


def test_what_a_loader_gave_before_does_not_matter(digits: Loaders) -> None:
    found = []
    for passes in (0, 2):
        torch.manual_seed(0)
        model = Small()
        for _ in range(passes):
            list(digits.train)
        fit(model, digits.train, fast(epochs=2), show=False)
        found.append(weights(model))
    assert same(*found)


def test_steps_follow_torch(model: Small, digits: Loaders) -> None:
    """Against a loop written by hand with PyTorch's own optimizer and loss."""
    twin = Small()
    twin.load_state_dict(model.state_dict())
    model.drop.p = twin.drop.p = 0.0
    recipe = fast(epochs=2, weight_decay=1e-2, grad_clip=0.5, decay_norms=False, label_smoothing=0.1)
    fit(model, digits.train, recipe, show=False)
    matrices = [p for p in twin.parameters() if p.dim() > 1]
    vectors = [p for p in twin.parameters() if p.dim() == 1]
    optimizer = torch.optim.SGD(
        [{"params": matrices, "weight_decay": 1e-2}, {"params": vectors, "weight_decay": 0}], lr=1, momentum=0.9
    )
    rates = iter(lr_curve(recipe, 100))
    for epoch in range(2):
        digits.train.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for _, (x, y) in zip(range(5), digits.train, strict=False):
            rate = next(rates)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            F.cross_entropy(twin(x), y, label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            optimizer.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_a_step_whose_gradients_overflow_is_left_out() -> None:
    torch.manual_seed(0)
    usual, huge = (torch.randn(4, 8), torch.arange(4) % 3), (torch.full((4, 8), 1e30), torch.arange(4) % 3)
    net, twin = nn.Linear(8, 3), nn.Linear(8, 3)
    twin.load_state_dict(net.state_dict())
    recipe = Recipe(epochs=1, lr=0.1, schedule="constant", grad_clip=1.0)
    found = fit(net, [usual, huge, usual], recipe, show=False)
    fit(twin, [usual, usual], recipe, show=False)
    assert found.history[0]["skipped"] == 1
    assert torch.equal(net.weight, twin.weight) and torch.equal(net.bias, twin.bias)
    with pytest.raises(TrainingError, match="20 steps in succession where they did, up to step 20"):
        fit(net, [huge] * 40, recipe, show=False)


def test_a_soft_mask_stays_zero_and_cuts_without_a_trace(model: Small, digits: Loaders) -> None:
    backend = TorchBackend()
    analysis = analyse(backend, model, torch.zeros(2, 1, 8, 8))
    plan = PruningPlan.of(analysis.coupling, {g.name: range(1, g.size, 2) for g in analysis.groups})
    fit(model, digits.train, fast(epochs=2, weight_decay=1e-2), analysis=analysis, plan=plan, show=False)
    assert not model.conv1.weight[::2].any() and model.conv1.weight[1::2].abs().sum() > 0
    assert not model.bn2.bias[::2].any() and not model.fc.weight[:, ::2].any()
    small = backend.apply(analysis, plan)
    assert small.conv2.weight.shape == (8, 6, 3, 3)
    x = next(iter(digits.test))[0]
    np.testing.assert_allclose(backend.predict(small, x), backend.predict(model, x), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="the very model that is trained"):
        fit(small, digits.train, fast(), analysis=analysis, plan=plan)


def test_distillation_is_the_loss_it_says(model: Small, digits: Loaders) -> None:
    torch.manual_seed(1)
    teacher = Small()
    x, y = next(iter(digits.calibration))
    model.drop.p = 0.0
    twin = copy.deepcopy(model).train()
    soft = F.softmax(teacher.eval()(x) / 4, dim=1).detach()
    logits = twin(x)
    expected = F.cross_entropy(logits, y) - 4 * (soft * F.log_softmax(logits / 4, dim=1)).sum(1).mean()
    expected.backward()
    torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4).step()
    teacher.train()
    recipe = fast(steps_per_epoch=1, distill_weight=4.0, distill_temperature=4.0)
    before = weights(teacher)
    result = fit(model, [(x, y)], recipe, teacher=teacher, show=False)
    assert result.last["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert same(before, weights(teacher)) and teacher.training
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


@pytest.mark.parametrize("name, weight", [("googlenet", 0.3), ("inception_v3", 0.4)])
def test_auxiliary_outputs_count(name: str, weight: float) -> None:
    y = torch.tensor([0, 1])
    logits, aux = torch.randn(2, 3), [torch.randn(2, 3) for _ in range(2 if name == "googlenet" else 1)]
    models = import_torchvision().models
    outputs = (
        models.GoogLeNetOutputs(logits, aux[1], aux[0])
        if name == "googlenet"
        else models.InceptionOutputs(logits, aux[0])
    )
    expected = F.cross_entropy(logits, y) + weight * sum(F.cross_entropy(a, y) for a in aux)
    torch.testing.assert_close(classification_loss(outputs, y, Recipe()), expected)
    torch.testing.assert_close(classification_loss(outputs, y, Recipe(aux_weight=0.0)), F.cross_entropy(logits, y))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_auxiliary_heads_train(name: str) -> None:
    model = build_model(f"torchvision:{name}", num_classes=3)
    side = 299 if name == "inception_v3" else 224
    data = [(torch.randn(2, 3, side, side), torch.tensor([0, 1]))]
    fit(model, data, Recipe(epochs=1, lr=1e-3), show=False)
    assert evaluate(model, data)["loss"] > 0


def test_a_loss_that_is_not_finite_stops(model: Small, digits: Loaders) -> None:
    model.fc.weight.data[0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"must stay finite, got nan at step 1 with a learning rate of 0\.05"):
        fit(model, digits.train, fast(), show=False)
    with pytest.raises(TrainingError, match="the loss must stay finite"):
        fit(Small(), digits.train, fast(lr=1e12, epochs=4), show=False)


def test_callbacks_and_a_trainer_that_restores_the_dense_model(model: Small, digits: Loaders) -> None:
    class Restore:
        def __init__(self) -> None:
            self.calls: list[tuple[str, int]] = []

        def epoch_begin(self, epoch: int) -> None:
            self.calls.append(("begin", epoch))

        def epoch_end(self, epoch: int) -> None:
            self.calls.append(("end", epoch))
            if epoch == 2:
                model.conv1 = nn.Conv2d(1, 24, 3, padding=1)

    callback = Restore()
    with pytest.raises(TrainingError, match=r"'conv1\.weight' \(12, 1, 3, 3\) before and \(24, 1, 3, 3\) after"):
        fit(model, digits.train, fast(epochs=3), callbacks=[callback], show=False)
    assert callback.calls == [("begin", 1), ("end", 1), ("begin", 2), ("end", 2)]
    check_shapes(shapes_of(model), shapes_of(model))


def test_fractions_of_epochs_and_none(model: Small, digits: Loaders) -> None:
    before = weights(model)
    assert fit(model, digits.train, Recipe(epochs=0), show=False).history == [] and same(before, weights(model))
    result = fit(model, digits.train, Recipe(epochs=1.5, lr=0.01), show=False)
    assert result.steps == 30 and [h["step"] for h in result.history] == [20, 30]


def test_a_loss_and_an_optimizer_of_the_users_own(model: Small, digits: Loaders) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=7.0)
    targets = []

    def loss(outputs: Any, target: torch.Tensor) -> torch.Tensor:
        targets.append(target)
        return F.multi_margin_loss(outputs, target)

    fit(model, digits.train, fast(lr=1e-3), loss=loss, optimizer=optimizer, show=False)
    assert len(targets) == 5 and optimizer.param_groups[0]["lr"] < 1e-3 and len(optimizer.state) == 10


def test_soft_targets(model: Small, digits: Loaders) -> None:
    batches = [(x, F.one_hot(y, 10).float()) for x, y in digits.train]
    assert fit(model, batches, Recipe(epochs=3, lr=0.1), show=False).last["top1"] > 0.6


def test_weight_decay_may_leave_vectors_alone(model: Small) -> None:
    groups = build_optimizer(model, Recipe(decay_norms=False, weight_decay=0.1)).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(3, 0.1), (7, 0.0)]
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(InputError, match="requires_grad=True"):
        build_optimizer(model, Recipe())


def test_what_does_not_go_together(model: Small, digits: Loaders) -> None:
    with pytest.raises(ConfigError, match="needs a teacher, got distill_weight=4 and none"):
        fit(model, digits.train, fast(distill_weight=4.0))
    with pytest.raises(ConfigError, match="a teacher needs a distill_weight above 0"):
        fit(model, digits.train, fast(), teacher=model)
    with pytest.raises(InputError, match=r"a teacher must give the outputs of its pupil, got \(64, 3\)"):
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        fit(model, digits.train, fast(distill_weight=1.0), teacher=teacher, show=False)
    with pytest.raises(InputError, match="of the model that is trained, got one of another model"):
        fit(model, digits.train, fast(), optimizer=torch.optim.SGD(Small().parameters(), lr=0.1))
    with pytest.raises(DataError, match="classes of the network, got 10 for 10 outputs"):
        fit(model, [(x, y + 1) for x, y in digits.train], fast(), show=False)
    with pytest.raises(DataError, match="at least one batch, got none"):
        fit(model, [], fast())
    with pytest.raises(DataError, match="must have a length"):
        fit(model, (batch for batch in digits.train), Recipe())
    with pytest.raises(DataError, match="got 1 instead of 5"):
        fit(model, (batch for batch in list(digits.train)[:1]), fast(), show=False)
    for batch, said in ((torch.zeros(4, 1, 8, 8), r"Tensor of shape \(4, 1, 8, 8\)"), ({"x": 0, "y": 1}, "dict")):
        with pytest.raises(DataError, match=rf"a pair \(inputs, targets\), got {said}"):
            fit(model, [batch], fast(steps_per_epoch=None), show=False)

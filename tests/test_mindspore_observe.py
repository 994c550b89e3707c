"""Predictions, scores, activations, gradients, norm statistics and latency of MindSpore networks, in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("prunekit.backend_mindspore")

import mindspore as ms
import mindspore.dataset as ds
from mindspore import Tensor, nn, ops

from prunekit.backend_mindspore.latency import latency
from prunekit.backend_mindspore.observe import activations, evaluate, gradients, predict
from prunekit.backend_mindspore.state import get_state, set_state
from prunekit.backend_mindspore.statistics import recalibrate
from prunekit.backend_torch import observe as torch_observe
from prunekit.backend_torch.statistics import recalibrate as torch_recalibrate
from prunekit.core.errors import DataError, InputError


class Net(nn.Cell):
    """A convolution, a batch norm, dropout and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, pad_mode="valid", has_bias=True)
        self.bn = nn.BatchNorm2d(6, momentum=0.7)
        self.drop = nn.Dropout(p=0.5)
        self.fc = nn.Dense(6, 10)
        self.unused = nn.Dense(2, 2)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(ops.relu(self.bn(self.conv(x))).mean((2, 3))))


class Twin(torch.nn.Module):
    """The same for PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 6, 3)
        self.bn = torch.nn.BatchNorm2d(6, momentum=0.3)
        self.fc = torch.nn.Linear(6, 10)
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


@pytest.fixture(params=["pynative", "graph"])
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    before, chosen = ms.get_context("mode"), ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE
    ms.set_context(mode=chosen)
    yield chosen
    assert ms.get_context("mode") == chosen
    ms.set_context(mode=before)


@pytest.fixture(scope="module")
def data() -> list[tuple[np.ndarray, np.ndarray]]:
    """Three batches and a smaller one."""
    rng = np.random.default_rng(0)
    return [(rng.normal(1, 2, (n, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, n)) for n in (16, 16, 16, 5)]


@pytest.fixture
def twins() -> tuple[Net, Twin]:
    torch.manual_seed(0)
    net, twin = Net(), Twin()
    twin.bn.running_mean.normal_()
    twin.bn.running_var.uniform_(0.5, 2)
    set_state(net, {k: v.numpy() for k, v in twin.state_dict().items() if "num_batches" not in k})
    return net, twin


# ---- predictions and scores ----


def test_predictions_of_arrays_batches_and_pairs_agree(mode: int, twins: tuple[Net, Twin], data: Any) -> None:
    net, twin = twins
    images, labels = (np.concatenate([batch[i] for batch in data]) for i in (0, 1))
    expected = torch_observe.predict(twin, images)
    net.set_train(True)
    net.bn.set_train(False)
    rows = ds.NumpySlicesDataset((images, labels), ["x", "y"], shuffle=False).batch(16)
    for given in (images, Tensor(images), data, [x for x, _ in data], [{"x": x} for x, _ in data], rows):
        np.testing.assert_allclose(predict(net, given), expected, rtol=1e-5, atol=1e-5)
    assert net.training and net.drop.training and not net.bn.training and net.phase == "train"
    assert predict(net, np.concatenate([images] * 6)).shape == (318, 10)
    with pytest.raises(DataError, match="predict needs at least one batch"):
        predict(net, [])
    with pytest.raises(InputError, match="got int"):
        predict(net, 3)


def test_scores_are_those_of_torch(mode: int, twins: tuple[Net, Twin], data: Any) -> None:
    net, twin = twins
    assert evaluate(net, data) == pytest.approx(torch_observe.evaluate(twin, data), rel=1e-5)
    rows = ds.NumpySlicesDataset(tuple(data[0]), ["x", "y"], shuffle=False).batch(8)
    assert evaluate(net, rows) == pytest.approx(evaluate(net, data[:1]), rel=1e-5)


def test_few_classes_and_wrong_targets() -> None:
    two = nn.Dense(3, 2)
    x = np.ones((4, 3), np.float32)
    assert evaluate(two, [(x, np.array([0, 1, 0, 1], np.uint8))])["top5"] == 1.0
    with pytest.raises(DataError, match="classes of the network, got 2 for 2 outputs"):
        evaluate(two, [(x[:1], np.array([2]))])
    with pytest.raises(DataError, match="classes from 0, got -1"):
        evaluate(two, [(x[:1], np.array([-1]))])
    with pytest.raises(DataError, match=r"whole numbers \(N,\), got \(4, 2\) and \(4,\) of float32"):
        evaluate(two, [(x, np.zeros(4, np.float32))])
    with pytest.raises(DataError, match="evaluate needs at least one batch"):
        evaluate(two, [])
    with pytest.raises(DataError, match="one target for each input, got 4 inputs and 3 targets"):
        evaluate(two, [(x, np.zeros(3, np.int64))])


# ---- activations and gradients ----


def test_activations_are_those_of_torch(mode: int, twins: tuple[Net, Twin], data: Any) -> None:
    net, twin = twins
    found = activations(net, data, ["conv", "bn", "fc"])
    expected = torch_observe.activations(twin, data, ["conv", "bn", "fc"])
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    assert not net.conv._forward_hook
    with pytest.raises(InputError, match="got 'cony'; did you mean 'conv'?"):
        activations(net, data, ["cony"])
    with pytest.raises(InputError, match="got 'unused', which did not"):
        activations(net, data, ["unused"])
    with pytest.raises(DataError, match="at least one batch, got none"):
        activations(net, [], ["conv"])


def test_gradients_are_those_of_torch(mode: int, twins: tuple[Net, Twin], data: Any) -> None:
    net, twin = twins
    net.conv.weight.requires_grad = False
    net.set_train(True)
    before = get_state(net)
    found, expected = gradients(net, data), torch_observe.gradients(twin, data)
    assert list(found) == list(expected) and not net.conv.weight.requires_grad and net.bn.training
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)
    assert not found["unused.weight"].any() and found["conv.weight"].any()
    assert all(np.array_equal(before[n], v) for n, v in get_state(net).items())
    with pytest.raises(DataError, match="classes of the network, got 10 for 10 outputs"):
        gradients(net, [(x, y * 0 + 10) for x, y in data])
    with pytest.raises(DataError, match="at least one batch, got none"):
        gradients(net, [])


# ---- statistics ----


def test_recalibration_is_that_of_torch(mode: int, twins: tuple[Net, Twin], data: Any) -> None:
    net, twin = twins
    net.set_train(True)
    predict(net, data)
    for limit, seen in ((3, 3), (100, 4)):
        assert recalibrate(net, data, limit) == torch_recalibrate(twin, data, limit) == seen
        for name, value in get_state(net).items():
            np.testing.assert_allclose(value, twin.state_dict()[name].numpy(), rtol=1e-5, atol=1e-5)
    assert net.bn.momentum == pytest.approx(0.3) and net.bn.training and net.drop.training and net.phase == "train"
    np.testing.assert_allclose(predict(net, data), torch_observe.predict(twin, data), rtol=1e-4, atol=1e-4)
    compiled = len(net.compile_cache)
    set_state(net, {n: v * 3 if "running" in n else v for n, v in get_state(net).items()})
    recalibrate(net, [x for x, _ in data])
    assert len(net.compile_cache) == compiled, "nothing is compiled a second time"
    np.testing.assert_allclose(net.bn.moving_mean.asnumpy(), twin.bn.running_mean.numpy(), rtol=1e-5, atol=1e-5)
    assert recalibrate(nn.Dense(2, 2), data) == 0


class Heads(nn.Cell):
    """A norm that only runs in training, and one that sees nothing but zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.extra, self.fed, self.last = nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def construct(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + self.extra(x)
        return self.fed(x * 0) + self.last(x)


def test_a_norm_that_runs_in_training_only_keeps_its_statistics(mode: int) -> None:
    net = Heads()
    state = {n: v * 0 + 3 for n, v in get_state(net).items()}
    set_state(net, state)
    assert recalibrate(net, np.random.default_rng(0).normal(size=(300, 2, 4, 4)).astype(np.float32)) == 2
    after = get_state(net)
    assert after["extra.running_var"].tolist() == [3, 3] and after["extra.running_mean"].tolist() == [3, 3]
    assert after["fed.running_var"].tolist() == [0, 0] and after["fed.running_mean"].tolist() == [0, 0]
    assert np.abs(after["last.running_var"] - 1).max() < 0.1


def test_recalibration_without_data_or_that_fails_changes_nothing(mode: int, twins: tuple[Net, Twin]) -> None:
    net, _ = twins
    before = get_state(net)
    good, bad = (np.ones((4, c, 8, 8), np.float32) for c in (1, 2))
    with pytest.raises(DataError, match="at least one batch, got none"):
        recalibrate(net, [])
    with pytest.raises((ValueError, RuntimeError)):
        recalibrate(net, [good, bad])
    with pytest.raises(InputError, match="batches must be at least 1, got 0"):
        recalibrate(net, [good], 0)
    with pytest.raises(InputError, match="got momentum=1.0 in '0'"):
        recalibrate(nn.SequentialCell(nn.BatchNorm2d(1, momentum=1.0)), [good])
    assert all(np.array_equal(before[name], value) for name, value in get_state(net).items())
    assert not net.bn.training and net.phase == "train"


# ---- latency ----


def test_latency_is_of_the_asked_number_of_passes(mode: int, twins: tuple[Net, Twin]) -> None:
    net, _ = twins
    net.set_train(True)
    calls: list[bool] = []
    handle = None
    if mode == ms.PYNATIVE_MODE:
        handle = net.register_forward_hook(lambda cell, inputs, output: calls.append(cell.training))
    x = np.ones((2, 1, 8, 8), np.float32)
    found = latency(net, Tensor(x), runs=7, warmup=2)
    assert calls == ([False] * 9 if mode == ms.PYNATIVE_MODE else []) and net.training and net.phase == "train"
    if handle is not None:
        handle.remove()
    assert 0 < found.median <= found.p90 and found.runs == 7 and found.shape == (2, 1, 8, 8)
    assert found.device.startswith("cpu: ") and found.device.endswith(" threads")
    assert latency(net, {"x": x}, runs=1, warmup=0).shape == (2, 1, 8, 8)
    assert latency(net, (x[:1],), runs=1, warmup=0).shape == (1, 1, 8, 8)
    with pytest.raises(InputError, match="runs must be at least 1"):
        latency(net, x, runs=0)

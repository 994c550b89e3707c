"""Predictions, scores, activations, gradients, batch-norm statistics, latency and optimizer state of torch networks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.data import Loaders, loaders
from prunekit.backend_torch.latency import latency
from prunekit.backend_torch.observe import activations, evaluate, gradients, predict
from prunekit.backend_torch.optimizer import transfer_optimizer
from prunekit.backend_torch.statistics import recalibrate
from prunekit.backend_torch.zoo import build_model
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.errors import DataError, InputError
from prunekit.core.plan import PruningPlan


class Net(nn.Module):
    """A convolution, a batch norm, dropout and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.bn = nn.BatchNorm2d(6, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 10)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(F.relu(self.bn(self.conv(x))).mean((2, 3))))


@pytest.fixture(scope="module")
def digits() -> Loaders:
    return loaders("digits", 64, limit=300)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


# ---- predictions and scores ----


def test_predictions_of_arrays_batches_and_pairs_agree(net: Net, digits: Loaders) -> None:
    images = torch.cat([x for x, _ in digits.test])
    with torch.no_grad():
        expected = copy.deepcopy(net).eval()(images).numpy()
    net.train()
    for given in (images, images.numpy(), digits.test, [x for x, _ in digits.test]):
        np.testing.assert_allclose(predict(net, given), expected, rtol=1e-5, atol=1e-6)
    assert net.training and net.drop.training
    with pytest.raises(DataError, match="predict needs at least one batch"):
        predict(net, [])
    with pytest.raises(InputError, match="got int"):
        predict(net, 3)


def test_scores_agree_with_scikit_learn(net: Net, digits: Loaders) -> None:
    from sklearn.metrics import log_loss, top_k_accuracy_score

    logits = predict(net, digits.test)
    labels = np.concatenate([y.numpy() for _, y in digits.test])
    scores = evaluate(net, digits.test)
    chances = torch.from_numpy(logits).double().softmax(1).numpy()
    assert scores["top1"] == pytest.approx(float((logits.argmax(1) == labels).mean()))
    assert scores["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=range(10)))
    assert scores["loss"] == pytest.approx(log_loss(labels, chances, labels=range(10)), rel=1e-5)


def test_few_classes_and_wrong_targets(net: Net) -> None:
    two = nn.Linear(3, 2)
    assert evaluate(two, [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))])["top5"] == 1.0
    with pytest.raises(DataError, match="classes of the network, got 2 for 2 outputs"):
        evaluate(two, [(torch.randn(1, 3), torch.tensor([2]))])
    with pytest.raises(DataError, match="evaluate needs at least one batch"):
        evaluate(two, [])
    with pytest.raises(DataError, match="one target for each input, got 2 inputs and 3 targets"):
        evaluate(two, [(torch.randn(2, 3), torch.zeros(3).long())])


# ---- activations and gradients ----


def test_activations_are_means_over_everything_but_channels(net: Net, digits: Loaders) -> None:
    found = activations(net, digits.validation, ["conv", "fc"])
    images = torch.cat([x for x, _ in digits.validation])
    with torch.no_grad():
        net.eval()
        conv = net.conv(images).abs().mean((0, 2, 3))
        fc = net(images).abs().mean(0)
    np.testing.assert_allclose(found["conv"], conv, rtol=1e-4)
    np.testing.assert_allclose(found["fc"], fc, rtol=1e-4)
    assert not net.conv._forward_hooks
    with pytest.raises(InputError, match="got 'cony'; did you mean 'conv'?"):
        activations(net, digits.validation, ["cony"])
    with pytest.raises(InputError, match="got 'unused', which did not"):
        activations(net, digits.validation, ["unused"])


def test_gradients_are_those_of_the_mean_loss(net: Net, digits: Loaders) -> None:
    net.conv.weight.requires_grad_(False)
    found = gradients(net, digits.validation)
    images = torch.cat([x for x, _ in digits.validation])
    labels = torch.cat([y for _, y in digits.validation])
    assert not net.conv.weight.requires_grad and net.fc.weight.grad is None
    net.conv.weight.requires_grad_(True)
    net.eval()
    F.cross_entropy(net(images), labels).backward()
    for name, p in net.named_parameters():
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)
    assert net.fc.weight.grad is not None and not found["unused.weight"].any()


def test_half_precision_comes_as_float32(net: Net, digits: Loaders) -> None:
    batches = [(x.bfloat16(), y) for x, y in digits.validation]
    net = net.bfloat16()
    assert predict(net, batches).dtype == np.float32
    assert gradients(net, batches)["fc.weight"].dtype == np.float32
    assert activations(net, batches, ["conv"])["conv"].shape == (6,)


# ---- statistics ----


def test_recalibration_is_the_exact_average_over_batches(net: Net, digits: Loaders) -> None:
    net.bn.running_mean.fill_(100.0)
    batches = [x for x, _ in digits.calibration]
    assert recalibrate(net, digits.calibration, 3) == 3
    with torch.no_grad():
        rows = [net.conv(x).transpose(0, 1).flatten(1) for x in batches[:3]]
    torch.testing.assert_close(net.bn.running_mean, torch.stack([r.mean(1) for r in rows]).mean(0))
    torch.testing.assert_close(net.bn.running_var, torch.stack([r.var(1) for r in rows]).mean(0))
    assert net.bn.momentum == 0.3 and net.bn.training and net.drop.training
    assert recalibrate(net, digits.calibration, 100) == len(batches) == 4
    assert recalibrate(nn.Linear(2, 2), digits.calibration) == 0


def test_a_norm_that_runs_in_training_only_keeps_its_statistics(net: Net, digits: Loaders) -> None:
    net.extra = nn.BatchNorm2d(6)
    net.extra.running_var.fill_(3.0)
    net.extra.num_batches_tracked.fill_(7)
    recalibrate(net, digits.calibration)
    assert net.extra.running_var.tolist() == [3.0] * 6 and net.extra.num_batches_tracked == 7
    assert net.bn.num_batches_tracked == 4


def test_recalibration_without_data_or_that_fails_changes_nothing(net: Net) -> None:
    net.eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(DataError, match="at least one batch, got none"):
        recalibrate(net, [])
    with pytest.raises(RuntimeError):
        recalibrate(net, [torch.randn(4, 1, 8, 8), torch.randn(4, 2, 8, 8)])
    with pytest.raises(InputError, match="batches must be at least 1, got 0"):
        recalibrate(net, [torch.randn(4, 1, 8, 8)], 0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.bn.momentum == 0.3 and not net.bn.training


# ---- latency ----


def test_latency_is_of_the_asked_number_of_passes(net: Net) -> None:
    calls = []
    net.register_forward_hook(lambda module, *_: calls.append(module.training))
    net.train()
    found = latency(net, torch.randn(2, 1, 8, 8), runs=7, warmup=2)
    assert calls == [False] * 9 and net.training
    assert 0 < found.median <= found.p90 and found.runs == 7 and found.shape == (2, 1, 8, 8)
    assert found.device.startswith("cpu: ") and found.device.endswith(f", {torch.get_num_threads()} threads")
    assert latency(net, {"x": torch.randn(2, 1, 8, 8)}, runs=1, warmup=0).shape == (2, 1, 8, 8)
    assert latency(net, (torch.randn(3, 1, 8, 8),), runs=1, warmup=0).shape == (3, 1, 8, 8)
    with pytest.raises(InputError, match="runs must be at least 1"):
        latency(net, torch.randn(2, 1, 8, 8), runs=0)


# ---- optimizer state ----


def pruned() -> tuple[nn.Module, Analysis, PruningPlan, nn.Module]:
    torch.manual_seed(0)
    backend = TorchBackend()
    model = build_model("resnet20", in_channels=1)
    analysis = analyse(backend, model, torch.zeros(1, 1, 8, 8))
    plan = PruningPlan.of(analysis.coupling, {g.name: range(0, g.size, 3) for g in analysis.groups})
    return model, analysis, plan, backend.apply(analysis, plan)


def descend(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 1, 8, 8)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "make, keys",
    [
        (lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, nesterov=True), ["momentum_buffer"]),
        (lambda g: torch.optim.AdamW(g, lr=1e-3, amsgrad=True), ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]),
        (lambda g: torch.optim.RMSprop(g, lr=1e-3), ["square_avg"]),
    ],
)
def test_momenta_are_sliced_like_the_weights(make: Any, keys: list[str]) -> None:
    model, analysis, plan, _ = pruned()
    stem = list(model.conv1.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("conv1")]
    optimizer = make([{"params": stem, "lr": 0.5}, {"params": rest}])
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)  # wraps optimizer.step
    for _ in range(2):
        descend(model, optimizer)
    small = analysis.backend.apply(analysis, plan)
    moved = transfer_optimizer(optimizer, model, small, analysis, plan)
    assert type(moved) is type(optimizer) and schedule.optimizer is optimizer
    assert moved.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert [len(g["params"]) for g in moved.param_groups] == [len(stem), len(rest)]
    cuts = analysis.coupling.cuts(plan)
    for name, p in model.named_parameters():
        new = dict(small.named_parameters())[name]
        for key in keys:
            expected = optimizer.state[p][key]
            for axis, kept in cuts.get(name, {}).items():
                expected = expected.index_select(axis, torch.from_numpy(kept))
            assert torch.equal(moved.state[new][key], expected)
        if "step" in optimizer.state[p]:
            assert moved.state[new]["step"] == optimizer.state[p]["step"] == 2
    dense, before = copy.deepcopy(model.state_dict()), copy.deepcopy(small.state_dict())
    descend(small, moved)
    assert all(torch.equal(dense[k], v) for k, v in model.state_dict().items())
    assert not torch.equal(before["fc.weight"], small.state_dict()["fc.weight"])
    moved.load_state_dict(moved.state_dict())  # still a whole optimizer


def test_the_next_step_is_that_of_the_masked_network() -> None:
    """Where only momentum moves the weights, the pruned network moves as the kept part of the whole one does."""
    model, analysis, plan, _ = pruned()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    descend(model, optimizer)
    small = analysis.backend.apply(analysis, plan)
    moved = transfer_optimizer(optimizer, model, small, analysis, plan)
    for network, o in ((model, optimizer), (small, moved)):
        for p in network.parameters():
            p.grad = torch.zeros_like(p)
        o.step()
    again = analysis.backend.apply(analysis, plan)
    for name, value in again.named_parameters():
        torch.testing.assert_close(small.get_parameter(name), value)


def test_what_cannot_be_carried_over() -> None:
    model, analysis, plan, small = pruned()
    with pytest.raises(InputError, match="must be one of the model's, got a parameter of shape"):
        transfer_optimizer(torch.optim.SGD(small.parameters(), lr=0.1), model, small, analysis, plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InputError, match=r"the model cut by the plan, got 'conv1.weight' of shape \(16, 1, 3, 3\)"):
        transfer_optimizer(optimizer, model, model, analysis, plan)
    optimizer = torch.optim.Adafactor(model.parameters())
    descend(model, optimizer)
    with pytest.raises(InputError, match="start a new optimizer for the pruned network"):
        transfer_optimizer(optimizer, model, small, analysis, plan)

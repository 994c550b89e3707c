"""The PruningNet of MetaPruning for any network: what it generates, that it is the cut network, how it trains."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from nets import Mixed, randomise
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.errors import InputError
from prunekit.core.pruning_net import PruningNetSpec
from prunekit.core.recipe import Recipe
from prunekit.core.testing import random_widths, relative_error

TORCH = TorchBackend()
SLOW = pytest.mark.slow
FAMILIES = [
    "resnet20", "mobilenetv1", "mobilenetv2", "torchvision:shufflenet_v2_x0_5", "torchvision:mobilenet_v3_small",
    pytest.param("resnet50", marks=SLOW), pytest.param("torchvision:densenet121", marks=SLOW),
    pytest.param("torchvision:convnext_tiny", marks=SLOW),
]  # fmt: skip


def analysed(name: str, size: int = 32) -> Analysis:
    torch.manual_seed(0)
    return analyse(TORCH, randomise(TORCH.build_model(name)).eval(), torch.randn(2, 3, size, size))


def mixed() -> Analysis:
    torch.manual_seed(0)
    return analyse(TORCH, randomise(Mixed()).eval(), torch.randn(4, 3, 16, 16))


def check_law(analysis: Analysis, hidden: int = 4) -> Any:
    """The masked, generated network is the cut one with the weights that ``weights()`` gives."""
    backend = analysis.backend
    net = backend.pruning_net(analysis, hidden=hidden)
    whole = replace(analysis, model=backend.clone(analysis.model))
    widths = random_widths(net.spec, np.random.default_rng(0))
    net.set_widths(widths)
    backend.set_state(whole.model, net.weights())
    small = backend.apply(whole, net.spec.plan(analysis.coupling, widths), check=False)
    expected = backend.predict(small, analysis.example)
    assert relative_error(backend.predict(net, analysis.example), expected) < 1e-5
    assert relative_error(backend.predict(whole.model, analysis.example), expected) > 1e-3
    return net


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_cut_network(name: str) -> None:
    net = check_law(analysed(name, 64 if ":" in name else 32))
    assert len(net.spec.weights) >= len(net.spec.names)


def test_paper_reading_of_the_inputs() -> None:
    """k = 1 at the stem, (in, out) at the others; all convs of a stage and its shortcuts share a width."""
    spec = PruningNetSpec.of(analysed("resnet20").coupling)
    inputs = {w.name: w.groups for w in spec.weights}
    assert spec.hidden == 32 and spec.names[0] == "conv1"
    assert inputs["conv1.weight"] == (0,)
    assert inputs["layer1.0.conv1.weight"] == (0, 1) and inputs["layer1.0.conv2.weight"] == (1, 0)
    assert spec.spans["layer1.2.conv2.weight"][0] == spec.spans["conv1.weight"][0]
    assert [len(w.groups) for w in spec.weights if w.name == "fc.weight"] == [1]


def test_masks_keep_the_leading_channels() -> None:
    coupling = mixed().coupling
    spec = PruningNetSpec.of(coupling)
    widths = random_widths(spec, np.random.default_rng(1))
    cuts = coupling.cuts(spec.plan(coupling, widths))
    masks = spec.masks(widths)
    for (name, axis), mask in masks.items():
        kept = cuts.get(name, {}).get(axis, np.arange(len(mask)))
        assert np.array_equal(np.flatnonzero(mask), kept), (name, axis)
    assert {(n, a) for n, axes in cuts.items() if "running" not in n for a in axes} <= set(masks)
    first = coupling.groups[0]
    assert np.array_equal(masks[f"{first.name}.weight", 0], np.arange(first.size) < widths[0])


def test_channels_that_statistics_see_stay_whole() -> None:
    analysis = analysed("torchvision:convnext_tiny", 64)
    spec = PruningNetSpec.of(analysis.coupling, 1)
    fixed = [i for i, group in enumerate(analysis.groups) if not group.neutral]
    assert fixed and not set(fixed) & set(spec.free)
    widths = spec.widths.copy()
    widths[fixed[0]] -= 1
    with pytest.raises(InputError, match="full for a group that is not free"):
        spec.check(widths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:-1], "one number for each of the"),
        (lambda w: w * 0, "at least 1"),
        (lambda w: w + 1, "at most the group's full width"),
        (lambda w: w - 0.5, "a whole number"),
        (lambda w: w * np.nan, "a whole number"),
    ],
)
def test_wrong_widths_are_refused(change: Any, message: str) -> None:
    net = TORCH.pruning_net(mixed(), hidden=2)
    before = net.weights()
    with pytest.raises(InputError, match=message):
        net.set_widths(change(net.spec.widths))
    assert all(np.array_equal(before[n], v) for n, v in net.weights().items())


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(InputError, match="hidden must be at least 1"):
        TORCH.pruning_net(mixed(), hidden=0)
    with pytest.raises(InputError, match="widths may vary"):
        TORCH.pruning_net(analyse(TORCH, nn.Linear(4, 3), torch.zeros(1, 4)))


def test_large_generators_are_announced() -> None:
    spec = PruningNetSpec.of(analysed("resnet20").coupling, 5000)
    assert 5e9 < spec.nbytes < 6e9
    with pytest.warns(UserWarning, match=r"5\.\d GB and their training about 16\.\d GB"):
        spec.warn()


def test_bytes_are_those_of_the_generators() -> None:
    net = TORCH.pruning_net(mixed(), hidden=3)
    assert net.spec.nbytes == sum(4 * p.numel() for p in net.generators.parameters())


def test_generated_weights_begin_as_the_layer_does_at_all_widths() -> None:
    analysis = analysed("resnet20")
    own = TORCH.get_state(analysis.model)
    net = TORCH.pruning_net(analysis)
    for share in (0.1, 0.5, 1.0):
        net.set_widths(np.maximum(1, (net.spec.widths * share).astype(int)))
        made = net.weights()
        ratios = [made[w.name].std() / own[w.name].std() for w in net.spec.weights if w.size > 400]
        assert min(ratios) > 0.75 and max(ratios) < 1.35, share


def test_a_constant_weight_begins_as_usual() -> None:
    weight = PruningNetSpec.of(mixed().coupling).weights[0]
    assert weight.spread(np.zeros(weight.shape)) == pytest.approx((2 / 27) ** 0.5)


def test_nothing_is_registered_twice() -> None:
    analysis = mixed()
    net = TORCH.pruning_net(analysis, hidden=4)
    made = {w.name for w in net.spec.weights}
    names = [n for n, _ in net.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == len(list(net.parameters()))
    inner = {n.removeprefix("network.") for n in names if n.startswith("network.")}
    assert inner == {n for n, _ in analysis.model.named_parameters()} - made
    for other in (TORCH.clone(net), copy.deepcopy(net)):
        assert list(TORCH.get_state(other)) == list(TORCH.get_state(net))
        other.set_widths(other.spec.widths // 2)
        assert np.array_equal(net.widths.numpy(), net.spec.widths), "a copy must not share its widths"
        with torch.no_grad():
            other.generators[0].output.bias.add_(1)
        assert not torch.equal(net.generators[0].output.bias, other.generators[0].output.bias)


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.b(torch.relu(self.a(torch.relu(self.stem(x)))))))


def test_tied_weights_are_generated_once() -> None:
    torch.manual_seed(0)
    net = check_law(analyse(TORCH, Tied(), torch.randn(3, 6)))
    assert [w.name for w in net.spec.weights].count("a.weight") == 1
    made = net.weights()
    assert np.array_equal(made["a.weight"], made["b.weight"])


def test_it_trains_at_half_the_widths() -> None:
    """Evaluation, recalibration and a recipe with all it has work as on any network."""
    analysis = mixed()
    net = TORCH.pruning_net(analysis, hidden=8)
    net.set_widths(np.maximum(1, net.spec.widths // 2))
    data = [(torch.randn(16, 3, 16, 16), torch.arange(16) % 10) for _ in range(2)]
    TORCH.recalibrate(net, data, 2)
    before = TORCH.evaluate(net, data)["loss"]
    recipe = Recipe(epochs=12, lr=0.003, optimizer="adamw", grad_clip=5.0, label_smoothing=0.1, schedule="constant")
    TORCH.fit(net, data, recipe)
    TORCH.recalibrate(net, data, 2)
    assert TORCH.evaluate(net, data)["loss"] < before


# ---- both frameworks ----


def twins(name: str, shape: tuple[int, ...]) -> tuple[Analysis, Analysis, Any]:
    """A network in both frameworks with one set of weights, and MindSpore."""
    if find_spec("mindspore") is None:
        pytest.skip("MindSpore is not installed")
    import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
    import mindspore as ms

    from prunekit.backend_mindspore.backend import MindSporeBackend

    backend = MindSporeBackend()
    model = randomise(TORCH.build_model(name, seed=1))
    twin = backend.build_model(name, seed=1)
    backend.set_state(twin, TORCH.get_state(model))
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mine = analyse(TORCH, model.eval(), torch.as_tensor(images))
    return mine, analyse(backend, twin.set_train(False), ms.Tensor(images)), ms


@pytest.fixture
def graph_mode() -> Any:
    if find_spec("mindspore") is None:
        pytest.skip("MindSpore is not installed")
    import prunekit.backend_mindspore  # noqa: F401, I001  (before mindspore: it sets what its kernels read)
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


def test_both_frameworks_generate_and_train_the_same(graph_mode: Any, monkeypatch: Any) -> None:
    mine, theirs, _ = twins("lenet5", (8, 1, 28, 28))
    from prunekit.backend_mindspore import train

    kept: list[Any] = []

    class Kept(train._Gradients):  # type: ignore[misc,name-defined]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            kept.append(self)

    monkeypatch.setattr(train, "_Gradients", Kept)
    targets = np.arange(8) % 10
    recipe = Recipe(epochs=4, lr=0.05, momentum=0.9, schedule="constant", weight_decay=1e-3)
    nets = []
    for analysis in (mine, theirs):
        backend = analysis.backend
        net = backend.pruning_net(analysis, hidden=4)
        loader = [(np.random.default_rng(1).normal(size=(8, 1, 28, 28)).astype(np.float32), targets)] * 2
        backend.fit(net, loader, recipe, callbacks=[_Widths(net)])
        nets.append(net)
    for share in (0.3, 1.0):
        widths = np.maximum(1, (nets[0].spec.widths * share).astype(int))
        for net in nets:
            net.set_widths(widths)
        left, right = (net.weights() for net in nets)
        assert set(left) == set(right)
        assert max(relative_error(right[n], left[n]) for n in left) < 1e-3
    fresh = TORCH.pruning_net(mine, hidden=4)
    start = fresh.weights()
    assert min(relative_error(left[w.name], start[w.name]) for w in fresh.spec.weights) > 1e-2, "nothing was trained"
    assert len(kept[0].compile_cache) == 1, "new widths must not compile the step anew"


class _Widths:
    """The same random widths in every framework."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def epoch_begin(self, epoch: int) -> None: ...

    def epoch_end(self, epoch: int) -> None: ...

    def step_begin(self, step: int) -> None:
        self.net.set_widths(random_widths(self.net.spec, np.random.default_rng([7, step])))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "mobilenetv1", "mobilenetv2", "resnet50"])
def test_it_is_the_cut_network_in_mindspore(name: str, graph_mode: Any) -> None:
    _, theirs, ms = twins(name, (2, 3, 64, 64) if name == "resnet50" else (2, 3, 32, 32))
    net = check_law(theirs)
    graphs = len(net.compile_cache)
    net.set_widths(net.spec.widths)
    theirs.backend.predict(net, theirs.example)
    assert len(net.compile_cache) == graphs, "new widths must not compile the network anew"
    ms.set_context(mode=ms.PYNATIVE_MODE)
    check_law(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mindcv:mobilenet_v3_small_100", "mindcv:shufflenet_v2_x0_5", "mindcv:convnext_tiny"])
def test_it_is_the_cut_network_of_a_library_in_mindspore(name: str) -> None:
    if find_spec("mindspore") is None:
        pytest.skip("MindSpore is not installed")
    import prunekit.backend_mindspore  # noqa: F401, I001
    import mindspore as ms
    from nets_mindspore import randomise as randomise_cell

    from prunekit.backend_mindspore.backend import MindSporeBackend

    backend = MindSporeBackend()
    net = randomise_cell(backend.build_model(name, num_classes=10)).set_train(False)
    images = ms.Tensor(np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32))
    backend.recalibrate(net, [(images, ms.Tensor(np.zeros(2, np.int32)))], 1)
    check_law(analyse(backend, net, images))

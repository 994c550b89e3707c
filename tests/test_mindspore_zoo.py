"""MindSpore's zoo: each network has its PyTorch twin's names and shapes, and computes the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("prunekit.backend_mindspore")

import mindspore as ms

from prunekit.backend_mindspore._names import is_statistic
from prunekit.backend_mindspore.state import get_state, set_state
from prunekit.backend_mindspore.zoo import build_model, default_input, list_models
from prunekit.backend_torch import zoo as torch_zoo
from prunekit.core.errors import InputError, MissingDependencyError

NAMES = [entry.name for entry in list_models()]
OPTIONS = {"num_classes": 7, "in_channels": 2}


@pytest.fixture
def graph_mode() -> Iterator[None]:
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    state = model.state_dict()
    return {name: t.numpy().copy() for name, t in state.items() if not name.endswith("num_batches_tracked")}


def settled(model: torch.nn.Module, shape: tuple[int, ...]) -> torch.nn.Module:
    """The model with norms unlike each other and statistics of its own features, so that no layer is near 0."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = 0.5
    with torch.no_grad():
        for _ in range(4):
            model.train()(torch.randn(4, *shape[1:]))
    return model.eval()


def small(name: str, side: int = 33) -> tuple[int, int, int, int]:
    return 2, OPTIONS["in_channels"], *((28, 28) if name == "lenet5" else (side, side))


def compare(name: str, shape: tuple[int, ...], rng: np.random.Generator, **options: Any) -> None:
    twin = settled(torch_zoo.build_model(name, **options), shape)
    net = build_model(name, **options)
    state = arrays(twin)
    set_state(net, state)
    net.set_train(False)
    x = rng.standard_normal(shape, dtype=np.float32)
    with torch.no_grad():
        theirs = twin(torch.from_numpy(x)).numpy()
    assert np.abs(theirs).max() > 0.01  # else they agree on nothing
    np.testing.assert_allclose(net(ms.Tensor(x)).asnumpy(), theirs, atol=1e-4 * max(1, np.abs(theirs).max()))


def test_the_zoo_is_that_of_pytorch() -> None:
    assert list_models() == torch_zoo.list_models() and len(NAMES) >= 10
    assert [entry.name for entry in list_models("resnet5")] == ["resnet50", "resnet56"]


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_first_weights_are_those_of_the_twin(name: str) -> None:
    own, theirs = get_state(build_model(name, **OPTIONS)), arrays(torch_zoo.build_model(name, **OPTIONS))
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in theirs.items()}
    assert all(value.dtype == np.float32 for value in own.values())
    learned = [[key for key in state if not is_statistic(key)] for state in (own, theirs)]
    assert learned[0] == learned[1]
    for key, value in theirs.items():
        if value.std() == 0:  # norms and their statistics, and biases that begin at 0
            np.testing.assert_array_equal(own[key], value, key)
        elif value.size > 2000:
            assert own[key].std() == pytest.approx(value.std(), rel=0.15), key
            assert abs(own[key].mean()) < 0.1 * value.std(), key


@pytest.mark.parametrize("name", NAMES)
def test_the_same_state_gives_the_same_logits(name: str, rng: np.random.Generator) -> None:
    compare(name, small(name), rng, **OPTIONS)


@pytest.mark.parametrize(
    "name, side, options",
    [
        ("lenet5", 20, {"image_size": 20}),
        ("vgg16", 14, {}),
        ("vgg16", 9, {"in_channels": 1}),
        ("resnet20", 9, {"first_projection": True}),
        ("mobilenetv1", 32, {"width": 0.3, "stem_stride": 1}),
        ("mobilenetv2", 35, {"width": 0.75, "stem_stride": 1, "widen_first": True}),
    ],
)
def test_options_do_what_they_do_in_the_twin(
    name: str, side: int, options: dict[str, Any], rng: np.random.Generator
) -> None:
    channels = options.get("in_channels", default_input(name)[1])
    compare(name, (2, channels, side, side), rng, **options)


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize("name", ["lenet5", "resnet18", "mobilenetv2"])
def test_graph_mode_gives_the_same_logits(name: str, rng: np.random.Generator) -> None:
    compare(name, small(name), rng, **OPTIONS)


def test_statistics_move_as_in_the_twin(rng: np.random.Generator) -> None:
    twin, net = torch_zoo.build_model("resnet20").train(), build_model("resnet20").set_train()
    set_state(net, arrays(twin))
    x = rng.standard_normal((8, 3, 16, 16), dtype=np.float32)
    twin(torch.from_numpy(x))
    net(ms.Tensor(x))
    own = get_state(net)
    moved = {key: value for key, value in arrays(twin).items() if is_statistic(key)}
    assert len(moved) == 42 and all(np.ptp(value) > 0 for value in moved.values())
    for key, value in moved.items():
        np.testing.assert_allclose(own[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


def test_weights_follow_the_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        ms.set_seed(seed)
        states.append(get_state(build_model("resnet20"))["layer2.0.conv1.weight"])
    np.testing.assert_array_equal(states[0], states[1])
    assert not np.allclose(states[0], states[2])


def test_default_inputs() -> None:
    assert [default_input(name) for name in NAMES] == [torch_zoo.default_input(name) for name in NAMES]
    assert default_input("resnet20", in_channels=1, image_size=28) == (1, 1, 28, 28)
    with pytest.raises(InputError, match="input of a model of your own must be given"):
        default_input("my.models:build")


def test_mindcv_by_name(rng: np.random.Generator) -> None:
    pytest.importorskip("mindcv")
    net = build_model("mindcv:mobilenet_v1_025", num_classes=3, in_channels=1).set_train(False)
    assert net(ms.Tensor(rng.standard_normal((1, 1, 64, 64), dtype=np.float32))).shape == (1, 3)
    sides = {"resnet18": 224, "vit_b_16_384": 384, "inception_v3": 299, "swinv2_tiny_window8": 256}
    assert {name: default_input(f"mindcv:{name}")[-1] for name in sides} == sides
    with pytest.raises(InputError, match="a mindcv model must be a known name, got 'resnet19'; did you mean"):
        build_model("mindcv:resnet19")
    with pytest.raises(InputError, match="nothing is read or fetched, got pretrained='True'"):
        build_model("mindcv:resnet18", pretrained=True)


def test_without_mindcv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mindcv", None)
    for ask in (build_model, default_input):
        with pytest.raises(MissingDependencyError, match="need mindcv, which is not installed"):
            ask("mindcv:resnet18")


def test_a_model_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_cells.py").write_text(
        "from mindspore import nn\ndef tiny(width=4): return nn.Dense(width, 2)\ndef broken(): return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert build_model("my_own_cells:tiny", width=6).in_channels == 6
    with pytest.raises(InputError, match="must return a mindspore.nn.Cell, got int"):
        build_model("my_own_cells:broken")


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet2", {}, "a model must be a known name, got 'resnet2'; did you mean 'resnet20'?"),
        ("resnet20", {"classes": 3}, r"options of resnet20 must be ones it takes, got \['classes'\]"),
        ("lenet5", {"image_size": 8}, "image_size of lenet5 must be at least 12, got 8"),
        ("mobilenetv1", {"width": 0}, "width of mobilenetv1 must lie in"),
        ("mobilenetv2", {"width": 0.1}, "width of mobilenetv2 must lie in"),
        ("no_such_module_here:f", {}, "must lie in a module that can be imported"),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, **options)

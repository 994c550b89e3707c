"""The zoo: published sizes, torchvision's names, and what is said to a wrong name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.backend_torch.zoo import build_model, default_example, default_input, list_models
from prunekit.core.errors import InputError


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers, counted on the outputs they give."""
    total = 0

    def add(module: Any, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.in_channels // module.groups * prod(module.kernel_size)
        else:
            total += output.numel() * module.in_features

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    model.eval()(torch.zeros(shape, device=next(model.parameters()).device))
    return total


@pytest.mark.parametrize(
    "name, options, macs, parameters",
    [
        ("resnet20", {}, 40_813_184, 272_474),
        ("resnet20", {"first_projection": True}, 41_074_688 + 640, None),  # PocketFlow counts convolutions only
        ("resnet32", {}, 69_124_736, 466_906),
        ("resnet50", {}, 4_089_184_256, 25_557_032),
        ("mobilenetv1", {}, 568_740_352, 4_231_976),
        ("mobilenetv1", {"width": 0.5}, 149_497_088, 1_331_592),
        ("mobilenetv2", {}, 300_774_272, 3_504_872),
    ],
)
def test_published_sizes(name: str, options: dict[str, Any], macs: int, parameters: int | None) -> None:
    with torch.device("meta"):
        model = build_model(name, **options)
    assert count_macs(model, default_input(name)) == macs
    assert parameters is None or sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_compute_what_torchvisions_do(name: str) -> None:
    theirs = build_model(f"torchvision:{name}", num_classes=5).eval()
    ours = build_model(name, num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("entry", list_models(), ids=lambda e: e.name)
def test_every_model_trains_on_its_own_default_and_other_channels(entry: Any) -> None:
    assert entry.description and entry.name.islower()
    side = min(entry.image[1], 32)
    model = build_model(entry.name, num_classes=7, in_channels=2)
    out = model(torch.randn(2, 2, side, side))
    assert out.shape == (2, 7)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize("side", [8, 14, 28, 32])
def test_vgg_and_resnet_take_small_images(side: int) -> None:
    for name in ("vgg16", "resnet20"):
        assert build_model(name, in_channels=1).eval()(torch.zeros(1, 1, side, side)).shape == (1, 10)


def test_lenet_is_made_for_its_image_size() -> None:
    assert build_model("lenet5", image_size=14)(torch.zeros(1, 1, 14, 14)).shape == (1, 10)
    with pytest.raises(InputError, match="image_size of lenet5 must be at least 12, got 8"):
        build_model("lenet5", image_size=8)


def test_default_inputs() -> None:
    assert default_input("resnet20") == (1, 3, 32, 32)
    assert default_input("resnet20", in_channels=1, image_size=28) == (1, 1, 28, 28)
    assert default_input("torchvision:inception_v3") == (1, 3, 299, 299)
    with pytest.raises(InputError, match="input of a model of your own must be given"):
        default_input("my.models:build")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_timm_by_name() -> None:
    model = build_model("timm:resnet10t", num_classes=3, in_channels=1)
    assert model.eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 3)
    assert default_input("timm:resnet10t") == (1, 3, 176, 176)


def test_a_model_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_models.py").write_text(
        "from torch import nn\ndef tiny(width=4): return nn.Linear(width, 2)\ndef broken(): return 3\n"
        "def failing(): raise ValueError('of the user')\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert build_model("my_own_models:tiny", width=6).in_features == 6
    assert sys.path == before
    with pytest.raises(InputError, match="must return a torch.nn.Module, got int"):
        build_model("my_own_models:broken")
    with pytest.raises(ValueError, match="^of the user$"):
        build_model("my_own_models:failing")


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet2", {}, "a model must be a known name, got 'resnet2'; did you mean 'resnet20'?"),
        ("ResNet-20", {}, "did you mean 'resnet20'?"),
        ("resnet20", {"classes": 3}, r"options of resnet20 must be ones it takes, got \['classes'\]"),
        ("mobilenetv1", {"width": 0}, "width of mobilenetv1 must lie in"),
        ("torchvision:resnet19", {}, "did you mean 'resnet18'?"),
        ("torchvision:resnet18", {"in_channels": 1}, "torchvision's models take 3 channels, got in_channels=1"),
        ("no_such_module_here:f", {}, "must lie in a module that can be imported"),
        ("os.path:joinn", {}, "did you mean 'join'?"),
        ("os;x:y", {}, "must be written as package.module:name"),
    ],
)
def test_wrong_names(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(name, **options)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_inputs_of_transformers() -> None:
    for name in ("vit", "ViTForImageClassification"):
        assert default_input(f"transformers:{name}") == (1, 3, 224, 224)
    assert default_input("transformers:vit", image_size=(32, 48)) == (1, 3, 32, 48)
    assert default_input("transformers:yolos") == (1, 3, 512, 864)
    example = default_example("transformers:yolos", image_size=[16, 32], num_channels=1)
    assert {name: t.shape for name, t in example.items()} == {"pixel_values": (1, 1, 16, 32)}
    tokens = default_example("transformers:t5", vocab_size=3)
    assert tokens.keys() == {"input_ids", "attention_mask", "decoder_input_ids"} and tokens["input_ids"].max() < 3


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_what_transformers_cannot_do_is_named() -> None:
    with pytest.raises(InputError, match="must be that of an image, got transformers:bert, which takes no images"):
        default_input("transformers:bert")
    with pytest.raises(InputError, match="must be an image or tokens, got transformers:clip, whose CLIPConfig tells"):
        default_example("transformers:clip")
    with pytest.raises(InputError, match=r"must be the name of a class.*got 'berd'; did you mean 'bert'"):
        build_model("transformers:berd")
    with pytest.raises(InputError, match="entries of BertConfig, got 'hidden_sise'; did you mean 'hidden_size'"):
        build_model("transformers:bert", hidden_sise=12)
    with pytest.raises(InputError, match=r"build, got 'bert': ValueError: The hidden size \(10\) is not a multiple"):
        build_model("transformers:bert", hidden_size=10, num_hidden_layers=1)


def test_inputs_of_torchvision() -> None:
    assert default_example("torchvision:r3d_18").shape == (1, 3, 16, 112, 112)
    assert default_example("torchvision:s3d").shape == (1, 3, 16, 224, 224)
    (images,) = default_example("torchvision:ssdlite320_mobilenet_v3_large")
    assert [i.shape for i in images] == [(3, 320, 320)]
    assert [i.shape for i in default_example("torchvision:raft_small")] == [(1, 3, 128, 128)] * 2
    assert default_example("torchvision:resnet18") is None


def test_torchvision_comes_in_either_order() -> None:
    code = (
        "try:\n    import torchvision\nexcept RuntimeError: pass\n"  # a first import that failed
        "from prunekit.backend_torch._torchvision import import_torchvision\n"
        "tv = import_torchvision()\nassert tv is import_torchvision()\n"
        "from torchvision import transforms, datasets, models\nmodels.resnet18()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert import_torchvision() is sys.modules["torchvision"]

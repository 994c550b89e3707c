"""Published encodings give the figures that were published with them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.zoo import build_model
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.cost import Cost
from prunekit.core.encoding import (
    ChannelScaleEncoding,
    PreserveRatioEncoding,
    PruningRateEncoding,
    ZeroOneEncoding,
    eagleeye_layers,
    metapruning_genes,
)
from prunekit.core.encoding.base import group_of

FOLDER = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


@cache
def analysis(model: str, size: int = 224, **options: Any) -> Analysis:
    backend = TorchBackend()
    return analyse(backend, build_model(model, **options), torch.zeros(1, 3, size, size), probe=False)


def widths_by_layer(coupling: Any, layers: list[str], channels: list[int]) -> np.ndarray:
    widths = coupling.widths.copy()
    for layer, channel in zip(layers, channels, strict=True):
        widths[group_of(coupling, layer)] = channel
    return widths


def check(coupling: Any, widths: np.ndarray, expected: dict[str, Any], metapruning: str = "metapruning") -> None:
    figures = Cost(coupling).of(widths)
    if "macs" in expected:
        assert figures["macs"].tolist() == [expected["macs"]]
    for key in ("params", "params_incl_bn_bias"):
        if key in expected:
            assert figures["params"].tolist() == [expected[key]]
    if "weight_params" in expected:
        eagleeye = Cost(coupling, "eagleeye").of(widths, ("params", "flops"))
        assert eagleeye["params"].tolist() == [expected["weight_params"]]
        assert eagleeye["flops"].tolist() == [expected["macs"]]
    if "metap_flops" in expected:
        assert Cost(coupling, metapruning).of(widths, ("flops",))["flops"].tolist() == [expected["metap_flops"]]


def test_eagleeye_mobilenetv1() -> None:
    data, coupling = golden("eagleeye_mobilenetv1_50flops"), analysis("mobilenetv1").coupling
    assert eagleeye_layers("mobilenetv1") == data["rate_names"]
    encoding = PruningRateEncoding(coupling, layers=data["rate_names"])
    widths = encoding.widths(data["rates"])[0]
    assert widths.tolist() == widths_by_layer(coupling, data["rate_names"], data["channels"]).tolist()
    check(coupling, widths, data)
    full = Cost(coupling).full(("macs",))["macs"]
    assert data["macs"] / full == pytest.approx(data["ratio"], rel=1e-12)


def test_eagleeye_resnet50() -> None:
    data, coupling = golden("eagleeye_resnet50_50flops"), analysis("resnet50").coupling
    layers = eagleeye_layers("resnet50")
    plain = [(name, layer) for name, layer in zip(data["rate_names"], layers, strict=True) if "group" not in name]
    assert all(name == layer for name, layer in plain)
    widths = PruningRateEncoding(coupling, layers=layers).widths(data["rates"])[0]
    channels = [data["channels"]["conv1"]]
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        channels += [c for block in data["channels"][stage]["mids"] for c in block] + [data["channels"][stage]["out"]]
    assert widths.tolist() == widths_by_layer(coupling, layers, channels).tolist()
    check(coupling, widths, data)


@pytest.mark.parametrize("name", ["eagleeye_resnet50_baseline", "resnet50_full"])
def test_resnet50_unpruned(name: str) -> None:
    coupling = analysis("resnet50").coupling
    check(coupling, coupling.widths, golden(name), "metapruning-resnet")


@pytest.mark.parametrize("width", ["0.25", "0.5", "0.75"])
def test_mobilenetv1_uniform(width: str) -> None:
    data, coupling = golden(f"mbv1_uniform_{width}"), analysis("mobilenetv1").coupling
    check(coupling, widths_by_layer(coupling, eagleeye_layers("mobilenetv1"), data["channels"]), data)
    built = analysis("mobilenetv1", width=data["width"]).coupling
    check(built, built.widths, data)


def test_metapruning_mobilenetv1() -> None:
    coupling = analysis("mobilenetv1").coupling
    encoding = ChannelScaleEncoding(coupling, metapruning_genes("mobilenetv1"))
    assert encoding.length == 13
    for name in ("metapruning_mbv1_full", "metapruning_mbv1_search_order"):
        data = golden(name)
        widths = encoding.widths(data.get("rngs", [30] * 13))[0]
        expected = widths_by_layer(coupling, eagleeye_layers("mobilenetv1"), data["channels"])
        assert widths.tolist() == expected.tolist()
        check(coupling, widths, data)


def test_metapruning_mobilenetv2() -> None:
    data, coupling = golden("metapruning_mbv2_log_issue35"), analysis("mobilenetv2_metapruning").coupling
    genes = metapruning_genes("mobilenetv2_metapruning")
    encoding = ChannelScaleEncoding(coupling, genes)
    assert encoding.length == 18 + 17
    widths = encoding.widths(data["overall_channel_ids"] + data["mid_channel_ids"])[0]
    layers = [names[0] for names in genes]
    expected = widths_by_layer(coupling, layers, data["overall_channels"] + data["mid_channels"])
    assert widths.tolist() == expected.tolist()
    check(coupling, widths, data)


def test_metapruning_resnet50() -> None:
    data, coupling = golden("metapruning_resnet50_1G_shipped"), analysis("resnet50").coupling
    encoding = ChannelScaleEncoding(coupling, metapruning_genes("resnet50"))
    assert encoding.length == 4 + 16
    widths = encoding.widths(data["ids"])[0]
    blocks = [(stage, block) for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(n)]
    for (stage, block), middle, out in zip(blocks, data["mid_channels"], data["overall_channels"][1:], strict=True):
        for conv, channels in ((1, middle), (2, middle), (3, out)):
            assert widths[group_of(coupling, f"layer{stage}.{block}.conv{conv}")] == channels
    assert widths[group_of(coupling, "conv1")] == data["overall_channels"][0]
    check(coupling, widths, data, "metapruning-resnet")


@pytest.mark.parametrize("depth", [20, 32])
def test_vega(depth: int) -> None:
    data, coupling = golden(f"vega_resnet{depth}_cifar"), analysis(f"resnet{depth}", 32).coupling
    encoding = ZeroOneEncoding.vega(coupling)
    assert encoding.length == data["length"]
    per_stage = len(data["mids"]) // 3
    segments = [data["nodes"][0]]
    for stage in range(3):
        segments += [*data["mids"][stage * per_stage : (stage + 1) * per_stage], data["nodes"][stage + 1]]
    assert list(encoding.segments) == segments
    widths = encoding.widths(np.ones(data["length"]))[0]
    check(coupling, widths, data)
    vega = Cost(coupling, "vega").of(widths, ("flops", "params"))
    assert (vega["flops"][0], vega["params"][0]) == (data["macs"], data["params"])


def test_vega_length_of_resnet56() -> None:
    assert ZeroOneEncoding.vega(analysis("resnet56", 32).coupling).length == 1136


def test_pocketflow_conv_only_totals() -> None:
    data = golden("pocketflow_conv_only_baselines")
    for model, size, options, key in (
        ("resnet20", 32, {"first_projection": True}, "resnet20_cifar_with_stage1_projection"),
        ("resnet50", 224, {}, "resnet50_imagenet"),
    ):
        coupling = analysis(model, size, **options).coupling
        assert Cost(coupling, "pocketflow").full(("flops",))["flops"] == data[key]
    # the published ResNet-18 has a 1x1 conv on its first shortcut, which ours has not
    plain = Cost(analysis("resnet18").coupling, "pocketflow").full(("flops",))["flops"]
    assert plain + 64 * 64 * 56 * 56 == data["resnet18_imagenet_with_stage1_projection"]


def test_pocketflow_ratio_list() -> None:
    data = golden("pocketflow_resnet20_ratio_list")
    encoding = PreserveRatioEncoding(analysis("resnet20", 32, first_projection=True).coupling)
    assert encoding.length == len(data["ratios"]) == 22
    assert encoding.kept_inputs(data["ratios"]).tolist() == data["kept_c_in"]
    strategy = encoding.strategy(data["ratios"])
    assert strategy.tolist() == data["strategy"]
    assert encoding.strategy_macs(strategy) == data["flops"]
    assert encoding.strategy_macs(strategy) / sum(encoding.layer_macs) == data["preserve_ratio"]


def test_pocketflow_layers_and_fathers() -> None:
    data = golden("pocketflow_resnet20_action_wall_issue52")
    encoding = PreserveRatioEncoding(analysis("resnet20", 32, first_projection=True).coupling)
    assert list(encoding.layer_macs) == data["layer_flops"]
    assert list(encoding.fathers) == data["father"]
    assert sum(encoding.layer_macs) == data["model_flops"]


def test_a_cut_network_has_the_published_size() -> None:
    data = golden("eagleeye_mobilenetv1_50flops")
    whole = analysis("mobilenetv1")
    plan = PruningRateEncoding(whole.coupling, layers=data["rate_names"]).decode(data["rates"])
    small = whole.backend.apply(whole, plan)
    weights = sum(p.numel() for name, p in small.named_parameters() if p.dim() > 1)
    assert weights == data["weight_params"]
    again = analyse(whole.backend, small, whole.example, probe=False).coupling
    assert Cost(again).full(("macs",))["macs"] == data["macs"]

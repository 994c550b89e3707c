"""Encodings: exact round trips on networks with shortcuts, concatenation and grouped convs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Mixed
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.zoo import build_model
from prunekit.core.coupling.couple import couple
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import (
    SCALES,
    ChannelScaleEncoding,
    Encoding,
    PreserveRatioEncoding,
    PruningRateEncoding,
    ZeroOneEncoding,
    eagleeye_layers,
    metapruning_genes,
)
from prunekit.core.errors import ConfigError, PlanError
from prunekit.core.plan import PruningPlan


@cache
def coupling(name: str = "mixed") -> Coupling:
    if name == "mixed":
        return couple(TorchBackend().trace(Mixed(), torch.zeros(1, 3, 12, 12)))
    return couple(TorchBackend().trace(build_model(name), torch.zeros(1, 3, 32, 32)))


@cache
def rank(name: str = "mixed") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {g.name: rng.permutation(g.size).astype(float) for g in coupling(name).groups}


BUILDERS: dict[str, Callable[[Coupling, dict[str, np.ndarray]], Encoding]] = {
    "zero_one": lambda c, r: ZeroOneEncoding(c, rank=r),
    "rate": PruningRateEncoding,
    "scale": lambda c, r: ChannelScaleEncoding(c, rank=r),
    "ratio": PreserveRatioEncoding,
    "vega": lambda c, r: ZeroOneEncoding.vega(c, rank=r),
}
CASES = [(kind, "mixed") for kind in BUILDERS if kind != "vega"] + [(kind, "resnet20") for kind in BUILDERS]


def draw(kind: str, encoding: Encoding, rng: np.random.Generator) -> np.ndarray:
    if kind in ("zero_one", "vega"):
        return (rng.random(encoding.length) < rng.random()).astype(int)
    if kind == "scale":
        return rng.integers(0, len(SCALES), encoding.length)
    return rng.random(encoding.length)


@pytest.mark.parametrize(("kind", "name"), CASES)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_vector_to_plan_and_back(kind: str, name: str, seed: int) -> None:
    encoding = BUILDERS[kind](coupling(name), rank(name))
    vector = draw(kind, encoding, np.random.default_rng(seed))
    plan = encoding.decode(vector)
    canonical = encoding.repair(vector)
    assert canonical.tolist() == encoding.encode(plan).tolist()
    assert encoding.decode(canonical) == plan == encoding.decode(vector)
    assert encoding.repair(canonical).tolist() == canonical.tolist()
    assert encoding.widths([vector, canonical]).tolist() == [plan.widths(coupling(name)).tolist()] * 2


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_plan_as_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept = {g.name: rng.permutation(g.size)[: rng.integers(1, g.size + 1)] for g in coupling().groups}
    plan = PruningPlan.of(coupling(), kept)
    encoding = ZeroOneEncoding(coupling())
    assert encoding.decode(encoding.encode(plan)) == plan


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_widths_as_rates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoding = PruningRateEncoding(coupling("resnet20"), rank("resnet20"))
    widths = rng.integers(1, coupling("resnet20").widths + 1)
    plan = encoding.plan(widths)
    assert encoding.decode(encoding.encode(plan)) == plan
    assert plan.widths(coupling("resnet20")).tolist() == widths.tolist()


def test_every_width_has_a_rate() -> None:
    for size in range(1, 300):
        linear = couple(TorchBackend().trace(nn.Sequential(nn.Linear(2, size), nn.Linear(size, 2)), torch.zeros(1, 2)))
        if not linear.groups:
            continue
        encoding = PruningRateEncoding(linear)
        for width in (1, size // 3 or 1, size // 2 or 1, size - 1, size):
            assert encoding.widths(encoding.encode(encoding.plan([width])))[0, 0] == width


def test_ranks_choose_the_channels() -> None:
    group = coupling().groups[0]
    plan = PruningRateEncoding(coupling(), rank(), layers=[group.name]).decode([0.75])
    best = np.argsort(-rank()[group.name])[: group.size // 4]
    assert plan.kept[group.name] == tuple(sorted(best.tolist()))
    assert plan.widths(coupling())[1:].tolist() == coupling().widths[1:].tolist()
    leading = ChannelScaleEncoding(coupling(), [[group.name]]).decode([5])  # a quarter
    assert leading.kept[group.name] == tuple(range(group.size // 4))


def test_empty_segments_are_repaired_alike_every_time() -> None:
    encoding = ZeroOneEncoding(coupling(), rank=rank())
    plan = encoding.decode(np.zeros(encoding.length))
    assert plan.kept == {name: (int(np.argmax(scores)),) for name, scores in rank().items()}
    assert ZeroOneEncoding(coupling()).repair(np.zeros(encoding.length)).sum() == len(coupling().groups)


def test_tied_segments_are_united() -> None:
    encoding = ZeroOneEncoding.vega(coupling("resnet20"))
    bits = np.ones(encoding.length)
    bits[:16] = [1] * 4 + [0] * 12  # the stem, which the first stage's shortcut ties to the stage's output
    start = 16 + 3 * 16
    bits[start : start + 16] = [0] * 12 + [1] * 4
    canonical = encoding.repair(bits)
    assert canonical[:16].tolist() == canonical[start : start + 16].tolist() == [1] * 4 + [0] * 8 + [1] * 4


def test_preserve_ratios_on_shared_inputs() -> None:
    encoding = PreserveRatioEncoding(coupling(), rank())
    assert "depthwise" not in encoding.layers
    assert "grouped" not in encoding.layers
    ratios = np.full(encoding.length, 0.5)
    at = {layer: k for k, layer in enumerate(encoding.layers)}
    ratios[at["left"]], ratios[at["right"]] = 0.25, 0.75  # right is the last conv: it keeps all it reads
    widths = dict(zip(coupling().index, encoding.widths(ratios)[0], strict=True))
    assert widths["stem.0"] == 16
    assert widths["squeeze"] == 4
    assert encoding.kept_inputs(ratios)[at["left"]] == 4


def test_preserve_ratio_rounds_and_keeps_one() -> None:
    encoding = PreserveRatioEncoding(coupling("resnet20"))
    middle = encoding.layers.index("layer1.0.conv2")
    ratios = np.ones(encoding.length)
    for ratio, kept in ((0.0, 1), (0.01, 1), (0.1875, 3), (0.2, 3), (0.22, 4), (1.0, 16)):
        ratios[middle] = ratio
        assert encoding.kept_inputs(ratios)[middle] == kept
        assert encoding.widths(ratios)[0, coupling("resnet20").index["layer1.0.conv1"]] == kept


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_bad_vectors(kind: str) -> None:
    encoding = BUILDERS[kind](coupling("resnet20"), rank("resnet20"))
    with pytest.raises(PlanError, match=f"has {encoding.length} entries for this model, got {encoding.length - 1}"):
        encoding.decode(np.zeros(encoding.length - 1))
    for wrong in (-1, 77, float("nan")):
        vector = np.zeros(encoding.length)
        vector[3] = wrong
        with pytest.raises(PlanError, match="at position 3"):
            encoding.decode(vector)
    with pytest.raises(PlanError, match="list of numbers"):
        encoding.decode(["a"] * encoding.length)
    foreign = PruningPlan.full(coupling())
    with pytest.raises(PlanError, match="only the architecture it was made for"):
        encoding.encode(foreign)


def test_what_an_encoding_has_no_words_for() -> None:
    resnet = coupling("resnet20")
    odd = PruningPlan.of(resnet, {"layer3.0.conv1": range(51)})
    with pytest.raises(PlanError, match="one of the 31 scales"):
        ChannelScaleEncoding(resnet).encode(odd)
    last = PruningPlan.of(resnet, {"layer3.2.conv1": range(50)})
    with pytest.raises(PlanError, match="must be able to say each width, got 50 of 64 for 'layer3.2.conv1'"):
        PreserveRatioEncoding(resnet).encode(last)
    with pytest.raises(PlanError, match="only groups that have a segment"):
        ZeroOneEncoding(resnet, ["conv1"]).encode(odd)
    tied = ChannelScaleEncoding(resnet, [["conv1"], ["layer1.0.conv2"]])
    with pytest.raises(PlanError, match="must agree"):
        tied.decode([3, 30])
    assert tied.decode([7, 7]).widths(resnet)[0] == int(16 * SCALES[7])


def test_bad_names() -> None:
    with pytest.raises(PlanError, match="did you mean 'layer1.0.conv"):
        PruningRateEncoding(coupling("resnet20"), layers=["layer1.0.conv7"])
    with pytest.raises(PlanError, match="'conv1' and 'layer1.0.conv2' for one|'layer1.0.conv2' and 'conv1' for one"):
        PruningRateEncoding(coupling("resnet20"), layers=["conv1", "layer1.0.conv2"])
    with pytest.raises(PlanError, match="Vega's order needs"):
        ZeroOneEncoding.vega(coupling())
    with pytest.raises(PlanError, match="none for"):
        PruningRateEncoding(coupling(), {})
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        eagleeye_layers("resnet-50")
    assert len(metapruning_genes("resnet50")) == 20

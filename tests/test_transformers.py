"""Networks of Hugging Face transformers, with random weights: the law, and configurations that follow a cut."""

from __future__ import annotations

import copy
import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from prunekit.backend_torch import load, prune, save
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.errors import ConfigWarning
from prunekit.core.plan import PruningPlan
from prunekit.core.testing import random_plan, relative_error
from prunekit.core.verification import verify

BACKEND = TorchBackend()
HEADS, MLP, WIDTH = 4, 80, 48
_TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 2,
    "vocab_size": 120,
}
_IMAGE = {k: v for k, v in _TEXT.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 8}
_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12, 16, 24],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
NETWORKS: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": _TEXT,
    "ViTForImageClassification": _IMAGE,
    "DeiTForImageClassification": _IMAGE,
    "SwinForImageClassification": {
        "image_size": 64,
        "embed_dim": WIDTH,
        "depths": [2, 2],
        "num_heads": [HEADS, 2 * HEADS],
        "window_size": 4,
    },
    "ConvNextForImageClassification": {"hidden_sizes": [16, 24, 32, WIDTH], "depths": [1, 1, 2, 1], "image_size": 64},
    "SegformerForSemanticSegmentation": {
        "hidden_sizes": [16, 32, 40, 64],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [2, HEADS, 2, 8],
        "decoder_hidden_size": WIDTH,
    },
    "DetrForObjectDetection": {
        "backbone_config": _BACKBONE,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "d_model": WIDTH,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": MLP,
        "decoder_ffn_dim": MLP,
        "num_queries": 10,
    },
    "GPT2ForSequenceClassification": {
        "n_embd": WIDTH,
        "n_head": HEADS,
        "n_layer": 2,
        "vocab_size": 120,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "LlamaForCausalLM": _TEXT | {"num_key_value_heads": 2},
}
SIZES = dict.fromkeys(NETWORKS, {HEADS, MLP, WIDTH}) | {
    "SwinForImageClassification": {HEADS, 2 * HEADS, 4 * WIDTH, 8 * WIDTH, WIDTH, 2 * WIDTH},
    "ConvNextForImageClassification": {16, 24, 32, WIDTH, 64, 96, 128, 4 * WIDTH},
    "SegformerForSemanticSegmentation": {2, HEADS, 8, 16, 32, 40, 64, 128, 160, 256, WIDTH},
    # its width stays: fixed waves of that length are added to it
    "DetrForObjectDetection": {HEADS, MLP, 8, 12, 16},
    "GPT2ForSequenceClassification": {HEADS, 4 * WIDTH, WIDTH},
    "LlamaForCausalLM": {2, MLP, WIDTH},  # heads of queries are cut with the two of keys that they share
}
"""Sizes of the groups that each network must have: heads, MLPs and embeddings."""


def build(name: str, **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    given = copy.deepcopy({**NETWORKS[name], **options})
    example = BACKEND.default_example(f"transformers:{name}", **given)
    if name.startswith("Detr"):
        example = {"pixel_values": torch.randn(1, 3, 64, 64)}
    return BACKEND.build_model(f"transformers:{name}", **given).eval(), example


def analysed(name: str, **options: Any) -> Analysis:
    return analyse(BACKEND, *build(name, **options))


def even_plan(analysis: Analysis, share: Callable[[str], float]) -> PruningPlan:
    """The same share of all groups alike, drawn at random."""
    kept = {}
    for group in analysis.groups:
        kept[group.name] = torch.randperm(group.size)[: max(1, round(group.size * share(group.name)))].tolist()
    return PruningPlan.of(analysis.coupling, kept)


def mlps_alone(name: str) -> float:
    return 0.5 if name.endswith("mlp.fc1") else 1.0


def changed(old: Any, new: Any) -> dict[str, Any]:
    before, after = old.to_dict(), new.to_dict()
    return {key: after[key] for key in after if after[key] != before.get(key)}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_law_holds_for_heads_mlps_and_embeddings(name: str) -> None:
    model, example = build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigWarning)  # random cuts need not be described
        found = verify(BACKEND, model, example, seeds=2)
    assert found.status in ("exact", "non-neutral exact"), found.message
    assert found.lost > 0.2
    assert {g.size for g in analyse(BACKEND, model, example).groups} >= SIZES[name]


EXPECTED: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40},
    "ViTForImageClassification": {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40},
    "DeiTForImageClassification": {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 40},
    "SwinForImageClassification": {"embed_dim": 24, "num_heads": [2, 4]},
    "ConvNextForImageClassification": {"hidden_sizes": [8, 12, 16, 24]},
    "SegformerForSemanticSegmentation": {
        "hidden_sizes": [8, 16, 20, 32],
        "num_attention_heads": [1, 2, 1, 4],
        "decoder_hidden_size": 24,
    },
    "DetrForObjectDetection": {"encoder_ffn_dim": 40, "decoder_ffn_dim": 40},
    "GPT2ForSequenceClassification": {"n_embd": 24, "n_head": 2},
    "LlamaForCausalLM": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}


def check_reload(small: Any, example: Any, folder: Path) -> None:
    small.save_pretrained(folder)
    again = type(small).from_pretrained(folder).eval()
    for found, expected in zip(BACKEND.outputs(again, example), BACKEND.outputs(small, example), strict=True):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_an_even_cut_is_saved_and_loaded_by_the_library(name: str, tmp_path: Path) -> None:
    analysis = analysed(name)
    before = analysis.model.config.to_dict()
    share = mlps_alone if name.startswith("Detr") else lambda _: 0.5
    plan = even_plan(analysis, share)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = BACKEND.apply(analysis, plan)
    assert analysis.model.config.to_dict() == before
    assert changed(analysis.model.config, small.config) == EXPECTED[name]
    assert all(m.config is small.config for m in small.modules() if type(getattr(m, "config", 0)) is type(small.config))
    with BACKEND.masked(analysis, plan):
        expected = BACKEND.outputs(analysis.model, analysis.example)
    for found, wanted in zip(BACKEND.outputs(small, analysis.example), expected, strict=True):
        assert relative_error(found, wanted) < 1e-5
    check_reload(small, analysis.example, tmp_path)


def test_a_slow_machine_finds_the_same_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "LlamaForCausalLM"
    analysis = analysed(name)
    hours = itertools.count(0.0, 3600.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(hours))
    small = BACKEND.apply(analysis, even_plan(analysis, lambda _: 0.5))
    assert changed(analysis.model.config, small.config) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "inner", "expected"),
    [
        ("GPT2ForSequenceClassification", "mlp", {"n_inner": 48, "n_embd": 24, "n_head": 2}),
        ("SwinForImageClassification", "mlp", {"mlp_ratio": 2.0, "embed_dim": 24, "num_heads": [2, 4]}),
    ],
)
def test_numbers_left_open_and_ratios_follow(name: str, inner: str, expected: dict[str, Any], tmp_path: Path) -> None:
    analysis = analysed(name)
    small = BACKEND.apply(analysis, even_plan(analysis, lambda group: 0.25 if inner in group else 0.5))
    assert changed(analysis.model.config, small.config) == expected
    check_reload(small, analysis.example, tmp_path)


def test_the_short_way_to_a_network_that_the_library_loads(tmp_path: Path) -> None:
    model, example = build("ViTForImageClassification")
    small = prune(model, example, ratio=0.5, scope="layer")
    assert small.config.hidden_size == 24 and small.vit.embeddings.cls_token.shape == (1, 1, 24)
    check_reload(small, example, tmp_path)
    smaller = prune(small, example, ratio=0.5, scope="layer")
    assert smaller.config.hidden_size == 12 and small.config.hidden_size == 24
    check_reload(smaller, example, tmp_path)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "DetrForObjectDetection"])
def test_an_uneven_cut_leaves_the_configuration_and_says_so(name: str, tmp_path: Path) -> None:
    analysis = analysed(name)
    widths = iter(range(1, 1000))
    kept = {g.name: range(max(1, g.size // 2 - next(widths) % 7)) for g in analysis.groups}
    with pytest.warns(ConfigWarning, match="save and load it with prunekit's save and load"):
        small = BACKEND.apply(analysis, PruningPlan.of(analysis.coupling, kept))
    assert changed(analysis.model.config, small.config) == {}
    save(small, tmp_path)
    with pytest.warns(ConfigWarning, match="layers were cut alike"):
        again = load(build(name)[0], tmp_path, analysis.example)
    for found, expected in zip(
        BACKEND.outputs(again, analysis.example), BACKEND.outputs(small, analysis.example), strict=True
    ):
        assert relative_error(found, expected) == 0


def test_heads_that_do_not_fit_the_width_are_told() -> None:
    """Shapes alone would allow it: four heads of six as well as two of twelve."""
    analysis = analysed("BertForSequenceClassification")
    plan = even_plan(analysis, lambda group: 0.75 if "attention" in group else 0.5)
    with pytest.warns(ConfigWarning, match="no numbers that build it were found"):
        small = BACKEND.apply(analysis, plan)
    assert changed(analysis.model.config, small.config) == {}


def test_searches_do_without() -> None:
    analysis = analysed("BertForSequenceClassification")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = BACKEND.apply(analysis, random_plan(analysis), check=False)
    assert changed(analysis.model.config, small.config) == {}


class Wrapped(nn.Module):
    """A network of the library inside one of the user's own."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.first, self.fc = nn.Linear(WIDTH, 16), nn.Linear(16, 5)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.fc(self.first(self.body(pixel_values=pixel_values).last_hidden_state[:, 0]).relu())


def test_a_network_inside_another_follows_too(tmp_path: Path) -> None:
    whole, example = build("ViTForImageClassification")
    analysis = analyse(BACKEND, Wrapped(whole.vit).eval(), example)
    small = BACKEND.apply(analysis, even_plan(analysis, lambda _: 0.5))
    assert changed(whole.config, small.body.config) == EXPECTED["ViTForImageClassification"]
    expected = BACKEND.outputs(small, example)[0]
    small.body.save_pretrained(tmp_path)
    small.body = type(small.body).from_pretrained(tmp_path, add_pooling_layer=False)
    assert relative_error(BACKEND.outputs(small, example)[0], expected) < 1e-5


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "LlamaForCausalLM"])
def test_other_lengths_and_batches_of_text(name: str) -> None:
    """Tables of positions keep what the example did not reach."""
    analysis = analysed(name)
    plan = even_plan(analysis, lambda _: 0.5)
    small = BACKEND.apply(analysis, plan)
    tokens = torch.randint(4, 120, (3, 90))
    longer = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    assert BACKEND.outputs(small, longer)[0].shape == BACKEND.outputs(analysis.model, longer)[0].shape

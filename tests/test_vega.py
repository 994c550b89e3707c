"""Vega's own prune.yml: it runs as it is, and what it cannot mean is told."""

from __future__ import annotations

import csv
import json
import logging
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunekit.cli.config import load_config
from prunekit.cli.main import app
from prunekit.core.errors import ConfigError

PRUNE_YML = """
nas:
    search_algorithm:           # Evolution algorithm configuration information
        type: PruneEA
        codec: PruneCodec
        policy:
            length: 464         # Total number of channels to be searched
            num_generation: 31  # Evolution algebra
            num_individual: 32  # Number of individuals in each generation
            random_models: 64   # Number of randomly initialized models

    search_space:               # Search space configuration information
        type: SearchSpace
        modules: ['backbone', 'head']
        backbone:
            type: ResNetGeneral
            stage: 3
            base_depth: 20
            base_channel: 16
        head:
            type: LinearClassificationHead
            base_channel: 64
            num_classes: 10
"""
SMALL = [
    "data={name: digits, limit: 400, batch_size: 32}",
    "training={epochs: 1, lr: 0.1}",
    "finetune={epochs: 1, lr: 0.05}",
    "recalibrate=2",
    "latency={batch: 2, runs: 2, warmup: 0}",
    "export.formats=[]",
    "method.num_generation=1",
    "method.num_individual=3",
    "method.random_models=4",
    "method.train_front=1",
]


@pytest.fixture
def prune_yml(tmp_path: Path) -> Path:
    path = tmp_path / "prune.yml"
    path.write_text(PRUNE_YML)
    return path


@pytest.mark.parametrize(
    "backend",
    [
        "torch",
        pytest.param(
            "mindspore",
            marks=[pytest.mark.slow, pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")],
        ),
    ],
)
def test_it_runs_as_it_is(backend: str, prune_yml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEKIT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    options = [part for change in SMALL for part in ("--set", change)]
    result = CliRunner().invoke(app, ["run", str(prune_yml), "--backend", backend, "--out", str(out), *options])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "passed over" not in result.output
    with open(out / "reports.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 + 3 and all(len(row["encoding"]) == 464 for row in rows)
    results = json.loads((out / "results.json").read_text())
    assert results["model"] == "resnet20" and results["method"]["name"] == "prune_ea"
    assert results["after"]["macs"] == round(results["search"]["ratio"] * results["before"]["macs"])
    trained = [p for p in (out / "front").iterdir() if (p / "weights.safetensors").is_file()]
    assert [int(p.name) for p in trained] == [
        line["index"] for line in results["search"]["front"] if "trained_accuracy" in line
    ]


@pytest.mark.parametrize(("depth", "length"), [(20, 464), (32, 688), (56, 1136)])
def test_it_means_the_same_search(depth: int, length: int, tmp_path: Path) -> None:
    path = tmp_path / "other.yml"
    path.write_text(PRUNE_YML.replace("464", str(length)).replace("base_depth: 20", f"base_depth: {depth}"))
    config = load_config(path, ["seed=3", "training.epochs=1", "method.objectives=[accuracy, FLOPs, parameters]"])
    assert config.model.name == f"resnet{depth}" and config.model.options == {"num_classes": 10}
    assert config.method.name == "prune_ea"
    assert config.method.keys == {
        "bn_batches": 10, "length": length, "num_generation": 31, "num_individual": 32, "random_models": 64,
        "objectives": ["accuracy", "FLOPs", "parameters"],
    }  # fmt: skip
    assert config.seed == 3 and config.training.epochs == 1 and config.out == os.path.join("outputs", "other")
    assert load_config(path).training.epochs > 1  # what is set for one is not set for all


def test_keys_of_its_pipeline_are_passed_over_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "prune.yml"
    path.write_text(
        "general: {backend: pytorch}\npipeline: [nas, fully_train]\ndata: {name: digits}\n"
        + PRUNE_YML.replace("nas:", "nas:\n    pipe_step: {type: SearchPipeStep}\n    trainer: {epochs: 1}")
    )
    with caplog.at_level(logging.WARNING, logger="prunekit"):
        config = load_config(path)
    (record,) = caplog.records
    assert record.getMessage().endswith(": general, pipeline, nas.pipe_step, nas.trainer")
    assert config.data.name == "digits"


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("length: 464", "length: 688", "length must be 464 for base_depth=20, got length=688"),
        ("base_depth: 20", "base_depth: 21", "base_depth must be 6 n + 2, got 21; use one of 20, 32, 56"),
        ("base_depth: 20", "base_depth: 44", "base_depth must be one of 20, 32, 56, got 44"),
        ("base_depth: 20", "base_depth: twenty", "6 n + 2, got 'twenty'"),
        ("stage: 3", "stage: 4", "backbone.stage must be 3 for PruneEA, got 4"),
        ("base_channel: 16", "base_channel: 32", "backbone.base_channel must be 16 for PruneEA, got 32"),
        ("base_channel: 64", "base_channel: 128", "head.base_channel must be 64 for PruneEA, got 128"),
        ("type: PruneEA", "type: RandomSearch", "search_algorithm.type must be 'PruneEA'"),
        ("num_classes: 10", "num_classes: 0", "head.num_classes must be a whole number of at least 1, got 0"),
        ("num_individual", "num_individuals", "did you mean 'num_individual'?"),
        ("policy:", "polcy:", "did you mean 'policy'?"),
        ("search_space: ", "search_spce: ", "did you mean 'search_space'?"),
        ("head:", "neck:", "nas.search_space.head must be a section of keys and values, got nothing"),
        ("nas:", "nas: 3\nother:", "nas must be a section of keys and values, got 3"),
    ],
)
def test_what_it_cannot_mean_is_told(old: str, new: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "prune.yml"
    assert old in PRUNE_YML
    path.write_text(PRUNE_YML.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert part in str(caught.value)

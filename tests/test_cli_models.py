"""Commands that look at networks, list names, and write first configurations."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_cli import BACKENDS, call, changes, flat, own_cache
from typer.testing import CliRunner

from prunekit.cli.config import METHODS, RunConfig, load_config
from prunekit.cli.main import app
from prunekit.core.registry import get_backend

__all__ = ["own_cache"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_verify(backend: str) -> None:
    options = ("verify", "lenet5", "--seeds", "1", "--backend", backend)
    assert call(*options).startswith(f"lenet5 ({backend}): exact")
    data = json.loads(call(*options, "--json"))
    assert data["status"] == "exact" and data["error"] < 1e-5 and data["frozen_share"] < 0.01
    assert "ratio must lie in (0, 1), got 1.5" in flat(call(*options, "--ratio", "1.5", code=2))
    assert "grouped must be 'within' or 'whole', got 'some'" in flat(call(*options, "--grouped", "some", code=2))
    assert f"a mode must be one that {backend} has, got 'fast'" in flat(call(*options, "--mode", "fast", code=2))


def test_verify_in_one_mode() -> None:
    pytest.importorskip("mindspore")
    for modes in (["graph"], ["pynative", "graph"]):
        given = [part for mode in modes for part in ("--mode", mode)]
        options = ["verify", "lenet5", "--seeds", "1", "--backend", "mindspore", "--json", *given]
        result = CliRunner().invoke(app, options)
        # MindSpore may have something to say first
        data = json.loads(result.output[result.output.index("\n{") if result.output[0] != "{" else 0 :])
        assert data["modes"] == modes and data["status"] == "exact"


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_whole_groups_on_the_command_line(command: str) -> None:
    groups, few = {}, ["--input", "1,3,64,64", *(["--seeds", "1"] if command == "verify" else [])]
    for grouped in ("within", "whole"):
        data = json.loads(call(command, "torchvision:regnet_x_400mf", "--grouped", grouped, "--json", *few))
        groups[grouped] = [g["width"] for g in data["groups"]] if command == "inspect" else data["lost"]
        assert command == "inspect" or data["status"] == "exact"
    assert groups["within"] != groups["whole"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_inspect(backend: str) -> None:
    text = call("inspect", "resnet20", "--input", "1,1,14,14", "--set", "in_channels=1", "--backend", backend)
    data = json.loads(call("inspect", "resnet20", "--input", "1,1,14,14", "--set", "in_channels=1", "--json"))
    assert f"{data['params']:,} parameters" in text
    assert len(data["groups"]) == 12
    assert "output of the network" in text
    assert "--input must be whole numbers" in flat(call("inspect", "resnet20", "--input", "1,x", code=2))
    assert "did you mean 'resnet20'?" in flat(call("inspect", "resnet21", code=2))


def test_inspection_on_a_terminal_shows_the_same_names() -> None:
    from rich.console import Console

    from prunekit.cli._tables import inspection_tables
    from prunekit.core.analysis import analyse
    from prunekit.core.inspection import Inspection

    backend = get_backend(BACKENDS[0])
    model = backend.build_model("resnet20", seed=0)
    seen = Inspection.of(analyse(backend, model, backend.example((1, 3, 32, 32))), model="[red]x")
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for part in inspection_tables(seen):
        console.print(part)
    text = console.export_text()
    assert "[red]x, input 1x3x32x32" in text
    assert all(group.name in text for group in seen.groups)


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("models", "resnet20"),
        ("algorithms", "uni_pruning"),
        ("criteria", "l2"),
        ("profiles", "cuda-fp16"),
        ("configs", "quickstart"),
        ("backends", "torch"),
    ],
)
def test_list(what: str, name: str) -> None:
    assert name in [line.split()[0] for line in call("list", what).splitlines()]


def test_list_of_something_else() -> None:
    assert "did you mean 'models'?" in flat(call("list", "model", code=2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_first_configuration_says_what_every_key_means(tmp_path: Path, method: str, backend: str) -> None:
    file = tmp_path / "mine.yml"
    for model in ("resnet20", "vgg16", "resnet50"):
        call("init", str(file), "--method", method, "--model", model, "--backend", backend, "--overwrite")
        config = load_config(file)
        assert (config.method.name, config.model.name, config.backend) == (method, model, backend)
    lines = [line.strip() for line in file.read_text().splitlines()]
    for key in (*RunConfig.model_fields, *config.method.keys):
        (place, *_) = [k for k, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{key}:")]
        assert lines[place - 1].startswith("# ") or key == "name", key


def test_a_first_configuration_replaces_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    call("init", str(file), "--method", "prune")
    before = file.read_text()
    assert "--overwrite" in flat(call("init", str(file), code=2)) and file.read_text() == before
    assert "did you mean 'eagle_eye'?" in flat(call("init", str(tmp_path / "x.yml"), "--method", "eagle_ey", code=2))
    assert not (tmp_path / "x.yml").exists()


@pytest.mark.slow
def test_a_first_configuration_runs(tmp_path: Path) -> None:
    call("init", str(tmp_path / "mine.yml"), "--method", "prune")
    call("run", str(tmp_path / "mine.yml"), "--out", str(tmp_path / "out"), *changes())
    assert (tmp_path / "out" / "report.html").exists()

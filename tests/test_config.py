"""Configurations: what is wrong is said by rule, value and advice, and what is right survives a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunekit.cli._yaml import dump, parse
from prunekit.cli.config import list_configs, load_config
from prunekit.core.errors import ConfigError, PrunekitError

GOOD = """
model: {name: resnet20}
method: {name: uni_pruning, pruning_step: 4, filter_lower_threshold: 4}
training: {epochs: 2, lr: 1e-1}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("metod=3", ["'metod'", "did you mean 'method'?"]),
        ("data.sise=3", ["'data.sise'", "did you mean 'size'?"]),
        ("training.epoch=3", ["training", "'epoch'", "did you mean 'epochs'?"]),
        ("method.frequncy=3", ["method", "'frequncy'", "did you mean 'frequency'?"]),
        ("method.name=unipruning", ["'unipruning'", "did you mean 'uni_pruning'?"]),
        ("method.output_path=x", ["output_path", "set out instead"]),
        ("method={pruning_step: 4}", ["method.name must be given"]),
        ("model={}", ["model.name must be given"]),
        ("data.size=big", ["data.size must be a whole number", "'big'; change it"]),
        ("data.size=1.5", ["data.size must be a whole number", "1.5"]),
        ("data.size='14'", ["data.size must be a whole number", "without quotes"]),
        ("data=digits", ["data must be a section", "indent"]),
        ("latency.batch=0", ["latency.batch must be at least 1", "0"]),
        ("data.validation=1.5", ["data.validation must be less than 1", "1.5"]),
        ("export.formats=onnx", ["export.formats must be a list", "'onnx'"]),
        ("cache=1", ["cache must be true or false"]),
        ("seed=-1", ["seed must be at least 0", "-1"]),
        ("seed.x=1", ["seed must be a whole number"]),
        ("model.name.x=1", ["--set", "'model.name' is a value"]),
        ("seed", ["KEY=VALUE"]),
        ("seed=[1", ["the value of --set seed must be YAML"]),
        ("method={name: prune}", ["exactly one of"]),
        ("method={name: prune, macs: 0.5, params: 0.5}", ["exactly one of"]),
        ("method={name: prune, macs: 1.7}", ["macs=1.7", "macs=0.5"]),
        ("method={name: prune, macs: 0.5, importance: l3}", ["'l3'"]),
        ("method={name: prune, macs: 0.5, align: cuda-fp61}", ["cuda-fp61", "cuda-fp16"]),
        ("method={name: prune, macs: 0.5, skope: layer}", ["'skope'", "did you mean 'scope'?"]),
        ("method={name: prune, macs: 0.5, scope: locl}", ["'locl'"]),
        ("method={name: none, macs: 0.5}", ["'macs'"]),
        ("executor=procsses", ["executor must be a known name", "did you mean 'processes'?"]),
        ("executor=3", ["executor must be a section", "got 3"]),
        ("executor={name: processes, wrkers: 2}", ["'executor.wrkers'", "did you mean 'workers'?"]),
        ("executor={name: processes, workers: 0}", ["executor.workers must be at least 1", "0"]),
        ("executor={workers: 3}", ["local has one worker", "workers=3", "processes"]),
        ("executor={name: processes, address: auto}", ["only ray has an address", "'auto'", "name: ray"]),
        ("executor={name: ray, address: 'ray://host:1'}", ["address must be auto or host:port", "'ray://host:1'"]),
        ("executor={name: local, device: cuda}", ["device goes with workers", "cuda", "processes"]),
        ("executor={name: ray, device: gpu}", ["executor.device must be a known name", "'gpu'"]),
    ],
)
def test_a_mistake_is_named(good: Path, change: str, parts: list[str]) -> None:
    with pytest.raises(PrunekitError) as error:
        load_config(good, [change])
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model: [", "line"),
        ("a: 1\na: 2\n", "'a' again on line 2"),
        ("- 1\n", "must hold sections"),
        ("", "must hold sections"),
        ("x: !!python/object/apply:os.getcwd []\n", "plain data only"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "bad.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part.replace("'", ".")):
        load_config(path)


def test_a_missing_file_gets_the_nearest_ready_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_config("quikstart")


def test_values_are_read_as_meant(good: Path) -> None:
    config = load_config(good, ["training.weight_decay=5e-4", "data.size=14", "training.milestones=[1, 2]", "seed=7"])
    assert config.training.lr == 0.1
    assert config.training.weight_decay == 5e-4
    assert config.training.milestones == (1, 2)
    assert config.training.seed == config.finetune.seed == config.recover.seed == 7
    assert config.data.size == 14
    assert config.out == "outputs/good"
    assert config.recover.epochs == 0


@pytest.mark.parametrize("name", list_configs())
def test_a_ready_configuration_survives_being_written_out(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    path = tmp_path / "again.yml"
    path.write_text(dump(config.to_mapping()))
    assert load_config(path) == config


def test_yaml_reads_numbers_with_exponents() -> None:
    assert parse("[1e-3, 1E5, -2e+1, 1.5e3, e3, 1e]", "test") == [1e-3, 1e5, -20.0, 1500.0, "e3", "1e"]


@pytest.mark.parametrize("text", ["processes", "{name: ray, workers: 3, address: 'host:6379', device: cuda}"])
def test_an_executor_survives_the_round_trip(text: str, good: Path, tmp_path: Path) -> None:
    config = load_config(good, [f"executor={text}"])
    assert config.executor.name == ("processes" if text == "processes" else "ray")
    (tmp_path / "again.yml").write_text(dump(config.to_mapping()))
    assert load_config(tmp_path / "again.yml") == config


def test_mindspore_has_no_gpu_workers(good: Path) -> None:
    with pytest.raises(ConfigError, match="executor.device must be cpu for mindspore, got cuda; use backend: torch"):
        load_config(good, ["executor={name: processes, device: cuda}", "backend=mindspore"])

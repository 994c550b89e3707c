"""What files name that could run: nothing does, but behind the one door, which can be shut."""

from __future__ import annotations

import os
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from _frameworks import MINDSPORE
from _hostile import GOOD, refused, write_pickle
from _uni import Toy, settings_for
from typer.testing import CliRunner

from prunekit.backend_torch.uni_pruner import UniPruner
from prunekit.backend_torch.zoo import build_model
from prunekit.cli.main import app
from prunekit.cli.run import new_process
from prunekit.core.errors import (
    CheckpointError,
    InputError,
)

# ---------------------------------------------------------------- what may run


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.ckpt", "w.safetensors", "w"])
@pytest.mark.parametrize("form", ["pickle", "torch", "legacy", "zip"])
def test_a_pickle_by_any_name_is_not_run(tmp_path: Path, name: str, form: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / name
    write_pickle(form, path, mark)
    algo = UniPruner(settings_for(tmp_path))
    refused(lambda: algo.read_weights(Toy(), path), CheckpointError)
    assert not mark.exists()


def test_a_checkpoint_that_unpacks_to_more_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    algo = UniPruner(settings_for(tmp_path))
    assert algo.read_weights(Toy(), tmp_path / "whole.pth")["a"].size == 10**6
    assert "compressed" in refused(lambda: algo.read_weights(Toy(), path), CheckpointError)


def test_tensors_that_are_no_weights(tmp_path: Path) -> None:
    algo = UniPruner(settings_for(tmp_path))
    odd: list[Any] = [
        [1, 2], {"a": 3}, {"a": torch.zeros(2, 2).to_sparse()}, {"a": torch.empty(2, device="meta")},
        {"a": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)}, torch.zeros(3),
    ]  # fmt: skip
    for k, data in enumerate(odd):
        torch.save(data, tmp_path / f"{k}.pth")
        refused(lambda k=k: algo.read_weights(Toy(), tmp_path / f"{k}.pth"), CheckpointError)


@MINDSPORE
@pytest.mark.parametrize("form", ["pickle", "torch", "truncated", "noise", "empty", "device", "huge"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".pth"])
def test_checkpoints_of_mindspore(tmp_path: Path, form: str, suffix: str) -> None:
    from prunekit.backend_mindspore.uni_pruner import UniPruner as MindSporeUniPruner  # isort: skip  before mindspore
    from mindspore import nn, save_checkpoint  # isort: skip

    net, mark, path = nn.Conv2d(3, 8, 3), tmp_path / "mark", tmp_path / f"w{suffix}"
    if form in ("pickle", "torch"):
        write_pickle(form, path, mark)
    elif form == "truncated":
        save_checkpoint(net, str(tmp_path / "whole.ckpt"))
        path.write_bytes((tmp_path / "whole.ckpt").read_bytes()[:-100])
    elif form == "device":
        path.symlink_to("/dev/zero")
    elif form == "huge":  # a protobuf that claims a string of 2^60 bytes
        path.write_bytes(b"\x0a" + b"\xff" * 8 + b"\x0f" + b"x" * 100)
    else:
        path.write_bytes({"noise": os.urandom(500), "empty": b""}[form])
    algo = MindSporeUniPruner({"input_size": (1, 3, 8, 8), "output_path": str(tmp_path)})
    refused(lambda: algo.read_weights(net, path), CheckpointError)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:resnet18", {"checkpoint_path": "w.pth"}),
        ("timm:resnet18", {"pretrained": True}),
        ("timm:resnet18", {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/w.pth"}}),
        ("timm:hf-hub:someone/something", {}),
        ("torchvision:fcn_resnet50", {"weights_backbone": "DEFAULT"}),
        ("transformers:bert", {"trust_remote_code": True}),
        ("transformers:bert", {"auto_map": {"AutoModel": "someone/something--x.Y"}}),
        ("transformers:bert", {"_attn_implementation": "someone/something"}),
        ("transformers:someone/something", {}),
        ("transformers:../../x", {}),
        ("resnet20", {"num_classes": 10**15}),
        ("resnet20", {"num_classes": -1}),
        ("resnet20", {"num_classes": [[[]]]}),
        ("os.path:", {}),
        ("/etc/passwd", {}),
        ("../x:y", {}),
    ],
)
def test_names_and_options_of_networks_fetch_and_read_nothing(name: str, options: dict[str, Any]) -> None:
    if name.startswith(("timm:", "transformers:")) and find_spec(name.partition(":")[0]) is None:
        pytest.skip("not installed")
    refused(lambda: build_model(name, **options), InputError)


# ---------------------------------------------------------------- the one door


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module that says when it is run, and a configuration that names it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text("open('mark', 'w').close()\ndef f(**options): pass\n")
    (tmp_path / "model.yml").write_text(GOOD.replace("lenet5", "'evil_module:f'") + "cache: false\n")
    (tmp_path / "data.yml").write_text(GOOD.replace("digits", "'evil_module:f'"))
    vega = "nas: {search_algorithm: {policy: {}}, search_space: {backbone: {base_depth: 20}, head: {}}}\n"
    (tmp_path / "vega.yml").write_text(vega + "model: {name: 'evil_module:f'}\n")
    (tmp_path / "eagle.yml").write_text((tmp_path / "model.yml").read_text().replace("name: none", "name: eagle_eye"))
    for name in ("model", "data"):
        folder = tmp_path / f"run-{name}"
        (folder / "original").mkdir(parents=True)
        (folder / "config.yml").write_text((tmp_path / f"{name}.yml").read_text())
        (folder / "strategies.txt").write_text("[0.1, 0.2]\n")
    return tmp_path


@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        "run model.yml", "run data.yml", "run vega.yml", "run lenet.yml --set model.name=evil_module:f",
        "run lenet.yml --set data.name=evil_module:f", "search eagle.yml", "search data.yml", "train vega.yml",
        "inspect evil_module:f --input 1,3,8,8", "verify evil_module:f --input 1,3,8,8", "evaluate run-model",
        "evaluate run-data", "export run-model --format onnx",
        "finetune run-data --strategy-id 0 --search-result run-data/strategies.txt",
    ],
)  # fmt: skip
def test_no_command_runs_the_users_code_against_his_will(
    own_code: Path, command: str, variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_code / "lenet.yml").write_text(GOOD)
    if variable:
        monkeypatch.setenv("PRUNEKIT_NO_USER_CODE", "1")
    result = CliRunner().invoke(app, [*command.split(), *([] if variable else ["--no-user-code"])])
    # a first configuration is written without a look at the code
    assert result.exit_code == (0 if command.startswith("init") else 2), (result.output, result.exception)
    assert not (own_code / "mark").exists()
    if not command.startswith(("init", "train")):  # which never get to the door
        assert "PRUNEKIT_NO_USER_CODE, got 'evil_module:f'" in result.output
    assert ("PRUNEKIT_NO_USER_CODE" in os.environ) == variable


def test_without_the_option_the_door_is_open(own_code: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", "evil_module:f", "--input", "1,3,8,8"])
    assert result.exit_code == 2 and "must return" in result.output
    assert (own_code / "mark").exists()


def test_every_command_has_the_option() -> None:
    runner = CliRunner()
    names = [command.name for command in app.registered_commands]
    assert len(names) > 10
    for name in names:
        result = runner.invoke(app, [str(name), "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert "no-user-code" in result.output, name


def test_a_new_process_takes_no_modules_of_the_working_folder(tmp_path: Path) -> None:
    for name in ("typer", "yaml", "json"):
        (tmp_path / f"{name}.py").write_text("open('mark', 'w').close()\n")
    command = new_process("evaluate", "nothing", "--json")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "config.yml" in done.stderr and not (tmp_path / "mark").exists(), done.stderr

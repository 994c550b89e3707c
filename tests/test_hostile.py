"""Files as an attacker writes them: refused by one of prunekit's errors, or read for what they say; nothing runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _frameworks import MINDSPORE
from _house import python
from _reports import finished_search, results, write
from _uni import Toy, settings_for
from nets import Mixed, randomise
from rich.console import Console
from typer.testing import CliRunner

from prunekit.algorithms.uni_schedule import read_mask
from prunekit.backend_torch import load, prune, save
from prunekit.backend_torch.uni_pruner import UniPruner
from prunekit.backend_torch.zoo import build_model
from prunekit.cli._folders import work_folder
from prunekit.cli._yaml import parse
from prunekit.cli.config import load_config
from prunekit.cli.main import app
from prunekit.cli.report import report_text, write_report
from prunekit.core.candidates import Candidate
from prunekit.core.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    OutputError,
    PlanError,
    PrunekitError,
)
from prunekit.core.plan import PruningPlan
from prunekit.core.store import PLAN_FILE, WEIGHTS_FILE, _checksum, read_plan, read_store
from prunekit.core.strategies import read_strategies

GOOD = "model: {name: lenet5}\nmethod: {name: none}\ndata: {name: digits}\n"
READERS: dict[str, Callable[[Path], Any]] = {
    "plan": PruningPlan.load, "mask": read_mask, "config": load_config, "strategies": read_strategies,
}  # fmt: skip
NASTY = "\x1b]0;owned\x07\x1b[2J\u202e<script>alert(1)</script>[bold]$\\frac{$\r\nx"


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@contextmanager
def bounded(seconds: float = 20, megabytes: int = 700) -> Iterator[None]:
    """What is within takes neither long nor much memory."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begun < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < megabytes * 1024


def refused(read: Callable[[], Any], kind: type[PrunekitError] = PrunekitError) -> str:
    """The message, which is short enough to be read."""
    with bounded(), pytest.raises(kind) as caught:
        read()
    assert 20 < len(str(caught.value)) < 2000
    return str(caught.value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A pruned network on disk."""
    small = prune(randomise(Mixed()), torch.zeros(1, 3, 12, 12), ratio=0.5)
    save(small, tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder: Path, **changes: Any) -> None:
    """Change a saved plan and sign it again, as an attacker would."""
    data = {**json.loads((folder / PLAN_FILE).read_text()), **changes}
    data["checksum"] = _checksum(data)
    (folder / PLAN_FILE).write_text(json.dumps(data))


# ---------------------------------------------------------------- texts that are none


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 100, b"\xff\xfe" + "{}".encode("utf-16-le"), "{}".encode("utf-16"), b"\xff" * 50, b"\xed\xa0\x80",
        b"{" * 100_000, b"[" * 100_000, b'{"a":' * 100_000, b"- " * 100_000, b"[" * 70 + b"]" * 70,
        b'{"format": "prunekit.plan", "version": 1, "version": 1}', b'{"a": [1], "a": [2]}', b'{"a": NaN}',
        b'{"a": [1e999]}', b'{"a": [Infinity]}', b'{"a": [' + b"9" * 5000 + b"]}", b'{"a": [true]}', b'{"a": [1.5]}',
        b'{"\\ud800": [1]}', b'{"a": ["\\udfff"]}', b"1", b"null", b'"x"', b"[]",
    ],
)  # fmt: skip
def test_texts_that_are_no_document(tmp_path: Path, reader: str, data: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(data)
    refused(lambda: READERS[reader](path))


@pytest.mark.parametrize("reader", READERS)
def test_devices_pipes_folders_and_what_is_not_there(tmp_path: Path, reader: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    places = [tmp_path, tmp_path / "none", Path("/dev/zero"), tmp_path / "a\nb\x1b", tmp_path / ("x" * 300)]
    for place in [*places, *([] if reader == "config" else [tmp_path / "pipe"])]:
        refused(lambda place=place: READERS[reader](place))
    if reader != "config":  # a configuration may come from a pipe that somebody writes to
        assert "no ordinary file" in refused(lambda: READERS[reader](tmp_path / "pipe"))


@pytest.mark.parametrize("reader", ["plan", "mask", "config"])
def test_a_document_of_a_hundred_megabytes(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as stream:
        stream.truncate(10**8)
    assert "larger than" in refused(lambda: READERS[reader](path))


def test_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(tmp_path / "c.yml").model.name == "lenet5"
    (tmp_path / "m.json").write_bytes(b"\xef\xbb\xbf{}")
    assert "BOM" in refused(lambda: read_mask(tmp_path / "m.json"), PlanError)


# ---------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x: !!python/object/apply:os.system ['touch MARK']", "tag '!!python/object/apply:os.system'"),
        ("x: !!python/object/new:os.system ['touch MARK']", "plain data only"),
        ("x: !!python/name:os.system", "plain data only"),
        ("x: !!python/module:os", "plain data only"),
        ("!!python/object/apply:builtins.open ['MARK', 'w']", "plain data only"),
        ("x: !include /etc/passwd", "plain data only"),
        ("x: !!binary aGk=", "plain data only"),
        ("x: !!set {a, b}", "plain data only"),
        ("x: !!int ''", "must be YAML"),
        ("x: !!bool maybe", "must be YAML"),
        ("x: !!map [1]", "must be YAML"),
        ("&a [*a]", "alias"),
        ("a: &a {<<: *a}", "alias"),
        ("x: 0x" + "f" * 5000, "40 digits"),
        ("x: 1" + ":59" * 100_000, "40 digits"),
        ("x: 12345678901234567890", "64 bits"),
        ("x: .inf", "finite"),
        ('x: "\\ud800"', "surrogates"),
        ("x: " + "[" * 70 + "]" * 70, "64 levels"),
        ("? [1, 2]\n: 3", "unhashable"),
        ("x: \x1b[2J", "must be YAML"),
        ("x: 1\n---\ny: 2", "another document"),
    ],
)
def test_yaml_of_all_kinds(tmp_path: Path, text: str, part: str) -> None:
    mark = tmp_path / "mark"
    assert part in refused(lambda: parse(text.replace("MARK", str(mark)), "it"), ConfigError)
    assert not mark.exists()


@pytest.mark.parametrize("ninefold", ["[{}]", "{{k1: {0}, k2: {1}, k3: {2}, k4: {3}}}", "{{<<: [{}]}}"])
def test_a_billion_laughs(tmp_path: Path, ninefold: str) -> None:
    lines = ["a0: &a0 {x: lol, y: lol}"]
    for k in range(1, 60):
        aliases = [f"*a{k - 1}"] * 9
        text = ninefold.format(", ".join(aliases)) if "{}" in ninefold else ninefold.format(*aliases)
        lines.append(f"a{k}: &a{k} {text}")
    path = tmp_path / "bomb.yml"
    path.write_text("\n".join(lines))
    assert "aliases written out" in refused(lambda: load_config(path), ConfigError)


def test_aliases_that_are_of_use_stay(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(GOOD + "training: &t {epochs: 2, lr: 0.5}\nfinetune: {<<: *t, epochs: 1}\n")
    found = load_config(tmp_path / "c.yml")
    assert (found.finetune.lr, found.finetune.epochs) == (0.5, 1)


# ---------------------------------------------------------------- what may run


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.ckpt", "w.safetensors", "w"])
@pytest.mark.parametrize("form", ["pickle", "torch", "legacy", "zip"])
def test_a_pickle_by_any_name_is_not_run(tmp_path: Path, name: str, form: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / name
    write_pickle(form, path, mark)
    algo = UniPruner(settings_for(tmp_path))
    refused(lambda: algo.read_weights(Toy(), path), CheckpointError)
    assert not mark.exists()


def write_pickle(form: str, path: Path, mark: Path) -> None:
    if form == "pickle":
        path.write_bytes(pickle.dumps({"conv.weight": Bomb(mark)}))
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb(mark)))
            archive.writestr("archive/version", "3")
    else:
        torch.save({"conv.weight": Bomb(mark)}, path, _use_new_zipfile_serialization=form == "torch")


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
        "evaluate run-data", "export run-model --format onnx", "init x.yml --model evil_module:f",
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
    assert result.exit_code == 2, (result.output, result.exception)
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
    code = (
        "import sys; sys.path = [p for p in sys.path if p]\n"
        "import subprocess\nfrom pathlib import Path\nfrom prunekit.cli import run\n"
        "class Job: pass\n"
        "import prunekit.cli.evaluate as e\ne.judge = lambda job, model: {}\n"
        "print(run._reload(Job(), None, Path('nothing'), print))"
    )
    done = python(code, tmp_path)
    assert "config.yml" in done.stdout and not (tmp_path / "mark").exists(), done.stderr


# ---------------------------------------------------------------- where files lead


def test_the_weights_of_a_plan_are_its_neighbours(saved: Path, tmp_path: Path) -> None:
    entry = json.loads((saved / PLAN_FILE).read_text())["weights"]
    for file in ("/etc/passwd", "../../etc/passwd", "..", "", "\0", None, 3):
        edit(saved, weights={**entry, "file": file})
        state, _ = read_store(saved)  # the name is not followed
        assert state
    (saved / WEIGHTS_FILE).unlink()
    (saved / WEIGHTS_FILE).symlink_to("/dev/zero")
    refused(lambda: read_store(saved), CheckpointError)
    edit(saved, weights={**entry, "bytes": 0})
    assert "no ordinary file" in refused(lambda: read_store(saved), CheckpointError)


@pytest.mark.parametrize("weights", [None, [], {}, {"bytes": "x"}, {"bytes": 10**18}, {"sha256": None}])
def test_entries_of_weights_that_are_none(saved: Path, weights: Any) -> None:
    edit(saved, weights=weights)
    refused(lambda: read_store(saved))


@pytest.mark.parametrize(
    "change",
    [
        {"output_file": "/tmp/x"}, {"output_file": "../x"}, {"output_file": "a/../../x"}, {"output_file": "config.yml"},
        {"output_file": "C:\\x"}, {"output_file": "..\\x"}, {"output_file": ""}, {"output_file": "a\0b"},
    ],
)  # fmt: skip
def test_files_of_a_search_stay_in_its_folder(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "c.yml"
    path.write_text(GOOD.replace("{name: none}", json.dumps({"name": "eagle_eye", **change})))
    assert "output_file" in refused(lambda: load_config(path), ConfigError)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/x", "..\\x", "a\0b", "../x"])
def test_names_of_experiments_and_tags_are_names(tmp_path: Path, name: str) -> None:
    assert "exp_name" in refused(lambda: UniPruner({**settings_for(tmp_path), "exp_name": name}), ConfigError)
    refused(lambda: UniPruner(settings_for(tmp_path)).convert(Toy(), {}, tag=name or "/"))
    assert [p.name for p in tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", [".lock", "log.jsonl", "study.db", "original", "search_results/a.txt"])
def test_links_in_the_folder_of_a_stopped_run_are_not_followed(tmp_path: Path, name: str) -> None:
    mine, partial = tmp_path / "mine", tmp_path / "out.partial"
    mine.mkdir()
    (mine / "file").write_text("precious")
    (partial / name).parent.mkdir(parents=True)
    (partial / name).symlink_to(mine if name == "original" else mine / "file")

    def go_on(**options: bool) -> None:
        with work_folder(tmp_path / "out", **options, worth=("original",)):
            pytest.fail("the folder was taken")

    for options in ({"resume": True}, {"overwrite": True}):
        assert "may hold no links" in refused(lambda options=options: go_on(**options), OutputError)
    assert (mine / "file").read_text() == "precious" and len(list(mine.iterdir())) == 1


def test_a_stopped_run_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    (tmp_path / "out.partial").symlink_to(tmp_path / "mine")

    def begin() -> None:
        with work_folder(tmp_path / "out", overwrite=True, worth=()):
            pytest.fail("the folder was taken")

    assert "may hold no links" in refused(begin, OutputError)
    assert (tmp_path / "mine" / "file").exists()


def test_a_report_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "mine").write_text("precious")
    (run / "report.html").symlink_to(tmp_path / "mine")
    write(run)
    assert (tmp_path / "mine").read_text() == "precious" and not (run / "report.html").is_symlink()


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**60), struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 0), b"\x02" + b"\0" * 7 + b"{}x",
        b"", b"\0" * 7,
        *(
            struct.pack("<Q", len(text)) + text
            for text in (
                b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}',
                b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
                b'{"a":{"dtype":"F32","shape":[0,1152921504606846976],"data_offsets":[0,0]}}',
                b'{"a":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"X","shape":[],"data_offsets":[0,0]}}',
                b"[" * 100_000,
                b'{"a":' * 1000,
            )
        ),
    ],
)  # fmt: skip
def test_headers_of_safetensors(saved: Path, header: bytes, tmp_path: Path) -> None:
    import hashlib

    (saved / WEIGHTS_FILE).write_bytes(header)
    edit(saved, weights={"bytes": len(header), "sha256": hashlib.sha256(header).hexdigest()})
    refused(lambda: load(Mixed(), saved), CheckpointError)
    algo = UniPruner(settings_for(tmp_path))
    try:
        with bounded():
            assert all(t.size == 0 for t in algo.read_weights(Toy(), saved / WEIGHTS_FILE).values())
    except CheckpointError as error:
        assert len(str(error)) < 2000


def test_weights_that_are_larger_than_memory(saved: Path) -> None:
    os.truncate(saved / WEIGHTS_FILE, 2**40)
    refused(lambda: read_store(saved), CheckpointError)


@pytest.mark.parametrize(
    "inputs", [[[10**9, 3, 12, 12]], [[2**62, 2**62]], [[1, 3, 0, 12]], [[-1, 3, 12, 12]], [[10**9]], [[1] * 100]]
)
def test_inputs_of_a_plan_that_do_not_fit(saved: Path, inputs: list[list[int]]) -> None:
    edit(saved, inputs=inputs)
    read_plan(saved)
    refused(lambda: load(Mixed(), saved))


@pytest.mark.parametrize(
    "group",
    [
        {"size": 10**18, "kept": [0, 10**17]}, {"size": 10**30, "kept": [0]}, {"size": 4, "kept": [10**30]},
        {"size": -1, "kept": [0]}, {"size": True, "kept": [0]}, {"size": 4, "kept": [False]}, {"size": 4, "kept": "01"},
        {"size": 4, "kept": [0, 0]}, {"size": 4, "kept": []}, {"size": 4, "kept": [1.0]}, {"size": "4", "kept": [0]},
        {"size": 4, "kept": {"0": 1}}, {"size": 4, "kept": [[[[[0]]]]]}, [4, [0]], None,
    ],
)  # fmt: skip
def test_groups_of_a_plan_that_are_none(saved: Path, group: Any) -> None:
    edit(saved, groups={"x": group})
    refused(lambda: load(Mixed(), saved), PlanError)


@pytest.mark.parametrize(
    "options", [{"attention": []}, {"attention": {"a": 1}}, {"attention": "x"}, {"grouped": 3}, {"grouped": None}, "ab"]
)
def test_options_of_a_plan_that_are_none(saved: Path, options: Any) -> None:
    edit(saved, options=options)
    refused(lambda: load(Mixed(), saved))


@pytest.mark.parametrize("shape", ["1000000000,1000000000", "1,3,100000,100000", "99999999999999999999,1", "0,1", "x"])
def test_inputs_of_a_command_that_do_not_fit(shape: str) -> None:
    with bounded():
        result = CliRunner().invoke(app, ["inspect", "lenet5", "--input", shape])
    assert result.exit_code == 2 and "error:" in result.output, result.exception


@pytest.mark.parametrize(
    "change",
    ["model.input=[100000,100000,100000]", "data.size=1000000", "data.batch_size=100000000000", "data.limit=0"],
)
def test_sizes_of_a_configuration_that_do_not_fit(tmp_path: Path, change: str) -> None:
    (tmp_path / "c.yml").write_text(GOOD)
    arguments = ["run", str(tmp_path / "c.yml"), "--out", str(tmp_path / "out"), "--set", change]
    with bounded():
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "error:" in result.output, result.exception


def test_an_image_that_claims_to_be_huge(tmp_path: Path) -> None:
    from PIL import Image

    from prunekit.core._photos import PhotoBatches
    from prunekit.core.data import FileSet, Splits

    Image.new("1", (40_000, 40_000)).save(tmp_path / "bomb.png")  # small on disk, gigabytes once it is unpacked
    files = FileSet((tmp_path / "bomb.png",), np.zeros(1, dtype=np.int64))
    splits = Splits(files, files, files, ("a",), (0.5,) * 3, (0.5,) * 3, "bombs")
    batches = PhotoBatches(files, splits, False, 32)
    assert "bomb" in refused(lambda: batches[np.zeros(1, dtype=np.int64), 0])


# ---------------------------------------------------------------- names that are shown


def test_names_in_a_report(tmp_path: Path) -> None:
    for name in (NASTY, "</title><script>x</script>", "]]>--><svg onload=x>", "\0\x1b[2J"):
        folder = tmp_path / str(abs(hash(name)))
        folder.mkdir()
        page = write(folder, model=name, groups=[{"name": name, "before": 4, "after": 2}], method={"name": name})
        assert page.count("<script") == 1 and "<svg onload" not in page
        for form in ("md", "csv", "json"):
            text = report_text(folder, form)
            assert text.encode(errors="backslashreplace")


def test_a_name_that_no_encoding_has(tmp_path: Path) -> None:
    groups = [{"name": "\ud800", "before": 4, "after": 2}]
    assert "must hold what prunekit wrote" in refused(lambda: write(tmp_path, groups=groups), InputError)


def test_names_in_the_report_of_a_search(tmp_path: Path) -> None:
    candidates = [Candidate(k, (0.5,), 0.1 * k, {NASTY: 3, "macs": 5}, 1.0, 0, 3) for k in range(5)]
    finished_search(tmp_path, candidates, best={"x": NASTY})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("<script") == 1


@pytest.mark.parametrize("name", [NASTY, "[/]", "[red]x", "\x1b]8;;http://x\x07", "\ud800", "\x9b2J"])
def test_names_on_a_terminal(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunekit.cli.main import _show_results
    from prunekit.core._terminal import shown

    assert not set(shown(name)) & set("\x1b\x07\x9b\r\u202e\ud800")
    found = CliRunner().invoke(app, ["inspect", name])
    assert found.exit_code == 2
    assert "\x1b]" not in found.output and "\x1b[2J" not in found.output and "\x07" not in found.output
    pages: list[Console] = []

    def console(*arguments: Any, **options: Any) -> Console:
        pages.append(Console(record=True, width=300, file=io.StringIO(), force_terminal=True))
        return pages[-1]

    monkeypatch.setattr("prunekit.cli.main.Console", console)
    _show_results(results(model=name, failures={}), str(tmp_path))
    text = pages[0].export_text()
    assert "".join(shown(name).split()) in "".join(text.split()) and "\x1b" not in text and "\x07" not in text

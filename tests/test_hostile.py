"""Files as an attacker writes them: refused by one of prunekit's errors, or read for what they say."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _hostile import GOOD, READERS, bounded, edit, refused, save_pruned
from _uni import Toy, settings_for
from nets import Mixed
from typer.testing import CliRunner

from prunekit.algorithms.uni_schedule import read_mask
from prunekit.backend_torch import load
from prunekit.backend_torch.uni_pruner import UniPruner
from prunekit.cli._yaml import parse
from prunekit.cli.config import load_config
from prunekit.cli.main import app
from prunekit.core.errors import CheckpointError, ConfigError, PlanError
from prunekit.core.store import WEIGHTS_FILE, read_plan, read_store


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A pruned network on disk."""
    return save_pruned(tmp_path / "saved")


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

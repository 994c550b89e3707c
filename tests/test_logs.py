"""Run logs and progress."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prunekit.core.errors import OutputError
from prunekit.core.logs import RunLog, progress


def test_lines_are_json_and_whole_at_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write("epoch", loss=np.float32(0.5), widths=np.arange(3), bad=float("nan"), where=Path("x"), set={2, 1})
    line = json.loads(log.path.read_text())  # before it is closed
    assert line["event"] == "epoch" and line["loss"] == 0.5 and line["widths"] == [0, 1, 2]
    assert line["bad"] is None and line["where"] == "x" and line["set"] == [1, 2] and line["time"] > 1e9
    log.close()
    with RunLog(tmp_path) as again:
        again.write("done")
    assert [json.loads(x)["event"] for x in log.path.read_text().splitlines()] == ["epoch", "done"]


def test_tensorboard_curves_are_read_back(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=True) as log:
        log.scalars(3, {"train/loss": 0.25})
        log.scalars(4, {"train/loss": 0.125})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("train/loss")] == [(3, 0.25), (4, 0.125)]


def test_logging_loads_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom prunekit.core.logs import RunLog\n"
        f"with RunLog({str(tmp_path)!r}, tensorboard=True) as log: log.scalars(0, {{'a': 1.0}})\n"
        "assert not {'torch', 'mindspore', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_tensorboard_the_message_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['tensorboard'] = None\n"  # what an absent package looks like
        "from prunekit.core.logs import RunLog\nfrom prunekit.core.errors import MissingDependencyError\n"
        f"try: RunLog({str(tmp_path)!r}, tensorboard=True)\n"
        "except MissingDependencyError as error: assert 'prunekit[log]' in str(error)\n"
        "else: raise SystemExit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a log must be writable"):
        RunLog(tmp_path / "file" / "run")


def test_progress_off_a_terminal_prints_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("pruning", 4, every=0.0) as bar:
        bar.advance(loss=0.5)
        with progress("inner", 1, every=0.0) as inner:
            inner.advance()
        bar.note("halfway")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("pruning: 1/4, ") and lines[0].endswith("loss 0.5")
    assert lines[1].startswith("inner: 1/1") and lines[2] == "halfway"
    with progress("quiet", 2, every=0.0, show=False) as bar:
        bar.advance(2)
        bar.note("nothing")
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_nests() -> None:
    code = (
        "import sys\nfrom prunekit.core.logs import progress\n"
        "with progress('outer', 2) as bar:\n"
        "    for _ in range(2):\n"
        "        with progress('inner', 3) as inner:\n"
        "            inner.advance(3, loss=0.25)\n"
        "        bar.advance()\n"
        "    bar.note('note [here]')\n"
    )
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break  # the other side has closed
        if not part:
            break
        shown += part
    os.close(ours)
    assert child.wait() == 0
    assert b"outer" in shown and b"note [here]" in shown


def test_a_line_that_a_kill_tore_costs_no_other(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.write("start")
    with open(tmp_path / "log.jsonl", "a") as stream:
        stream.write('{"time": 1, "event": "candi')
    with RunLog(tmp_path) as log:
        log.write("start")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3 and [json.loads(lines[k])["event"] for k in (0, 2)] == ["start", "start"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="a log must be writable.*make room, then resume"), RunLog(tmp_path) as log:
        log.write("start")

"""Full and read-only disks, a clock that goes back: a clear error or the same result, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_resume import BACKENDS, contents, finish, start, write

from prunekit.cli.report import report_text

_MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
_SMALL = 'mount -t tmpfs -o size="$1" none "$0" && shift && exec "$@"'


def can_mount(folder: Path) -> bool:
    """Whether a process without rights may have a file system of its own here."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_MOUNT, _SMALL, str(folder), "1m", "true"], capture_output=True).returncode == 0


# Fills the disk, runs, makes room, resumes, and takes the result out: the file system is gone when this ends.
_FULL = """
mount -t tmpfs -o size="$1" none "$0" && cd "$0" && mkdir work
"$2" -m prunekit.cli run "$3" --out work/out > "$4/first" 2>&1; echo $? > "$4/code"
ls -A work > "$4/left"
mount -o remount,size=512m "$0" &&
"$2" -m prunekit.cli run "$3" --out work/out --resume > "$4/second" 2>&1 && cp -r work/out "$4/out"
"""


def on_a_full_disk(size: str, config: Path, folder: Path) -> Path:
    """What a run said, and what came of it once there was room."""
    mounted, told = folder / f"mounted-{size}", folder / f"told-{size}"
    mounted.mkdir()
    told.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PRUNEKIT_CACHE": str(folder / "cache"), "HOME": str(folder)}
    command = [*_MOUNT, _FULL, str(mounted), size, sys.executable, str(config), str(told)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert (told / "out").is_dir(), done.stderr + "".join(path.read_text() for path in sorted(told.iterdir()))
    return told


def check_full(sizes: list[str], config: Path, folder: Path) -> None:
    if not can_mount(folder):
        pytest.skip("no file systems of one's own here")
    finish(config, folder / "whole")
    expected = contents(folder / "whole")
    refused = 0
    for size in sizes:
        told = on_a_full_disk(size, config, folder)
        said = " ".join((told / "first").read_text().split())
        if (told / "code").read_text() != "0\n":
            refused += 1
            assert (told / "code").read_text() == "2\n", said
            assert "No space left" in said or "full" in said, said
            assert "error: " in said and "Traceback" not in said, said
        assert contents(told / "out") == expected, size
    assert refused > 0


def test_a_full_disk(tmp_path: Path) -> None:
    check_full(["1500k"], write(tmp_path, "torch", "eagle_eye", cache=False), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["uni_pruning", "eagle_eye", "meta_pruning"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_disk_that_is_full_at_any_moment(backend: str, method: str, tmp_path: Path) -> None:
    sizes = ["8k", "100k", "1m", "1200k", "2m", "3m", "4m"]
    check_full(sizes, write(tmp_path, backend, method, cache=False), tmp_path)


@pytest.mark.slow
def test_a_read_only_disk(tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("no file systems of one's own here")
    config = write(tmp_path, "torch", "eagle_eye")
    place = tmp_path / "mounted"
    place.mkdir()
    script = 'mount -t tmpfs none "$0" && mount -o remount,ro "$0" && cd "$0" && exec "$@"'
    for words in (["run", str(config), "--out", "out"], ["init", "new.yml"], ["report", str(place)]):
        command = [*_MOUNT, script, str(place), sys.executable, "-m", "prunekit.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        said = " ".join(done.stderr.split())
        assert done.returncode == 2 and "error: " in said and "Traceback" not in said, said
        assert words[0] == "report" or "Read-only" in said, said


_BACKWARDS = """
import time
really, calls = time.time, [0]
def time_of_day():
    calls[0] += 1
    return really() - 3600 * calls[0]
time.time = time_of_day
"""


def test_a_clock_that_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path, "torch", "eagle_eye", finetune={"epochs": 0}, cache=False)
    finish(config, tmp_path / "whole")
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(_BACKWARDS)
    with monkeypatch.context() as changed:
        changed.setenv("PYTHONPATH", str(tmp_path / "clock"), prepend=os.pathsep)
        finish(config, tmp_path / "late")
    assert contents(tmp_path / "late") == contents(tmp_path / "whole")
    times = [json.loads(line)["time"] for line in (tmp_path / "late" / "log.jsonl").read_text().splitlines()]
    assert times[-1] < times[0] - 3600  # it did go back
    told: dict[str, Any] = json.loads(report_text(tmp_path / "late", "json"))
    assert not any(value < 0 for value in _seconds(told))


def _seconds(data: Any) -> list[float]:
    """All durations in plain data."""
    if isinstance(data, dict):
        own = [v for k, v in data.items() if "seconds" in k and isinstance(v, (int, float))]
        return own + [v for item in data.values() for v in _seconds(item)]
    return [v for item in data for v in _seconds(item)] if isinstance(data, list) else []


@pytest.mark.slow
def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    config = write(tmp_path, "torch", "eagle_eye")
    both = [start(config, tmp_path / "out", "--resume") for _ in range(2)]
    said = [process.communicate(timeout=600)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    refused = said[next(k for k, process in enumerate(both) if process.returncode == 2)]
    assert "may be used by one process at a time" in " ".join(refused.split()) and "Traceback" not in refused
    assert (tmp_path / "out" / "results.json").is_file()

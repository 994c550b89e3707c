"""Runs that are stopped, or killed at any moment, and gone on with: they end as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from prunekit.cli._folders import find_folder, work_folder
from prunekit.cli.main import app
from prunekit.core._files import TEMPORARY
from prunekit.core.errors import ConfigError, OutputError
from prunekit.core.strategies import read_strategies
from prunekit.core.study import Study

BACKENDS = [
    "torch",
    pytest.param("mindspore", marks=pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")),
]
CONFIG: dict[str, Any] = {
    "model": {"name": "resnet20"},
    "data": {"name": "digits", "limit": 96, "batch_size": 32},
    "training": {"epochs": 1, "lr": 0.1, "channels_last": True},  # whose strides no loaded copy has
    "finetune": {"epochs": 0.5, "lr": 0.05},
    "recalibrate": 2,
    "latency": {"batch": 1, "runs": 1, "warmup": 0},
    "export": {"formats": []},
}
METHODS: dict[str, dict[str, Any]] = {
    "uni_pruning": {"frequency": 1, "target_sparsity": 0.5, "pruning_step": 8, "filter_lower_threshold": 8},
    "eagle_eye": {"candidates": 24, "bn_batches": 2, "correlation": 4, "correlation_epochs": 0.4},
    "channel_pruning": {
        "prune_option": "auto", "cp_auto_searcher": "evolution", "cp_nb_batches": 2, "cp_nb_rlouts": 16,
        "cp_nb_rlouts_min": 2,
    },
    "prune_ea": {
        "num_generation": 3, "num_individual": 6, "random_models": 8, "bn_batches": 1, "train_front": 2,
    },
    "meta_pruning": {
        "training": {"epochs": 0.5, "lr": 0.01}, "population": 8, "keep": 8, "top_k": 3, "mutations": 4,
        "crossovers": 4, "iterations": 3, "bn_batches": 1, "flops_range": [0.3, 0.6],
    },
}  # fmt: skip
FILE = Path("search_results") / "pruning_strategies.txt"


def write(folder: Path, backend: str, name: str, **changes: Any) -> Path:
    path = folder / "small.yml"
    data = {**CONFIG, "backend": backend, "method": {"name": name, **METHODS.get(name, {})}, **changes}
    path.write_text(yaml.safe_dump(data))
    return path


def start(config: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "prunekit.cli", "run", str(config), "--out", str(out), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PRUNEKIT_CACHE": str(out.parent / "cache")}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=out.parent, env=environment,
        start_new_session=True,
    )  # fmt: skip


def finish(config: Path, out: Path, *more: str) -> float:
    begin = time.monotonic()
    process = start(config, out, *more)
    said = process.communicate(timeout=900)[1]
    assert process.returncode == 0, said
    return time.monotonic() - begin


def without_times(data: Any) -> Any:
    """Plain data without what no two runs share."""
    if isinstance(data, dict):
        gone = ("seconds", "latency", "p90", "provenance", "resumed")
        return {k: without_times(v) for k, v in data.items() if not any(part in k for part in gone)}
    return [without_times(item) for item in data] if isinstance(data, list) else data


def contents(out: Path) -> dict[str, Any]:
    """All that two runs of the same configuration must have in common."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif name == "study.db":
            with Study(path, read_only=True) as study:
                found[name] = [(c.index, c.vector, c.score, c.figures, c.generation, c.seed) for c in study]
                found["plans"] = [study.plan(c.index) for c in study]
                found["generations"] = without_times(study.notes("generation"))
                found["correlation"] = without_times(study.notes("correlation"))
        elif name == "config.yml":
            found[name] = {k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "out"}
        elif name in ("log.jsonl", "report.html"):
            found[name] = "there"
        else:
            found[name] = path.read_bytes()
    return found


def evaluations(out: Path) -> list[int]:
    """Indices of the candidates that were evaluated, over all processes that worked on a run."""
    lines = (out / "log.jsonl").read_text().splitlines()
    events = []
    for line in lines:
        with contextlib.suppress(ValueError):  # torn by a kill
            events.append(json.loads(line))
    return [event["index"] for event in events if event["event"] == "candidate"]


def kill_and_resume(backend: str, method: str, kills: int, folder: Path) -> None:
    config = write(folder, backend, method, cache=False)  # so that the training of the base network is killed too
    length = finish(config, folder / "whole")
    expected = contents(folder / "whole")
    assert method == "uni_pruning" or len(expected["study.db"]) > 8
    rng, number, done = random.Random(0), 0, 0
    while True:
        out = folder / f"killed-{number}"
        process = start(config, out, "--resume")
        try:
            process.communicate(timeout=rng.uniform(0.1 * length, length) if done < kills else 900)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            done += 1
            continue
        assert process.returncode == 0
        assert not find_folder(folder / f"killed-{number}").name.endswith(".partial")
        got = contents(out)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert got[name] == value, name
        evaluated = evaluations(out)  # kept before it is logged: a killed process's last one may be missing here
        assert len(evaluated) == len(set(evaluated))
        number += 1
        if done >= kills:
            return


@pytest.mark.slow
def test_a_killed_search_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    kill_and_resume("torch", "eagle_eye", 3, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_searches_that_are_killed_twenty_times_end_as_if_they_had_not_been(
    backend: str, method: str, tmp_path: Path
) -> None:
    kill_and_resume(backend, method, 20, tmp_path)


# ---------------------------------------------------------------- stopped by hand


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_search_stopped_by_ctrl_c_keeps_what_it_scored(backend: str, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "out"
    out.parent.mkdir()
    config = write(tmp_path, backend, "eagle_eye", method={"name": "eagle_eye", "candidates": 5000, "bn_batches": 2})
    process = start(config, out)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("strategy index:2,"):
            process.send_signal(signal.SIGINT)
            break
    text = "".join([*said, *process.stderr.readlines()])
    assert process.wait(timeout=120) == 130, text
    assert "stopped" in text and "add --resume to go on" in text and "Traceback" not in text
    assert {p.name for p in out.parent.iterdir()} == {"out.partial", "cache"}
    kept = out.with_name("out.partial")
    found = read_strategies(kept / FILE)
    assert [c.index for c in found] == list(range(len(found))) and len(found) >= 3
    for place in (out, kept):  # either name will do
        shown = CliRunner().invoke(app, ["select", str(place)])
        assert shown.output.count("strategy index:") == len(found)
    refusals = {(): "add --resume to go on with it, or --overwrite", ("--resume", "--set", "seed=1"): "seed than"}
    for change, part in refusals.items():
        refused = CliRunner().invoke(app, ["run", str(config), "--out", str(out), *change])
        assert refused.exit_code == 2 and part in " ".join(refused.output.split()), refused.output
    assert len(read_strategies(kept / FILE)) == len(found)


def test_a_finished_run_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    config = write(tmp_path, "torch", "none", finetune={"epochs": 0})
    finish(config, tmp_path / "out", "--resume")  # where there is nothing, it begins
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    process = start(config, tmp_path / "out", "--resume")
    assert "is done" in process.communicate(timeout=120)[1] and process.returncode == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before
    refused = CliRunner().invoke(app, ["run", str(config), "--out", str(tmp_path / "out"), "--resume", "--overwrite"])
    assert refused.exit_code == 2 and "got both; leave one out" in " ".join(refused.output.split())


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", worth=()) as folder:
        (folder / "results.json").write_text("{}")
        with (
            pytest.raises(OutputError, match="used by one process at a time"),
            work_folder(tmp_path / "out", resume=True, worth=()),
        ):
            pass
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"results.json"}


def stop(target: Path, *names: str, **options: bool) -> None:
    with pytest.raises(KeyboardInterrupt), work_folder(target, worth=("original",), **options) as folder:
        for name in names:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "file").write_text(name)
        raise KeyboardInterrupt


def test_what_is_worth_it_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    stop(out, "other")
    assert list(tmp_path.iterdir()) == []
    stop(out, "other", "original")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("file")) == [
        "a/out.partial/original/file", "a/out.partial/other/file",
    ]  # fmt: skip
    assert find_folder(out) == tmp_path / "a" / "out.partial"
    with pytest.raises(OutputError, match="what a stopped run left"), work_folder(out, worth=()):
        pass
    stop(out, resume=True)
    assert (out.with_name("out.partial") / "original" / "file").is_file()
    stop(out, "another", overwrite=True)  # begins anew, and comes to nothing
    assert list((tmp_path / "a").iterdir()) == []


def test_a_finished_run_stays_until_the_next_one_is_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("{}")
    stop(out, "original", overwrite=True)
    assert [p.name for p in out.iterdir()] == ["results.json"]
    with work_folder(out, resume=True, worth=()) as folder:
        assert (folder / "original").is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and [p.name for p in out.iterdir()] == ["original"]
    with pytest.raises(OutputError, match="with other files in it"), work_folder(out, overwrite=True, worth=()):
        pass


def test_what_killed_processes_leave_is_cleared_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    stop(out, "original")
    left = [out.with_name("out.partial") / name for name in (f"{TEMPORARY}a.csv", f"original/{TEMPORARY}b.json")]
    for path in left:
        path.write_text("half")
    (out.with_name("out.partial") / "results.json").write_text("{}")  # killed before it took its place
    (tmp_path / ".out.old").mkdir()  # killed between the two renames
    (tmp_path / ".out.old" / "results.json").write_text("{}")
    with work_folder(out, resume=True, worth=()) as folder:
        assert not any(path.exists() for path in left) and not (folder / "results.json").exists()
        assert (folder / "original" / "file").is_file()
        assert (out / "results.json").is_file()  # the run that was there before is back until this one is done
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (out / "original").is_dir()


def test_a_refused_resume_is_not_advised_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stop(tmp_path / "out", "original")
    caplog.clear()
    with pytest.raises(ConfigError), work_folder(tmp_path / "out", resume=True, worth=("original",)):
        raise ConfigError("another seed")
    assert caplog.text == "" and (tmp_path / "out.partial" / "original").is_dir()

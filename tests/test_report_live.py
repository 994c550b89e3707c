"""The report of a search at work, stopped or killed: read from another process, which the search never notices."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _reports import evolution, finished_search, unfinished, write_study

from prunekit.cli._folders import is_working
from prunekit.cli.report import collect, report_text, write_report
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.study import STUDY_FILE, Study

TOTAL = 120
# a search as the commands run one: the same folder, lock, log, study and ledger
SEARCH = """
import sys, time
from pathlib import Path
from prunekit.cli._folders import work_folder
from prunekit.cli.results import write_search
from prunekit.core.candidates import Proposal
from prunekit.core.executor import LocalExecutor
from prunekit.core.ledger import Ledger
from prunekit.core.logs import RunLog
from prunekit.core.plan import PruningPlan
from prunekit.core.study import Study

def evaluate(request):
    time.sleep(pause)
    return {"score": (request.vector[0] * 37 % 101) / 101}

target, total, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
with work_folder(target, resume=True, mark="search.json", worth=("study.db",)) as folder:
    (folder / "config.yml").write_text("model: {name: tiny}\\nmethod: {name: some_search}\\nseed: 4\\n")
    with RunLog(folder) as log, Study(folder / "study.db", {}) as study:
        log.write("start", command=["prunekit", "search", "x"], config={})
        executor = LocalExecutor()
        executor.prepare(lambda: evaluate)
        decode = lambda vector: PruningPlan({"a": (0,)}, {"a": 4})
        with Ledger(study, executor, decode, total=total, log=log, show=False) as ledger:
            for generation in range(total // 10):
                places = range(10 * generation, 10 * generation + 10)
                ledger.score([Proposal((float(k),), generation=generation, figures={"macs": 1000 + k}) for k in places])
                study.note("generation", generation, {"hypervolume": generation / 100})
    write_search(folder, {"model": "tiny", "provenance": {"date": "2020", "versions": {}}})
"""


@contextlib.contextmanager
def searching(target: Path, pause: float = 0.01) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SEARCH, str(target), str(TOTAL), str(pause)]
    process = subprocess.Popen(command, cwd=target.parent, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def scored(folder: Path) -> list[tuple[int, float]]:
    with Study(folder / STUDY_FILE, read_only=True) as study:
        return [(c.index, c.score) for c in study]


def wait_for(target: Path, count: int) -> dict[str, Any]:
    """The report once it has so many candidates."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(InputError):  # nothing is there yet
            data = collect(target)
            if data["search"] and len(data["search"]["candidates"]) >= count:
                return data
        time.sleep(0.02)
    raise AssertionError(f"no {count} candidates came")


def test_a_search_at_work_is_read_and_not_disturbed(tmp_path: Path) -> None:
    target = tmp_path / "eye"
    seen: list[dict[str, Any]] = []
    with searching(target) as process:
        wait_for(target, 3)
        page = write_report(target)
        while process.poll() is None:
            seen.append(collect(target))  # also while the folder gets its name
        assert process.communicate()[1] == "" and process.returncode == 0
    assert page == tmp_path / "eye.partial" / "report.html"
    whole = [(k, (k * 37 % 101) / 101) for k in range(TOTAL)]
    assert scored(target) == whole
    for data in (data for data in seen if data["kind"] == "unfinished"):
        candidates, progress = data["search"]["candidates"], data["progress"]
        assert [(c["index"], c["score"]) for c in candidates] == whole[: len(candidates)]
        assert progress["candidates"] == len(candidates) and progress["total"] == TOTAL
        assert progress["generation"] == (len(candidates) - 1) // 10
        assert progress["best"] == max(score for _, score in whole[: len(candidates)])
        assert 0 <= progress["idle"] <= progress["seconds"] < 600 and progress["working"] is not False
    counts = [len(data["search"]["candidates"]) for data in seen]
    assert counts == sorted(counts) and len(set(counts)) > 3
    # afterwards the name of the work folder still finds it
    assert collect(tmp_path / "eye.partial")["kind"] == "search"


def test_a_killed_search_has_a_report_and_goes_on(tmp_path: Path) -> None:
    target = tmp_path / "eye"
    with searching(target, pause=0.05) as process:
        assert wait_for(target, 12)["progress"]["working"] is (True if Path("/proc/locks").exists() else None)
        process.send_signal(signal.SIGKILL)
        process.wait()
    data = collect(target)
    assert data["progress"]["working"] is None and 12 <= data["progress"]["candidates"] < TOTAL
    assert "killed, or at work on another machine" in report_text(target, "md")
    assert report_text(target, "csv").count("\n") == data["progress"]["candidates"] + 1
    with contextlib.closing(sqlite3.connect(tmp_path / "eye.partial" / STUDY_FILE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with searching(target, pause=0) as process:
        assert process.communicate(timeout=120)[1] == "" and process.returncode == 0
    assert scored(target) == [(k, (k * 37 % 101) / 101) for k in range(TOTAL)]


def test_the_page_of_a_search_at_work_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "eye.partial"
    unfinished(folder, {"time": 1001.0, "event": "epoch", "epoch": 1, "loss": 0.7, "val_top1": 0.6})
    write_study(folder, evolution(3), {2: {"hypervolume": 0.25}}, total=40)
    page = write_report(tmp_path / "eye").read_text()
    for part in ("tiny: not finished (some_search)", '<td>at most</td><td class="n" data-value="40">40<', "stopped"):
        assert part in page
    data = collect(tmp_path / "eye")
    assert data["progress"]["candidates"] == 24 and data["progress"]["generation"] == 2
    assert data["provenance"]["command"] == "prunekit search x" and data["provenance"]["seed"] == 4
    assert data["epochs"] == [{"stage": "base", "epoch": 1, "loss": 0.7, "val_top1": 0.6}]


@pytest.mark.parametrize("study", ["none", "empty", "no tables"])
def test_a_run_that_has_no_candidates_yet_has_a_report(study: str, tmp_path: Path) -> None:
    folder = tmp_path / "eye.partial"
    unfinished(folder, {"time": 1001.0, "event": "stage", "name": "fine-tuning"})
    if study == "empty":
        (folder / STUDY_FILE).touch()
    elif study == "no tables":
        with contextlib.closing(sqlite3.connect(folder / STUDY_FILE)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    page = write_report(tmp_path / "eye").read_text()
    assert "fine-tuning" in page and "candidates scored" in page
    assert report_text(tmp_path / "eye", "csv") == "name,before,after\r\n"
    assert json.loads(report_text(tmp_path / "eye", "json"))["search"] is None


def test_an_earlier_run_goes_before_one_at_work(tmp_path: Path) -> None:
    (tmp_path / "eye").mkdir()
    finished_search(tmp_path / "eye", evolution(1))
    unfinished(tmp_path / "eye.partial")
    assert collect(tmp_path / "eye")["kind"] == "search"
    assert collect(tmp_path / "eye.partial")["kind"] == "unfinished"


def test_a_damaged_configuration_is_told(tmp_path: Path) -> None:
    unfinished(tmp_path)
    (tmp_path / "config.yml").write_text("model: [")
    with pytest.raises(ConfigError, match="must be YAML"):
        collect(tmp_path)
    (tmp_path / "config.yml").write_text("model: 3\n")
    with pytest.raises(InputError, match="must hold what prunekit wrote"):
        collect(tmp_path)


def test_a_folder_without_a_lock_is_not_worked_in(tmp_path: Path) -> None:
    assert is_working(tmp_path) is False
    (tmp_path / ".lock").touch()
    assert is_working(tmp_path) is None

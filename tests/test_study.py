"""The study: what is kept stays, whatever happens to its process; what is no study is refused in words."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from prunekit.core.candidates import Candidate, Proposal, Request
from prunekit.core.errors import InputError, OutputError, StudyError
from prunekit.core.executor import Executor, LocalExecutor, Result
from prunekit.core.ledger import Ledger
from prunekit.core.plan import PruningPlan
from prunekit.core.settings import first_difference
from prunekit.core.study import Study, _checksum

PLAN = PruningPlan({"conv1": (0, 2)}, {"conv1": 4}, model="net")


def candidate(index: int, score: float = 0.5) -> Candidate:
    return Candidate(index, (0.1 * index, 1 / 3), score, {"macs": 0.5}, seconds=1.5, generation=index // 2, seed=7)


def fill(study: Study, count: int) -> None:
    for index in range(len(study), count):
        study.add(index, f"key {index}", candidate(index), PLAN, {"bn_batches": 2})


def test_what_is_added_is_read_again_as_it_was(tmp_path: Path) -> None:
    config = {"method": {"name": "eagle_eye", "rates": (0.1, 0.2)}, "seed": 3}
    with Study(tmp_path / "a" / "study.db", config) as study:
        assert study.empty
        fill(study, 5)
        study.note("generation", 0, {"best": 0.25})
    with Study(tmp_path / "a" / "study.db", config) as again:
        assert list(again) == [candidate(i) for i in range(5)] and len(again) == 5 and not again.empty
        assert again.get("key 3") == candidate(3) and again.get("key 9") is None
        assert again.plan(3) == PLAN
        assert again.notes("generation") == {"0": {"best": 0.25}} and again.notes("other") == {}
        assert again.config == {"method": {"name": "eagle_eye", "rates": [0.1, 0.2]}, "seed": 3}
        assert again.version
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["study.db"]


def test_the_file_is_plain_sqlite_with_every_column(tmp_path: Path) -> None:
    with Study(tmp_path / "study.db", {"seed": 1}) as study:
        fill(study, 2)
    with sqlite3.connect(tmp_path / "study.db") as plain:
        plain.row_factory = sqlite3.Row
        row = dict(plain.execute("SELECT * FROM candidates WHERE number = 1").fetchone())
        meta = dict(plain.execute("SELECT key, value FROM meta").fetchall())
    assert json.loads(row["plan"])["groups"] == {"conv1": {"size": 4, "kept": [0, 2]}}
    assert json.loads(row["vector"]) == [0.1, 1 / 3] and json.loads(row["metrics"]) == {"macs": 0.5}
    assert (row["seed"], row["generation"], row["seconds"], row["score"]) == (7, 0, 1.5, 0.5)
    assert json.loads(meta["config"]) == {"seed": 1} and meta["prunekit"]


def test_a_candidate_is_kept_once_and_has_a_score(tmp_path: Path) -> None:
    with Study(tmp_path / "study.db") as study:
        fill(study, 2)
        with pytest.raises(StudyError, match="kept once, got it again"):
            study.add(7, "key 1", candidate(7), PLAN)
        with pytest.raises(StudyError, match="score must be a finite number, got nan"):
            study.add(7, "key 7", candidate(7, math.nan), PLAN)
        with pytest.raises(StudyError, match="one of the study, got 9; it has 2"):
            study.plan(9)
        assert len(study) == 2


def test_work_that_was_noted_is_not_done_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, object]:
        calls.append(1)
        return {"widths": (1, 2)}

    for _ in range(3):
        with Study(tmp_path / "study.db") as study:
            assert study.once("front", 4, compute) == {"widths": [1, 2]}
    assert len(calls) == 1


@pytest.mark.parametrize("length", [1, 100, 4096, 9000])
def test_a_damaged_file_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with Study(path) as study:
        fill(study, 200)
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    with pytest.raises((StudyError, OutputError), match="a study must"), Study(path) as study:
        list(study)
    path.write_bytes(whole[:2000] + b"\xff" * 3000 + whole[5000:])
    with pytest.raises((StudyError, OutputError), match="a study must"), Study(path) as study:
        list(study)


def test_what_is_no_study_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to have a header of one, were it one\n" * 20)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as plain:
        plain.execute("CREATE TABLE candidates (a)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(StudyError, match="a study must be"):
            Study(path)
        assert path.read_bytes() == before
    with pytest.raises(StudyError, match="must be there to be read"):
        Study(tmp_path / "none.db", read_only=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a study must be readable and writable"):
        Study(tmp_path / "file" / "study.db")


def test_a_study_of_another_version_or_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    Study(path, {"method": {"seed": 1, "x": [1, 2]}}).close()
    with pytest.raises(StudyError, match="its own configuration only, got another method.x than"):
        Study(path, {"method": {"seed": 1, "x": [1, 3]}})
    Study(path, {"method": {"x": (1, 2), "seed": 1}}).close()
    with sqlite3.connect(path) as plain:
        plain.execute("PRAGMA user_version = 99")
    with pytest.raises(StudyError, match="must have version 2, got 99"):
        Study(path)


def test_differences_are_found_wherever_they_are() -> None:
    assert first_difference({"a": 1, "b": {"c": (1, 2)}}, {"b": {"c": [1, 2]}, "a": 1}) is None
    assert first_difference({"a": 1}, {"a": 1, "b": None}) == "b"
    assert first_difference({"a": {"b": {}}}, {"a": {"b": {"c": 1}}}) in ("a.b", "a.b.c")


def test_a_full_disk_ends_in_a_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    with Study(tmp_path / "study.db") as study:
        fill(study, 20)
        pages = study._connection.execute("PRAGMA page_count").fetchone()[0]
        study._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(OutputError, match="full.*make room.*then resume"):
            fill(study, 10_000)
        kept = len(study)
    with Study(tmp_path / "study.db") as again:
        assert len(again) == kept >= 20


def test_a_study_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with Study(tmp_path / "study.db", {"seed": 1}) as writer:
        for count in (0, 3, 9):
            fill(writer, count)
            with Study(tmp_path / "study.db", read_only=True) as reader:
                assert len(list(reader)) == count and reader.config == {"seed": 1}
                fill(writer, count + 1)  # a reader is in nobody's way
        with Study(tmp_path / "study.db", read_only=True) as reader, pytest.raises(OutputError, match="readonly"):
            reader.note("a", "b", 1)


WRITER = """
import sys
from prunekit.core.candidates import Candidate
from prunekit.core.plan import PruningPlan
from prunekit.core.study import Study
study = Study(sys.argv[1], {"seed": 0})
plan = PruningPlan({}, {})
print("open", len(study), flush=True)
for number in range(len(study), 10**9):
    study.add(number, str(number), Candidate(number, (number,), 0.5), plan)
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_twenty_kills(tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "study.db"
    known = 0
    for _ in range(20):
        command = [sys.executable, "-c", WRITER, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[0] == "open" and int(first[1]) >= known
        time.sleep(rng.uniform(0.0, 0.15))
        process.kill()
        said = process.stdout.read().split("\n")[:-1]  # the last line may be torn
        process.wait()
        known = int(said[-1]) + 1 if said else int(first[1])
    with Study(path, {"seed": 0}) as study:
        assert [c.index for c in study] == list(range(len(study)))
        assert known <= len(study) <= known + 1 and known > 20


# ---------------------------------------------------------------- the ledger


class Backwards(Executor):
    """Gives results in the opposite order, as workers may."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, ...]] = []
        self.stop_after = math.inf

    def prepare(self, evaluation: object) -> None:
        pass

    def map(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        for position in reversed(range(len(requests))):
            if len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(requests[position].vector)
            yield position, Result({"score": sum(requests[position].vector), "loss": 1.0}, 0.25)


def decode(vector: tuple[float, ...]) -> PruningPlan:
    return dataclasses.replace(PLAN, model=str(vector))


def proposals(*values: float, **fields: object) -> list[Proposal]:
    return [Proposal((v, 1.0), figures={"ratio": v}, **fields) for v in values]  # type: ignore[arg-type]


def test_a_network_is_evaluated_once_and_candidates_come_in_order() -> None:
    executor, told = Backwards(), []
    with Ledger(Study(), executor, decode, seed=5, scored=told.append, show=False) as ledger:
        found = ledger.score(proposals(3, 1, 3, 2))
        assert [c.score for c in found] == [4, 2, 4, 3] and [c.index for c in found] == [0, 1, 0, 2]
        assert told == [found[0], found[1], found[3]]
        assert executor.asked == [(2, 1), (1, 1), (3, 1)]
        later = ledger.score(proposals(1, 4, generation=1))
        assert [c.index for c in later] == [1, 3] and [c.generation for c in later] == [0, 1]
        other = ledger.score(proposals(1, options={"bn_batches": 1}))
        assert other[0].index == 4  # another way to evaluate is another score
        assert (len(ledger), ledger.evaluated) == (5, 5)
        assert found[0].figures == {"ratio": 3, "loss": 1.0} and (found[0].seed, found[0].seconds) == (5, 0.25)
        assert [c.index for c in ledger.study] == [0, 1, 2, 3, 4] and ledger.study.plan(3).model == "(4, 1.0)"


@pytest.mark.parametrize("stop", range(7))
def test_a_search_that_was_stopped_ends_as_if_it_had_not_been(stop: int, tmp_path: Path) -> None:
    def search(study: Study, executor: Backwards) -> list[Candidate]:
        told: list[Candidate] = []
        with Ledger(study, executor, decode, scored=told.append, show=False) as ledger:
            first = ledger.score(proposals(5, 2, 8))
            best = max(c.score for c in first)
            ledger.score(proposals(best, 2, best + 1, best + 2, generation=1))
        return told

    whole = Study()
    expected = search(whole, Backwards())
    executor = Backwards()
    executor.stop_after = stop
    if stop < 6:
        with Study(tmp_path / "study.db") as study, pytest.raises(KeyboardInterrupt):
            search(study, executor)
    executor.stop_after = math.inf
    with Study(tmp_path / "study.db") as study:
        assert search(study, executor) == expected
        assert list(study) == list(whole)
    assert len(executor.asked) == len(set(executor.asked)) == 6


def test_an_error_in_an_evaluation_comes_through() -> None:
    def fail(request: Request) -> dict[str, float]:
        raise InputError("answers must be finite, got nan; look at the data")

    executor = LocalExecutor()
    executor.prepare(lambda: fail)
    with pytest.raises(InputError, match="finite"), Ledger(Study(), executor, decode, show=False) as ledger:
        ledger.score(proposals(1))
    assert len(ledger.study) == 0


def test_what_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with Study(path, {"seed": 1}) as study:
        fill(study, 2)
        study.note("front", 0, 1)
    whole = path.read_bytes()
    for statement in (
        "UPDATE meta SET value = '{}' WHERE key = 'config'",
        "UPDATE notes SET data = '2'",
        "UPDATE notes SET name = '1'",
        "UPDATE candidates SET score = score + 1e-9 WHERE number = 1",
        "UPDATE candidates SET number = 7 WHERE number = 1",
    ):
        change(path, statement)
        for read_only in (True, False):
            with pytest.raises(StudyError, match="was changed.*begin anew with --overwrite"):
                Study(path, read_only=read_only)
        path.write_bytes(whole)
    with Study(path) as study:
        assert len(study) == 2


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with Study(path, {"seed": 1}) as study:
        fill(study, 1)
        study.note("front", 0, 1)
    reads: dict[str, Callable[[Study], object]] = {
        "UPDATE meta SET value = '{' WHERE key = 'config'": lambda study: study.config,
        "UPDATE notes SET data = '{'": lambda study: study.notes("front"),
        "UPDATE candidates SET plan = '{'": lambda study: study.plan(0),
        "UPDATE candidates SET vector = '{'": list,
    }
    for statement, read in reads.items():
        change(path, statement, sealed=True)
        with Study(path) as study, pytest.raises(StudyError, match="must"):
            read(study)


def change(path: Path, statement: str, sealed: bool = False) -> None:
    """Edit a study; ``sealed``, as one who knows how rows are checked."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as plain:
        plain.execute(statement)
        table = statement.split()[1]
        for *row, _ in plain.execute(f"SELECT * FROM {table}").fetchall() if sealed else ():
            columns = [entry[1] for entry in plain.execute(f"PRAGMA table_info({table})")]
            where = " AND ".join(f'"{name}" IS ?' for name in columns[:-1])
            plain.execute(f'UPDATE {table} SET "check" = ? WHERE {where}', (_checksum(row), *row))

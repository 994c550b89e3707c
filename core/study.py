"""The memory of a search: one SQLite file that keeps every candidate as soon as it is scored.

A search is a function of its configuration and of the scores it gets. So a search that was killed is continued by
running it again on the same study: what is scored already is looked up, and only what is not is evaluated.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from prunekit.core.candidates import Candidate
from prunekit.core.errors import OutputError, StudyError
from prunekit.core.plan import PruningPlan
from prunekit.core.settings import first_difference

__all__ = ["FORMAT_VERSION", "STUDY_FILE", "Study"]

logger = logging.getLogger("prunekit.study")

STUDY_FILE = "study.db"
FORMAT_VERSION = 2

_HEADER = 100  # bytes
_APPLICATION = 0x70726E6B  # "prnk", in the header of the file
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, "check" TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE candidates (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    "index" INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    vector TEXT NOT NULL,
    options TEXT NOT NULL,
    plan TEXT NOT NULL,
    score REAL NOT NULL,
    metrics TEXT NOT NULL,
    seed INTEGER NOT NULL,
    seconds REAL NOT NULL,
    finished REAL NOT NULL,
    "check" TEXT NOT NULL
);
CREATE TABLE notes (
    kind TEXT, name TEXT, data TEXT NOT NULL, "check" TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
"""
_COLUMNS = '"index", vector, score, metrics, seconds, generation, seed'


class Study:
    """Candidates and notes of one search.

    Args:
        path: The file, which is made where there is none; None keeps everything in memory.
        config: Plain data that the search follows from; kept beside its candidates. An existing study must have
            the same.
        read_only: Look at a study that another process may be writing.

    Raises:
        OutputError: The file cannot be written.
        StudyError: The file is no study, a damaged one, of another version, or of another configuration.
    """

    def __init__(
        self, path: str | Path | None = None, config: Mapping[str, Any] | None = None, *, read_only: bool = False
    ) -> None:
        self.path = None if path is None else Path(path)
        fresh = self.path is None or not self.path.exists() or self.path.stat().st_size == 0
        if read_only and fresh:
            raise StudyError(f"a study must be there to be read, got {self.path}; give the folder of a search")
        with self._errors():
            if not fresh and self.path is not None and self.path.is_file() and self.path.stat().st_size < _HEADER:
                raise sqlite3.DatabaseError("it has no header")  # SQLite itself would take it for an empty one
            self._connection = _connect(self.path, read_only)
        try:
            begun = not fresh and self._begun()
            if read_only and not begun:  # its writer has only just made the file: there is nothing in it yet
                self._connection.close()
                self._connection = _connect(None, read_only=False)
            if not (read_only and begun):
                self._prepare(begun, dict(config or {}))
            self._check(config)
            if begun and not read_only:
                self._compare_versions()
        except BaseException:
            self._connection.close()
            raise

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the study was begun with."""
        found: dict[str, Any] = self._json(self._meta("config"))
        return found

    @property
    def version(self) -> str:
        """Version of prunekit that began it."""
        return self._meta("prunekit")

    @property
    def begun(self) -> float:
        """When it was begun, in seconds since 1970."""
        return float(self._json(self._meta("begun")))

    @property
    def latest(self) -> float:
        """When the latest candidate was kept, in seconds since 1970; without candidates, when the study was begun."""
        row = self._one("SELECT max(finished) FROM candidates", ())
        return self.begun if row is None or row[0] is None else float(row[0])

    def add(
        self, number: int, key: str, candidate: Candidate, plan: PruningPlan, options: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a candidate, in a transaction of its own; once this returns, nothing that happens later loses it.

        Args:
            number: Its place in the order in which the search asks.
            key: Identifies its vector and how it was evaluated.
            candidate: The candidate.
            plan: The channels it keeps.
            options: How it was evaluated.

        Raises:
            OutputError: The file cannot be written.
            StudyError: There is another candidate of that number, key or with a score that is no number.
        """
        if not math.isfinite(candidate.score):
            raise StudyError(f"a score must be a finite number, got {candidate.score} for candidate {candidate.index}")
        row = (
            number, key, candidate.index, candidate.generation, json.dumps(candidate.vector),
            json.dumps(dict(options or {}), sort_keys=True), json.dumps(plan.to_dict()), float(candidate.score),
            json.dumps(dict(candidate.figures)), candidate.seed, float(candidate.seconds), time.time(),
        )  # fmt: skip
        self._write("INSERT INTO candidates", row)

    def get(self, key: str, vector: tuple[float, ...] | None = None) -> Candidate | None:
        """The candidate of that key, if it was scored.

        Args:
            key: As given to :meth:`add`.
            vector: Its vector, where it is known: a long one takes longer to read than all the rest.
        """
        row = self._one(f"SELECT {_COLUMNS} FROM candidates WHERE key = ?", (key,))
        return None if row is None else self._candidate(row, vector)

    def plan(self, index: int) -> PruningPlan:
        """The plan of a candidate.

        Raises:
            StudyError: There is no such candidate.
        """
        row = self._one('SELECT plan FROM candidates WHERE "index" = ? ORDER BY number DESC', (index,))
        if row is None:
            raise StudyError(f"a candidate must be one of the study, got {index}; it has {len(self)}")
        return PruningPlan.from_dict(self._json(row[0]))

    def __iter__(self) -> Iterator[Candidate]:
        """All candidates, in the order in which the search asked for them."""
        with self._errors():
            rows = self._connection.execute(f"SELECT {_COLUMNS} FROM candidates ORDER BY number").fetchall()
        return (self._candidate(row) for row in rows)

    def __len__(self) -> int:
        row = self._one("SELECT count(*) FROM candidates", ())
        return int(row[0]) if row else 0

    @property
    def empty(self) -> bool:
        """Whether it keeps nothing yet."""
        row = self._one("SELECT (SELECT count(*) FROM candidates) + (SELECT count(*) FROM notes)", ())
        return row is None or row[0] == 0

    def note(self, kind: str, name: str | int, data: Any) -> None:
        """Keep plain data beside the candidates, e.g. figures of a generation; the same name again replaces it.

        Raises:
            OutputError: The file cannot be written.
        """
        self._write("INSERT OR REPLACE INTO notes", (kind, str(name), json.dumps(data)))

    def notes(self, kind: str) -> dict[str, Any]:
        """All data of a kind, by name."""
        with self._errors():
            rows = self._connection.execute("SELECT name, data FROM notes WHERE kind = ?", (kind,)).fetchall()
        return {name: self._json(data) for name, data in rows}

    def once(self, kind: str, name: str | int, compute: Callable[[], Any]) -> Any:
        """The data kept under a name; where there are none, what ``compute`` gives, which is kept."""
        row = self._one("SELECT data FROM notes WHERE kind = ? AND name = ?", (kind, str(name)))
        if row is not None:
            return self._json(row[0])
        data = compute()
        self.note(kind, name, data)
        return json.loads(json.dumps(data))  # the same the first time as any later one: lists, not tuples

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._connection.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begun(self) -> bool:
        """Whether there is a study in the file; one that was killed before its first transaction has no table yet."""
        with self._errors():
            # in this order: another process may be making them, all at once
            tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            kind = self._connection.execute("PRAGMA application_id").fetchone()[0]
        if tables and kind != _APPLICATION:
            raise StudyError(f"a study must be a file that a search wrote, got another at {self.path}; choose another")
        return bool(tables)

    def _prepare(self, begun: bool, config: dict[str, Any]) -> None:
        with self._errors():
            if self.path is not None:
                self._connection.execute("PRAGMA journal_mode = WAL")  # others may read while we write
                self._connection.execute("PRAGMA synchronous = FULL")
            if begun:
                return
            self._connection.execute("BEGIN IMMEDIATE")  # the tables and what stands in them: all or nothing
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._connection.execute(statement)
            meta = {
                "config": json.dumps(config, sort_keys=True), "prunekit": importlib.metadata.version("prunekit"),
                "begun": json.dumps(time.time()),
            }  # fmt: skip
            for row in meta.items():
                self._write("INSERT INTO meta", row)
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            self._connection.execute("COMMIT")

    def _check(self, config: Mapping[str, Any] | None) -> None:
        with self._errors():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT_VERSION:
            raise StudyError(f"a study must have version {FORMAT_VERSION}, got {version}; use the prunekit it is from")
        self._check_rows()
        key = None if config is None else first_difference(self.config, config)
        if key is not None:
            raise StudyError(
                f"a study can be continued with its own configuration only, got another {key} than {self.path} has; "
                "set it back, or begin anew with --overwrite"
            )

    def _check_rows(self) -> None:
        """Make sure that all stands there as it was written: a changed score would change what a search finds."""
        with self._errors():
            found = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            for table in ("meta", "candidates", "notes"):
                for *row, check in self._connection.execute(f"SELECT * FROM {table}"):
                    if check != _checksum(row):
                        raise sqlite3.DatabaseError(f"a row of {table} was changed: {str(row[:2])[:80]}")

    def _compare_versions(self) -> None:
        mine, theirs = importlib.metadata.version("prunekit"), self.version
        if mine != theirs:
            logger.warning("%s was begun by prunekit %s, got %s: what they find may differ", self.path, theirs, mine)

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise StudyError(
                f"a study must hold what a search wrote, got something else in {self.path} ({error}); begin anew with "
                "--overwrite"
            ) from error

    def _meta(self, key: str) -> str:
        row = self._one("SELECT value FROM meta WHERE key = ?", (key,))
        if row is None:
            raise StudyError(f"a study must hold its {key}, got none in {self.path}; was it edited?")
        return str(row[0])

    def _one(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        with self._errors():
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return row

    def _write(self, statement: str, row: tuple[Any, ...]) -> None:
        with self._errors():
            self._connection.execute(f"{statement} VALUES ({', '.join('?' * len(row))}, ?)", (*row, _checksum(row)))

    def _candidate(self, row: tuple[Any, ...], known: tuple[float, ...] | None = None) -> Candidate:
        try:
            index, vector, score, metrics, seconds, generation, seed = row
            found = tuple(json.loads(vector)) if known is None else known
            return Candidate(index, found, float(score), json.loads(metrics), seconds, generation, seed)
        except (ValueError, TypeError) as error:
            raise StudyError(
                f"a candidate must be what a search wrote, got a changed one in {self.path} ({error})"
            ) from error

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's complaints in prunekit's words."""
        try:
            yield
        except sqlite3.IntegrityError as error:
            raise StudyError(
                f"a candidate can be kept once, got it again in {self.path} ({error}); was the study begun by another "
                f"version ({self.version}) or with other code? begin anew with --overwrite"
            ) from error
        except sqlite3.OperationalError as error:
            if "decode" in str(error):  # bytes that are no text
                raise self._damaged(error) from error
            raise OutputError(
                f"a study must be readable and writable, got {self.path} ({error}); make room or wait for the process "
                "that uses it, then resume"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: sqlite3.Error) -> StudyError:
        return StudyError(
            f"a study must be a whole SQLite file, got a damaged or foreign one at {self.path} ({error}); "
            "begin anew with --overwrite"
        )


def _checksum(row: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(row)).encode()).hexdigest()[:16]


def _connect(path: Path | None, read_only: bool) -> sqlite3.Connection:
    if path is None:
        return sqlite3.connect(":memory:", isolation_level=None)
    if not read_only:
        with contextlib.suppress(OSError):  # if it cannot be made, opening says why
            path.parent.mkdir(parents=True, exist_ok=True)
    place, mode = path.resolve(), "rwc"
    if read_only:
        # without its journal nobody has it open: read as it stands, it can lie on a read-only disk, and no file is made
        mode = "ro" if place.with_name(f"{place.name}-wal").exists() else "ro&immutable=1"
    name = f"{place.as_uri()}?mode={mode}"
    return sqlite3.connect(name, uri=True, isolation_level=None, timeout=30)

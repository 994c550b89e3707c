"""Files of pruning strategies: the candidates of EagleEye, one a line, each written as soon as it is scored."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prunekit.core._files import read_text
from prunekit.core._json import parse_json
from prunekit.core.candidates import Candidate
from prunekit.core.errors import InputError, OutputError

__all__ = ["StrategyFile", "best_first", "find_strategy", "read_strategies", "strategy_line"]

logger = logging.getLogger("prunekit.strategies")


class StrategyFile:
    """Keeps candidates in a file, a JSON object a line; a line is on the disk before ``add`` returns.

    The keys of a line are ``index``, ``score``, ``ratio`` (MACs that stay, as a share), ``rates`` (shares
    removed) and, for a score from fewer batches than a whole evaluation has, ``part``: the share of one.

    The file is that of one search. A search that is continued adds its candidates from the first one on again:
    lines that are there already stay as they are, and where one differs the rest of the file is replaced.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._old: bytes | None = None
        self._at = 0

    def add(self, candidate: Candidate) -> None:
        """Write a candidate's line, unless it stands there.

        Raises:
            OutputError: The file cannot be written.
        """
        data: dict[str, Any] = {"index": candidate.index, "score": candidate.score}
        data |= {key: candidate.figures[key] for key in ("ratio", "part") if key in candidate.figures}
        line = (json.dumps({**data, "rates": list(candidate.vector)}) + "\n").encode()
        try:
            if self._old is None:
                self._old = self.path.read_bytes() if self.path.exists() else b""
            if self._old[self._at : self._at + len(line)] != line:
                self._write(line)
                self._old = b""
        except OSError as error:
            raise OutputError(f"strategies must be writable, got {self.path} ({error}); choose another") from error
        self._at += len(line)

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as stream:
            stream.truncate(self._at)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def read_strategies(path: str | os.PathLike[str]) -> list[Candidate]:
    """The strategies of a file, in its order.

    A line is an object as :class:`StrategyFile` writes it, or a plain list of rates, whose index is the number of
    its line from 0 and whose score is NaN. A torn last line, as an interrupted run leaves it, is passed over with
    a warning.

    Raises:
        InputError: The file cannot be read, holds no strategy, or a line is no strategy.
    """
    found = _parse(_text(Path(path)), Path(path))
    if not found:
        raise InputError(f"a file of strategies must hold at least one, got none in {path}; search first")
    return found


def best_first(strategies: Iterable[Candidate]) -> list[Candidate]:
    """Strategies from the best score to the worst; ties go to the lower index, and those without score come last.

    Only scores of whole evaluations compete; where a search was stopped before it came to one, those of the
    largest part do.
    """
    every = list(strategies)
    most = max((_part(s) for s in every), default=1.0)
    return sorted(
        (s for s in every if _part(s) == most),
        key=lambda s: (-math.inf if math.isnan(s.score) else s.score, -s.index),
        reverse=True,
    )


def find_strategy(strategies: Iterable[Candidate], index: int) -> Candidate:
    """The strategy of that index, with the score of its most thorough evaluation.

    Raises:
        InputError: There is none.
    """
    every = list(strategies)
    found = [s for s in every if s.index == index]
    if not found:
        known = sorted({s.index for s in every})
        raise InputError(f"a strategy must be one of the search, got {index}; the file has {known[0]} to {known[-1]}")
    return max(found, key=_part)


def strategy_line(strategy: Candidate) -> str:
    """How a strategy is shown.

    Example:
        >>> strategy_line(Candidate(84, (0.1, 0.2), 0.1427))
        'strategy index:84, score:0.143'
    """
    part = _part(strategy)
    return f"strategy index:{strategy.index}, score:{strategy.score:.3f}" + (f", part:{part:.3f}" if part < 1 else "")


def _part(strategy: Candidate) -> float:
    return float(strategy.figures.get("part", 1.0))


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"strategies must be in a readable text file, got {path} ({error}); give the file that a search wrote"
        ) from error


def _parse(text: str, path: Path) -> list[Candidate]:
    """The strategies of a text."""
    found: list[Candidate] = []
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.strip():
            try:
                data = parse_json(line)
            except ValueError as error:
                if number == len(lines) - 1 and isinstance(error, json.JSONDecodeError):
                    logger.warning("the last line of %s is torn and is passed over", path)
                    return found
                raise InputError(
                    f"a line of strategies must be JSON, got another at {path}:{number + 1} ({error})"
                ) from error
            found.append(_strategy(data, len(found), f"{path}:{number + 1}"))
            if len(found[-1].vector) != len(found[0].vector):
                raise InputError(
                    f"strategies of one file must have one number of rates, got {len(found[0].vector)} and then "
                    f"{len(found[-1].vector)} at {path}:{number + 1}; use the files of one network alone"
                )
    return found


def _strategy(data: Any, number: int, where: str) -> Candidate:
    if isinstance(data, list):
        data = {"index": number, "score": None, "rates": data}
    if not isinstance(data, dict) or not isinstance(data.get("rates"), list):
        raise InputError(f"a strategy must be a list of rates or an object with 'rates', got another at {where}")
    index, score, rates = data.get("index"), data.get("score"), data["rates"]
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**63:
        raise InputError(f"the index of a strategy must be a number from 0, got {index!r} at {where}")
    if score is not None and not _number(score):
        raise InputError(f"the score of a strategy must be a number, got {score!r} at {where}")
    bad = [rate for rate in rates if not _number(rate) or not 0 <= rate < 1]
    if bad or not rates:
        raise InputError(f"rates to remove must lie in [0, 1), got {repr(bad[0]) if bad else 'none'} at {where}")
    figures = {key: float(data[key]) for key in ("ratio", "part") if _number(data.get(key))}
    return Candidate(index, tuple(float(r) for r in rates), math.nan if score is None else float(score), figures)


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)

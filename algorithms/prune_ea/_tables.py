"""The files of a search: all models, and those on the Pareto front, as comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunekit.core._files import write_atomic
from prunekit.core.candidates import Candidate

__all__ = ["FRONT_FILE", "REPORTS_FILE", "Tables"]

REPORTS_FILE = "reports.csv"
FRONT_FILE = "output.csv"

_OWN = ("accuracy", "macs", "params")  # objectives that have a column in every table
_DIGITS = b"01" + bytes(254)
_TRAINED = ("index", "trained_accuracy", "test_accuracy")


class Tables:
    """``reports.csv`` with every model in the order of the search, and ``output.csv`` with the Pareto front.

    The first columns are those of Vega: ``encoding`` (as 0 and 1), ``flops`` (multiply-accumulates, as there),
    ``parameters`` and ``accuracy``. Further objectives and the generation follow; in ``output.csv`` also the model's
    place in the search, and its accuracy on the held-out and on the test images once it is fully trained.

    Args:
        folder: Where they go; None writes none.
        objectives: Names of the objectives.
    """

    def __init__(self, folder: Path | None, objectives: Sequence[str]) -> None:
        self._folder = folder
        self._more = [name for name in objectives if name not in _OWN]
        self._head = ["encoding", "flops", "parameters", "accuracy", *self._more, "generation"]
        self._reports = io.StringIO()
        csv.writer(self._reports, lineterminator="\n").writerow(self._head)

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Take in models, in their order."""
        csv.writer(self._reports, lineterminator="\n").writerows(self._row(c) for c in candidates)

    def write(self, front: Iterable[Candidate], trained: Mapping[int, Mapping[str, Any]] | None = None) -> None:
        """Write both files anew.

        Args:
            front: The Pareto front.
            trained: Figures of what was fully trained, by index.
        """
        if self._folder is None:
            return
        stream, known = io.StringIO(), trained or {}
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*self._head, *_TRAINED])
        for c in front:
            figures = known.get(c.index, {})
            writer.writerow([*self._row(c), c.index, *(figures.get(name, "") for name in _TRAINED[1:])])
        write_atomic(self._folder / REPORTS_FILE, self._reports.getvalue())
        write_atomic(self._folder / FRONT_FILE, stream.getvalue())

    def _row(self, c: Candidate) -> list[Any]:
        encoding = bytes(c.vector).translate(_DIGITS).decode()  # type: ignore[arg-type]  # bits are whole numbers
        more = [c.figures[name] for name in self._more]
        return [encoding, c.figures["macs"], c.figures["params"], c.score, *more, c.generation]

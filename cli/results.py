"""What a run measured, as plain data: ``results.json``, and the rows of the table made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunekit.core._files import read_text, write_atomic
from prunekit.core.errors import InputError

__all__ = [
    "FORMAT", "FORMAT_VERSION", "RESULTS_FILE", "SEARCH_FILE", "SEARCH_FORMAT", "TRAINING_FILE", "Row",
    "read_results", "read_search", "read_training", "rows", "write_results", "write_search", "write_training",
]  # fmt: skip

FORMAT = "prunekit.results"
FORMAT_VERSION = 1
SEARCH_FORMAT = "prunekit.search"
RESULTS_FILE = "results.json"
SEARCH_FILE = "search.json"
TRAINING_FORMAT = "prunekit.training"
TRAINING_FILE = "training.json"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: What is compared.
        before: The original's figure, as text with its unit.
        after: The pruned network's.
        change: After over before, or the difference for accuracies.
        values: The three as numbers; the last may be None.
    """

    name: str
    before: str
    after: str
    change: str
    values: tuple[float, float, float | None]


def rows(results: Mapping[str, Any], *, every: bool = False) -> list[Row]:
    """The figures before and after: accuracy, parameters, MACs, latency, file size.

    Args:
        results: What a run measured.
        every: Whether to have the FLOPs, the memory, the bandwidth and the slower latencies too.
    """
    before, after = results["before"], results["after"]
    table: list[Row] = []
    if "top1" in before and "top1" in after:
        one, two = before["top1"], after["top1"]
        table.append(
            Row("accuracy", f"{one:.2%}", f"{two:.2%}", f"{100 * (two - one):+.2f} points", (one, two, two - one))
        )
    for key, name, form in _FIGURES:
        if key in before and key in after and (every or key not in _FURTHER):
            one, two = before[key], after[key]
            ratio = two / one if one else None
            text = "-" if ratio is None else f"× {ratio:.3f}"
            table.append(Row(name, form(one), form(two), text, (one, two, ratio)))
    return table


def _count(value: float) -> str:
    return f"{int(value):,}"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.2f} ms"


def _kilobytes(value: float) -> str:
    return f"{value / 1000:,.1f} kB"


_FIGURES = (
    ("params", "parameters", _count),
    ("macs", "MACs", _count),
    ("flops", "FLOPs", _count),
    ("memory", "activation memory", _kilobytes),
    ("bandwidth", "bandwidth", _kilobytes),
    ("latency", "latency", _milliseconds),
    ("p90", "latency of the slowest tenth", _milliseconds),
    ("bytes", "file size", _kilobytes),
)
_FURTHER = ("flops", "memory", "bandwidth", "p90")


def write_results(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write ``results.json`` into a folder.

    Raises:
        OutputError: It cannot be written.
    """
    data = {"format": FORMAT, "version": FORMAT_VERSION, **results}
    return write_atomic(folder / RESULTS_FILE, json.dumps(data, indent=1))


def write_search(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write ``search.json`` into a folder.

    Raises:
        OutputError: It cannot be written.
    """
    data = {"format": SEARCH_FORMAT, "version": FORMAT_VERSION, **found}
    return write_atomic(folder / SEARCH_FILE, json.dumps(data, indent=1))


def write_training(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write ``training.json`` into a folder.

    Raises:
        OutputError: It cannot be written.
    """
    data = {"format": TRAINING_FORMAT, "version": FORMAT_VERSION, **found}
    return write_atomic(folder / TRAINING_FILE, json.dumps(data, indent=1))


def read_results(folder: Path) -> dict[str, Any]:
    """The results that a run left in its folder.

    Raises:
        InputError: The folder holds no finished run.
    """
    return _read(folder, RESULTS_FILE, FORMAT, "run")


def read_search(folder: Path) -> dict[str, Any]:
    """What a search alone left in its folder.

    Raises:
        InputError: The folder holds no finished search.
    """
    return _read(folder, SEARCH_FILE, SEARCH_FORMAT, "search")


def read_training(folder: Path) -> dict[str, Any]:
    """What a training of what a search needs left in its folder.

    Raises:
        InputError: The folder holds no finished training.
    """
    return _read(folder, TRAINING_FILE, TRAINING_FORMAT, "training")


def _read(folder: Path, name: str, format: str, what: str) -> dict[str, Any]:
    path = folder / name
    try:
        data = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"a {what} folder must hold a readable {name}, got {folder} ({error}); give the folder of a finished {what}"
        ) from error
    if not isinstance(data, dict) or data.get("format") != format:
        raise InputError(f"a {what} folder must hold prunekit's {name}, got another file at {path}")
    if data.get("version") != FORMAT_VERSION:
        version = data.get("version")
        raise InputError(f"{name} must have version {FORMAT_VERSION}, got {version!r}; update prunekit")
    return data

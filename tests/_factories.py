"""What workers in other processes are made by in the tests; they import it by name."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.core.candidates import Evaluation, Request
from prunekit.core.errors import CheckpointError, CutError


def plain(folder: str | None = None, broken: str = "") -> Evaluation:
    """Sums vectors; the options of a request make it sleep, fail, die or tell of its process.

    Args:
        folder: Where ``a/b.bin`` may be, of which the size is told.
        broken: What goes wrong before the first request.
    """
    if broken == "prunekit":
        raise CheckpointError("weights must be whole, got half of them; copy them again")
    if broken == "python":
        raise KeyError("half")
    if broken == "death":
        os.kill(os.getpid(), signal.SIGKILL)

    there = folder is not None and (Path(folder) / "a" / "b.bin").is_file()
    size = len((Path(str(folder)) / "a" / "b.bin").read_bytes()) if there else 0

    def evaluation(request: Request) -> Mapping[str, float]:
        options = request.options
        time.sleep(options.get("sleep", 0.0))
        _fail(options)
        if "memory" in options:
            _fill(Path(options["memory"]), options.get("times", 1))
        if "die" in options:
            _die(Path(options["die"]), options.get("times", 1))
        figures = {"score": sum(request.vector) + request.seed, "kept": float(len(request.plan.kept["a"]))}
        if options.get("tell"):
            figures |= {"pid": float(os.getpid()), "parent": float(os.getppid())}
            figures |= {"threads": float(os.environ["OMP_NUM_THREADS"])}
        if size:
            figures["bytes"] = float(size)
        return figures

    return evaluation


def _fail(options: Mapping[str, Any]) -> None:
    if options.get("fail") == "prunekit":
        raise CutError("a cut must fit, got 3; freeze it", position=7)
    if options.get("fail") == "python":
        raise Odd("first", "second")


def _fill(marks: Path, times: int) -> None:
    """Ask for more memory than this process may have, as often as asked for over all processes."""
    count = len(list(marks.glob("*")))
    if count < times:
        (marks / str(count)).touch()
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        np.ones(16 << 30, np.int8)


def _die(marks: Path, times: int) -> None:
    """Kill this process, as often as asked for over all processes."""
    count = len(list(marks.glob("*")))
    if count < times:
        (marks / str(count)).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Odd(Exception):
    """An exception that does not survive pickling."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)

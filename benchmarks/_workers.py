"""How many candidates an hour two processes evaluate beside one, with one thread each, in the same run."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from prunekit.cli.job import Job
from prunekit.cli.workers import make_executor
from prunekit.core.analysis import Analysis
from prunekit.core.candidates import Request
from prunekit.core.executor import Executor
from prunekit.core.settings import check
from prunekit.core.testing import random_plan

__all__ = ["WorkerRates", "compare_workers"]


@dataclass(frozen=True)
class WorkerRates:
    """Candidates an hour.

    Attributes:
        one: Of one process; the median over the rounds.
        two: Of two.
        ratio: Median of the ratios of each round.
    """

    one: float
    two: float
    ratio: float


def compare_workers(job: Job, analysis: Analysis, *, rounds: int = 5, candidates: int = 12) -> WorkerRates:
    """Evaluate the same candidates by one process and by two, by turns.

    Workers are up, and have evaluated something, before any clock runs: a search starts them once.

    Args:
        job: A job whose method searches, e.g. of ``benchmarks/_base.py``.
        analysis: Its trained network.
        rounds: How often each is timed.
        candidates: How many they evaluate each time.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job.backend.save(analysis.model, folder / "original")
        executors = {count: _executor(job, folder, count) for count in (1, 2)}
        try:
            for count, executor in executors.items():
                _seconds(executor, _requests(analysis, 2 * count, seed=-1))
            times: dict[int, list[float]] = {1: [], 2: []}
            for round_ in range(rounds):
                requests = _requests(analysis, candidates, seed=round_)
                # now one is first, now the other, so that both meet the same machine
                for count in (1, 2) if round_ % 2 else (2, 1):
                    times[count].append(_seconds(executors[count], requests))
        finally:
            for executor in executors.values():
                executor.close()
    hourly = {count: [3600 * candidates / t for t in taken] for count, taken in times.items()}
    ratio = statistics.median(two / one for one, two in zip(hourly[1], hourly[2], strict=True))
    return WorkerRates(statistics.median(hourly[1]), statistics.median(hourly[2]), ratio)


def _executor(job: Job, folder: Path, count: int) -> Executor:
    section = {"name": "processes", "workers": count, "threads": 1}
    data = {**job.config.to_mapping(), "executor": section}
    return make_executor(check(type(job.config), data, "benchmark"), folder)


def _requests(analysis: Analysis, count: int, seed: int) -> list[Request]:
    plans = [random_plan(analysis, keep=0.6, seed=1000 * (seed + 1) + k) for k in range(count)]
    return [Request(plan, (float(k),), {}, seed=0) for k, plan in enumerate(plans)]


def _seconds(executor: Executor, requests: list[Request]) -> float:
    begin = time.perf_counter()
    assert len(list(executor.map(requests))) == len(requests)
    return time.perf_counter() - begin

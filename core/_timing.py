"""Timing a forward pass, and the name of the processor it ran on."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from prunekit.core.backend import Backend, Latency
from prunekit.core.errors import InputError

__all__ = ["compare_latency", "cpu_name", "time_passes"]


def time_passes(
    forward: Callable[[], object],
    *,
    runs: int,
    warmup: int,
    device: str,
    shape: tuple[int, ...],
    wait: Callable[[], object] = lambda: None,
) -> Latency:
    """Time ``forward`` after warm-up.

    Args:
        forward: One pass.
        runs: Timed passes.
        warmup: Passes before them that are not timed.
        device: Name of the device, for the record.
        shape: Input shape, for the record.
        wait: Returns when the device has finished its work.

    Raises:
        InputError: ``runs`` is below 1 or ``warmup`` below 0.
    """
    if runs < 1 or warmup < 0:
        raise InputError(f"runs must be at least 1 and warmup at least 0, got runs={runs} and warmup={warmup}")
    for _ in range(warmup):
        forward()
    wait()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        forward()
        wait()
        times.append(time.perf_counter() - begin)
    return Latency(float(np.median(times)), float(np.percentile(times, 90)), runs, device, shape)


def compare_latency(
    backend: Backend, models: Sequence[Any], example: Any, *, runs: int, warmup: int, rounds: int = 5
) -> list[Latency]:
    """Time several networks by turns, so that what else the machine does meets all of them alike.

    Args:
        backend: The backend of all of them.
        models: The networks.
        example: Their input.
        runs: Timed passes of each, spread over the rounds.
        warmup: Passes of each before those of a round.
        rounds: How often each has its turn.

    Returns:
        For each network the medians over the rounds.
    """
    rounds = max(min(rounds, runs), 1)
    seen: list[list[Latency]] = [[] for _ in models]
    for _ in range(rounds):
        for model, mine in zip(models, seen, strict=True):
            mine.append(backend.latency(model, example, runs=-(-runs // rounds), warmup=warmup))
    return [
        replace(
            mine[0],
            median=float(np.median([m.median for m in mine])),
            p90=float(np.median([m.p90 for m in mine])),
            runs=sum(m.runs for m in mine),
        )
        for mine in seen
    ]


def cpu_name() -> str:
    """The processor's model name, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"

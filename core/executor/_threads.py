"""How many threads an evaluation may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

__all__ = ["THREADS_VARIABLE", "changed_environment", "count_cores", "share_out", "thread_variables"]

THREADS_VARIABLE = "PRUNEKIT_THREADS"
"""Environment variable for backends whose framework reads none of its own."""

_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    THREADS_VARIABLE,
)


def count_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_out(workers: int | None, threads: int | None, cores: int) -> tuple[int, int]:
    """Workers and threads of each, where what is None follows from the cores.

    Example:
        >>> share_out(None, None, 8), share_out(None, 4, 8), share_out(3, None, 8), share_out(16, None, 8)
        ((8, 1), (2, 4), (3, 2), (16, 1))
    """
    if workers is None:
        workers = max(1, cores // (threads or 1))
    return workers, threads or max(1, cores // workers)


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that libraries read when they are loaded."""
    return dict.fromkeys(_VARIABLES, str(threads))


@contextlib.contextmanager
def changed_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the context, processes that are started have these environment variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

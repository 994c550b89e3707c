"""Candidates that are trained as well, to see how well their scores foretell what training makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from prunekit.core.candidates import Candidate
from prunekit.core.method import Task

__all__ = ["spread", "train_each"]


def spread(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """So many candidates, evenly placed in the order of their scores, from the best to the worst."""
    order = sorted(candidates, key=lambda c: (-c.score, c.index))
    return [order[k] for k in np.linspace(0, len(order) - 1, count).round().astype(int)]


def train_each(
    task: Task,
    chosen: Sequence[Candidate],
    train: Callable[[Candidate], dict[str, float]],
    line: Callable[[dict[str, float]], str],
) -> list[dict[str, Any]]:
    """Train candidates, each once, however often the search is stopped and continued.

    Args:
        task: What the search works on; its study keeps what comes of a training.
        chosen: The candidates.
        train: Trains one, and tells its figures.
        line: What to say of these.

    Returns:
        The figures of each.
    """
    lines: list[dict[str, Any]] = []
    for place, candidate in enumerate(chosen, start=1):
        lines.append(task.study.once("correlation", candidate.index, partial(train, candidate)))
        task.say(f"correlation {place}/{len(chosen)}: {line(lines[-1])}")
    return lines

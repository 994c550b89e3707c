"""The accuracy of a saved network, image by image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.cli.job import Job, open_run

__all__ = ["evaluate_run", "judge"]


def evaluate_run(folder: str | Path) -> dict[str, Any]:
    """Build the network of a run folder anew, load its weights, and test it.

    Raises:
        InputError: The folder holds no run.
        PlanError: The plan is damaged.
        CheckpointError: The weights are damaged.
    """
    job, small = open_run(folder)
    return judge(job, small)


def judge(job: Job, model: Any) -> dict[str, Any]:
    """Answers of a network on the test set.

    Returns:
        ``images``, ``right``, ``top1`` (a share), and ``answers``: a hash of the class given to each
        image, in order.
    """
    labels: list[Any] = []

    def inputs() -> Iterator[Any]:
        for batch, targets in job.loaders.test:
            labels.append(np.asarray(targets))
            yield batch

    answers = np.argmax(job.backend.predict(model, inputs()), axis=1).astype(np.int64)
    truth = np.concatenate(labels).astype(np.int64)
    right = int((answers == truth).sum())
    return {
        "images": len(truth),
        "right": right,
        "top1": right / len(truth),
        "answers": hashlib.sha256(answers.astype("<i8").tobytes()).hexdigest()[:16],
    }

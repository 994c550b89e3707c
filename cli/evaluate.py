"""The accuracy of a saved network, image by image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.cli.job import Job, open_run
from prunekit.core.analysis import analyse
from prunekit.core.cost import Cost
from prunekit.core.store import WEIGHTS_FILE

__all__ = ["evaluate_run", "inference_report", "judge"]


def evaluate_run(folder: str | Path) -> dict[str, Any]:
    """Build the network of a run folder anew, load its weights, and test it.

    Raises:
        InputError: The folder holds no run.
        PlanError: The plan is damaged.
        CheckpointError: The weights are damaged.
    """
    job, small = open_run(folder)
    return judge(job, small)


def inference_report(folder: str | Path) -> tuple[dict[str, Any], list[str]]:
    """What :func:`evaluate_run` finds, and the lines of EagleEye's report on it.

    FLOPs are multiply-accumulates of conv and linear, params the weights of these, as EagleEye counts them.
    """
    job, small = open_run(folder)
    found = judge(job, small)
    lines = ["######### Report #########", f"Model:{job.config.model.name}"]
    lines.append(f"Checkpoint:{Path(folder) / WEIGHTS_FILE}")
    for name, model in (("Original Model", job.build()), ("Pruned   Model", small)):
        seen = analyse(job.backend, model, job.example(), probe=False)
        figures = Cost(seen.coupling, "eagleeye").full(("flops", "params"))
        flops, params = _short(figures["flops"], 3), _short(figures["params"], 2)
        lines.append(f"FLOPs of {name}:{flops};Params of {name}:{params}")
    data = job.loaders.name or job.config.data.name
    return found, [*lines, f"Top-1 Acc of Pruned Model on {data}:{found['top1']:.5f}", "#" * 26]


def _short(figure: int, digits: int) -> str:
    """A figure with the largest unit of which it has one, as ``4.089G``."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if figure >= unit:
            return f"{figure / unit:.{digits}f}{name}"
    return str(figure)


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

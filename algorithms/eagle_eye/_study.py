"""How well the scores foretell the accuracy after fine-tuning, with and without adapted statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from prunekit.algorithms.correlation_study import train_each
from prunekit.algorithms.evaluation import Evaluator
from prunekit.core.candidates import Candidate
from prunekit.core.correlation import correlate
from prunekit.core.encoding import PruningRateEncoding
from prunekit.core.method import Task

__all__ = ["study"]


def study(
    task: Task, encoding: PruningRateEncoding, evaluator: Evaluator, chosen: Sequence[Candidate], epochs: float
) -> dict[str, Any]:
    """Fine-tune candidates and correlate their scores with the accuracy that comes of it.

    The accuracy is that on the test images: candidates are scored on the held-out images, so those would
    correlate with themselves.

    Args:
        task: What the search works on.
        encoding: What a vector means.
        evaluator: What scores candidates.
        chosen: At least four candidates.
        epochs: Epochs of each fine-tuning.

    Returns:
        ``candidates``: one dict for each, with ``index``, ``score`` (statistics adapted), ``unadapted``
        (statistics as they were) and ``fine_tuned``; ``adapted`` and ``unadapted``: the correlations of either
        score with the last, as :meth:`prunekit.core.correlation.Correlation.to_dict` writes them; and ``epochs``.
    """
    backend, base = task.analysis.backend, task.analysis.model
    recipe = dataclasses.replace(task.finetune, epochs=epochs)
    options = {"teacher": base} if recipe.distill_weight > 0 else {}

    def tune(candidate: Candidate) -> dict[str, float]:
        small = backend.apply(task.analysis, encoding.decode(candidate.vector), check=False)
        unadapted = evaluator.score(small, bn_batches=0).top1
        score = evaluator.score(small).top1
        backend.fit(small, task.loaders.train, recipe, **options)
        tuned = backend.evaluate(small, task.loaders.test)["top1"]
        return {"index": candidate.index, "score": score, "unadapted": unadapted, "fine_tuned": tuned}

    def line(found: dict[str, float]) -> str:
        return f"strategy index:{found['index']}, score:{found['score']:.3f}, fine-tuned:{found['fine_tuned']:.3f}"

    lines = train_each(task, chosen, tune, line)
    tuned_all = [line["fine_tuned"] for line in lines]
    return {
        "epochs": epochs,
        "candidates": lines,
        "adapted": correlate([line["score"] for line in lines], tuned_all, seed=task.seed).to_dict(),
        "unadapted": correlate([line["unadapted"] for line in lines], tuned_all, seed=task.seed).to_dict(),
    }

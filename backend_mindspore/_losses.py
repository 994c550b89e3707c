"""Losses of a training step, written so that MindSpore can compile them: shapes and types are known there."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, ops
from mindspore import dtype as mstype

__all__ = ["clipped", "cross_entropy", "main_of", "right_answers", "taught"]


def main_of(outputs: Any) -> Any:
    """The logits among a network's outputs; see ``_batches.logits_of``, which says what is wrong with others."""
    if isinstance(outputs, dict):
        return outputs["logits"] if "logits" in outputs else outputs["out"]
    if isinstance(outputs, (tuple, list)):
        return outputs[0]
    return outputs


def cross_entropy(outputs: Any, targets: Tensor, smoothing: float, weight: float | None) -> Tensor:
    """Cross-entropy of the logits, and of auxiliary outputs of the same shape with a weight.

    Args:
        outputs: What the network returned.
        targets: Classes as int32, or probabilities.
        smoothing: Share of a target that is spread over all classes.
        weight: That of each auxiliary output; None takes 0.3, or 0.4 where there is one.
    """
    main = main_of(outputs)
    total = _cross_entropy(main, targets, smoothing)
    others = []
    for value in _others(outputs):
        if isinstance(value, Tensor) and value.shape == main.shape:
            others.append(value)
    share = weight
    if share is None:
        share = 0.4 if len(others) == 1 else 0.3
    for value in others:
        total = total + share * _cross_entropy(value, targets, smoothing)
    return total


def _others(outputs: Any) -> Any:
    if isinstance(outputs, dict):
        main = "logits" if "logits" in outputs else "out"
        return [outputs[name] for name in outputs if name != main]
    if isinstance(outputs, (tuple, list)):
        return outputs[1:]
    return ()


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    logarithms = ops.log_softmax(logits.astype(mstype.float32), axis=1)
    wanted = targets
    if targets.dtype == mstype.int32:
        wanted = ops.one_hot(targets, logits.shape[1], 1.0, 0.0, axis=1)
    if wanted.shape != logits.shape:  # such targets are refused before the step is taken
        return 0.0 * logarithms.mean()
    if smoothing > 0:
        wanted = wanted * (1.0 - smoothing) + smoothing / logits.shape[1]
    return -(wanted * logarithms).sum(axis=1).mean()


def taught(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softened outputs (Hinton et al., 2015), without the factor T²."""
    if soft.shape != logits.shape:  # such a teacher is refused before the step is taken
        return 0.0 * logits.mean()
    logarithms = ops.log_softmax(logits.astype(mstype.float32) / temperature, axis=1)
    return -(soft * logarithms).sum(axis=1).mean()


def right_answers(logits: Tensor, targets: Tensor) -> Tensor:
    """How many examples of a batch are right; the share of positions where an example has several."""
    classes = targets
    if targets.dtype != mstype.int32 and targets.shape == logits.shape:
        classes = targets.argmax(axis=1)
    found = logits.argmax(axis=1)
    if found.shape != classes.shape:
        return ops.zeros((), mstype.float32)
    return (found == classes).astype(mstype.float32).mean() * targets.shape[0]


def clipped(gradients: Any, largest: float) -> Any:
    """Gradients, scaled down so that the norm of all together is at most ``largest``, and that norm."""
    total = ops.zeros((), mstype.float32)
    for gradient in gradients:
        total = total + gradient.astype(mstype.float32).square().sum()
    norm = ops.sqrt(total)
    scale = ops.minimum(largest / (norm + 1e-6), ops.ones((), mstype.float32))
    scaled = ()
    for gradient in gradients:
        scaled = scaled + (gradient * scale.astype(gradient.dtype),)
    return scaled, norm

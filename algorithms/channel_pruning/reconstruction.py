"""Weights fitted to the outputs of the base network by least squares (He, Zhang and Sun, ICCV 2017, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from prunekit.algorithms.channel_pruning.moments import FloatArray, IntArray, Moments, Sample
from prunekit.algorithms.channel_pruning.readers import Reader
from prunekit.core.backend import State

__all__ = ["best_ridge", "fit_weight", "reconstructed"]

_RIDGES = tuple(10.0**k for k in range(-7, 1))
_RIDGE = 1e-4  # where there is nothing to choose it by


def best_ridge(sample: Sample, start: FloatArray, centred: bool) -> float:
    """The ridge of :func:`fit_weight` whose fit is nearest to the targets of held-out images.

    A layer may have more weights than a small sample has rows: unchecked, it would learn that sample by heart.
    """
    if not sample.held.count or not sample.fit.count:
        return _RIDGE
    fit, held = sample.fit.means(centred), sample.held.means(centred)

    def error(ridge: float) -> float:
        weight = fit_weight(fit, start, ridge)
        return float(((weight @ held.xx) * weight).sum() - 2 * (weight.T * held.xy).sum())

    return min(_RIDGES, key=error)


def fit_weight(moments: Moments, start: FloatArray, ridge: float) -> FloatArray:
    """The weight ``(O, D)`` that minimises ``E‖y − W x‖² + λ ‖W − W₀‖²``.

    Args:
        moments: Means of the rows ``x`` and targets ``y``.
        start: ``W₀``: directions in which nothing was seen keep it.
        ridge: λ as a share of the mean square of a row's entries.
    """
    size = len(moments.xx)
    amount = ridge * float(np.trace(moments.xx)) / max(size, 1)
    if amount <= 0:  # nothing was read but zeros
        return start
    matrix = moments.xx + amount * np.eye(size)
    right = moments.xy + amount * start.T
    try:
        solved = scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), right)
    except scipy.linalg.LinAlgError:
        solved = scipy.linalg.lstsq(matrix, right)[0]
    fitted: FloatArray = solved.T
    return fitted


def reconstructed(
    reader: Reader, sample: Sample, inputs: IntArray, outputs: IntArray, base: State, current: State
) -> dict[str, NDArray[Any]]:
    """New values of the parameters and buffers of a reader, and of the norm behind it.

    The means of the outputs go into the bias, or into the norm. The statistics of the norm become those of the
    fitted outputs, and its gain and shift are changed to match: so taking the statistics anew later changes nothing.

    Args:
        reader: The layer.
        sample: Sums over the rows it reads, and its targets.
        inputs: Its input channels that are left, in the order of the columns.
        outputs: Its output channels that are left, in the order of the targets.
        base: State of the base network.
        current: State of the network whose weights are fitted.
    """
    means = sample.whole.means(reader.centred)
    weight = np.array(current[reader.weight])
    spots = np.ix_(outputs, inputs)
    block = weight[spots].astype(np.float64)
    start = block.reshape(len(outputs), -1)
    fitted = fit_weight(means, start, best_ridge(sample, start, reader.centred))
    weight[spots] = fitted.reshape(block.shape)
    changed: dict[str, NDArray[Any]] = {reader.weight: weight}
    if reader.norm is not None:
        spread = np.einsum("od,de,oe->o", fitted, means.xx, fitted, optimize=True)
        changed.update(_norm(reader, fitted @ means.x, spread, means.y, outputs, base, current))
    elif reader.bias is not None:
        changed[reader.bias] = _put(current[reader.bias], outputs, means.y - fitted @ means.x)
    return changed


def _norm(
    reader: Reader, mean: FloatArray, variance: FloatArray, target: FloatArray, outputs: IntArray, base: State,
    current: State,
) -> Mapping[str, NDArray[Any]]:  # fmt: skip
    """What the norm behind a layer becomes: of its outputs ``o`` it shall make ``s (o − mean + target − m) + β``,
    ``s``, ``m`` and ``β`` being those of the base network."""
    norm = reader.norm
    if norm is None:
        return {}
    scale = reader.scale[outputs]
    if reader.bias is not None:
        mean = mean + current[reader.bias][outputs]
    shift = base[norm.shift][outputs] + scale * (target - base[norm.mean][outputs])
    variance = np.maximum(variance, 0)
    return {
        norm.gain: _put(current[norm.gain], outputs, scale * np.sqrt(variance + reader.eps)),
        norm.shift: _put(current[norm.shift], outputs, shift),
        norm.mean: _put(current[norm.mean], outputs, mean),
        norm.var: _put(current[norm.var], outputs, variance),
    }


def _put(array: NDArray[Any], places: IntArray, values: FloatArray) -> NDArray[Any]:
    result = np.array(array)
    result[places] = values
    return result

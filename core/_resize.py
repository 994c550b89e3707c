"""Resizing images by area, and even draws from classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_evenly", "resize_images"]

_CHUNK = 4096


def resize_images(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Images of ``size`` × ``size``: averaged over areas when they shrink, linear between pixels when they grow.

    Args:
        images: Bytes of shape ``(N, H, W, C)``.
        size: The new height and width.
    """
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    rows, columns = _weights(height, size), _weights(width, size)
    result = np.empty((n, size, size, channels), dtype=np.uint8)
    for at in range(0, n, _CHUNK):
        part = images[at : at + _CHUNK].astype(np.float32)
        part = np.einsum("yh,nhwc->nywc", rows, part, optimize=True)
        part = np.einsum("xw,nywc->nyxc", columns, part, optimize=True)
        result[at : at + _CHUNK] = np.clip(np.rint(part), 0, 255)
    return result


def _weights(old: int, new: int) -> NDArray[np.float32]:
    """What each old pixel gives to each new one, ``(new, old)``; rows sum to 1."""
    scale = old / new
    if scale >= 1:
        begin = np.arange(new)[:, None] * scale
        pixel = np.arange(old)[None]
        overlap = np.minimum(begin + scale, pixel + 1) - np.maximum(begin, pixel)
        weights = np.clip(overlap, 0, None)
    else:
        centre = np.clip((np.arange(new) + 0.5) * scale - 0.5, 0, old - 1)[:, None]
        weights = np.clip(1 - np.abs(centre - np.arange(old)[None]), 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def draw_evenly(labels: NDArray[Any], count: int, seed: int) -> NDArray[np.int64]:
    """Indices of ``count`` examples with every class in its share, sorted; the same for the same seed.

    Args:
        labels: Classes, shape ``(N,)``.
        count: How many to draw; all are drawn where there are not more.
        seed: Seed of the draw.
    """
    if count >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    rng = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    take = np.floor(exact).astype(np.int64)
    # what rounding left over goes to the largest remainders, so that the counts add up
    order = np.argsort(-(exact - take), kind="stable")
    take[order[: count - int(take.sum())]] += 1
    drawn = [rng.permutation(np.flatnonzero(labels == c))[:k] for c, k in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)

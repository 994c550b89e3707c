"""Photographs in files: decoded, framed to one size and normalised."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.data import FileSet, Splits
from prunekit.core.errors import DataError, MissingDependencyError

__all__ = ["PhotoBatches"]

# share of the picture's area and ratio of its sides that a random crop keeps (Szegedy et al., "Going deeper
# with convolutions", 2015)
_AREA, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


class PhotoBatches:
    """Images in files, read when they are asked for."""

    in_memory = False

    def __init__(self, files: FileSet, splits: Splits, augment: bool, size: int) -> None:
        """Take the files of one part.

        Args:
            files: The images.
            splits: Says how they are normalised.
            augment: Crop and mirror at random, instead of the middle seven eighths.
            size: Height and width of the result.

        Raises:
            MissingDependencyError: Pillow is not installed.
        """
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingDependencyError("image folders need Pillow; run `pip install pillow`") from error
        self._pil: Any = Image
        self._files, self._augment, self._size = files, augment, size
        self._mean = np.array(splits.mean, dtype=np.float32)
        self._std = np.array(splits.std, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, key: tuple[NDArray[np.int64], int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        indices, seed = key
        rng = np.random.default_rng(seed)
        images = np.empty((len(indices), self._size, self._size, 3), dtype=np.float32)
        for image, i in zip(images, indices, strict=True):
            picture = self._read(self._files.paths[i])
            image[:] = self._random_frame(picture, rng) if self._augment else self._middle(picture)
        images /= 255
        images -= self._mean
        images /= self._std
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), self._files.labels[indices]

    def _read(self, path: Path) -> Any:
        try:
            with self._pil.open(path) as picture:
                return picture.convert("RGB")
        except Exception as error:  # Pillow has many for broken files, and one for bombs
            raise DataError(f"an image file must be readable, got {path} ({error}); remove or replace it") from error

    def _middle(self, picture: Any) -> Any:
        """The middle of the picture, whose shorter side is first made eight sevenths of the size."""
        width, height = picture.size
        short = round(self._size * 8 / 7)
        least = min(width, height)
        width, height = width * short // least, height * short // least
        left, top = round((width - self._size) / 2), round((height - self._size) / 2)
        resized = picture.resize((width, height), self._pil.Resampling.BILINEAR)
        return resized.crop((left, top, left + self._size, top + self._size))

    def _random_frame(self, picture: Any, rng: np.random.Generator) -> Any:
        """A random part of the picture, mirrored every second time."""
        left, top, width, height = _random_part(picture.width, picture.height, rng)
        part = picture.crop((left, top, left + width, top + height))
        framed = part.resize((self._size, self._size), self._pil.Resampling.BILINEAR)
        return framed.transpose(self._pil.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else framed


def _random_part(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part; the middle of a picture too long for ten tries."""
    for _ in range(10):
        area = width * height * rng.uniform(*_AREA)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            return int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1)), across, down
    across, down = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    return (width - across) // 2, (height - down) // 2, across, down

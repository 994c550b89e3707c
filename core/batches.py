"""Batches of image sets as arrays, in an order and with an augmentation that a seed decides; no framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prunekit.core._photos import PhotoBatches
from prunekit.core._user_code import load_user_object
from prunekit.core.data import FileSet, ImageSet, Splits, load_images
from prunekit.core.errors import DataError

__all__ = ["BatchOrder", "Batches", "Key", "Loaders", "MemoryBatches", "build_loaders"]

Key = tuple[NDArray[np.int64], int]
"""Positions of a batch's examples, and the seed of its augmentation."""


@dataclass(frozen=True)
class Loaders:
    """The batches of a data set: any iterables of ``(inputs, targets)``.

    Attributes:
        train: What networks are trained on: shuffled, augmented if asked for.
        validation: Held out of the training set; candidates are scored on it.
        test: What is reported.
        calibration: Training images without augmentation, in an order that never changes, for batch-norm
            statistics.
        classes: Names of the classes.
        shape: Shape of one input, ``(C, H, W)``.
        name: Which data set it is.
    """

    train: Iterable[Any]
    validation: Iterable[Any]
    test: Iterable[Any]
    calibration: Iterable[Any]
    classes: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    name: str = ""


class Batches(Protocol):
    """Examples that are read a batch at a time.

    Attributes:
        in_memory: Whether reading them is too quick to be worth a process or thread of its own.
    """

    in_memory: bool

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def __getitem__(self, key: Key) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Normalised images ``(N, C, H, W)`` and classes ``(N,)``."""
        ...


class BatchOrder:
    """The keys of whole batches; they depend on (seed, epoch) alone."""

    def __init__(
        self, count: int, size: int, seed: int, shuffle: bool = False, reshuffle: bool = False, drop_last: bool = False
    ) -> None:
        """Fix what a pass goes through.

        Args:
            count: Examples.
            size: Examples in a batch.
            seed: Seed of the order.
            shuffle: Whether the examples come in a random order.
            reshuffle: Whether each pass has an order of its own.
            drop_last: Leave an incomplete last batch out.
        """
        self._count, self._size, self._seed = count, size, seed
        self._shuffle, self._reshuffle, self._drop_last = shuffle, reshuffle, drop_last
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; later ones follow from it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count // self._size if self._drop_last else -(-self._count // self._size)

    def __iter__(self) -> Iterator[Key]:
        rng = np.random.default_rng([self._seed, self._epoch])
        if self._reshuffle:
            self._epoch += 1
        order = rng.permutation(self._count) if self._shuffle else np.arange(self._count)
        seeds = rng.integers(2**62, size=len(self))
        for i in range(len(self)):
            yield order[i * self._size : (i + 1) * self._size], int(seeds[i])


class MemoryBatches:
    """Images in memory."""

    in_memory = True

    def __init__(self, images: ImageSet, splits: Splits, augment: bool) -> None:
        """Take the images of one part, to be normalised as the splits say."""
        # channels first from the start: a batch is then normalised along long rows
        self._images = np.ascontiguousarray(images.images.transpose(0, 3, 1, 2))
        self._labels = images.labels
        self._mean = np.array(splits.mean, dtype=np.float32)[:, None, None]
        self._std = np.array(splits.std, dtype=np.float32)[:, None, None]
        self._augment = augment

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: Key) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        at, seed = key
        images = self._images[at].astype(np.float32)
        images /= 255
        images -= self._mean
        images /= self._std
        if self._augment:
            _shift_and_mirror(images, np.random.default_rng(seed))
        return images, self._labels[at]


def _shift_and_mirror(images: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Move each image ``(N, C, H, W)`` by up to an eighth over a zero border, and mirror every second one."""
    n, _, height, width = images.shape
    pad = max(1, round(height / 8))
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    top = rng.integers(2 * pad + 1, size=n)
    left = rng.integers(2 * pad + 1, size=n)
    mirrored = rng.random(n) < 0.5
    for i in range(n):
        window = padded[i, :, top[i] : top[i] + height, left[i] : left[i] + width]
        images[i] = window[..., ::-1] if mirrored[i] else window


def build_loaders(
    data: str | Splits,
    wrap: Callable[[Batches, BatchOrder], Iterable[Any]],
    batch_size: int,
    *,
    eval_batch_size: int | None,
    augment: bool,
    image_size: int,
    seed: int,
    options: dict[str, Any],
) -> Loaders:
    """The loaders of a data set, of which a backend only says what its batches are.

    Args:
        data: An image set, its name, or ``"package.module:function"`` of the user's own.
        wrap: Makes an iterable of the framework's own from examples and their order.
        batch_size: Examples in a training batch; an incomplete last batch is left out.
        eval_batch_size: Examples in the other batches; twice as many if None.
        augment: Shift and mirror training images at random (crop and mirror those of an image folder).
        image_size: Height and width for an image folder.
        seed: Seed of the order, the augmentation and the split.
        options: What ``core.data.load_images`` or the user's function takes.

    Raises:
        DataError: The data set is missing or malformed, or smaller than a batch.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(data, str) and ":" in data:
        return _of_user(data, load_user_object(data, "data function")(batch_size=batch_size, seed=seed, **options))
    splits = load_images(data, seed=seed, **options) if isinstance(data, str) else data
    if len(splits.train) < batch_size:
        raise DataError(
            f"a training set must fill a batch, got {len(splits.train)} images for batch_size={batch_size}; "
            "use a smaller batch_size"
        )

    def read(images: ImageSet | FileSet, augmented: bool = False) -> Batches:
        if isinstance(images, ImageSet):
            return MemoryBatches(images, splits, augmented)
        return PhotoBatches(images, splits, augmented, image_size)

    def batches(source: Batches, size: int, **order: bool) -> Iterable[Any]:
        return wrap(source, BatchOrder(len(source), size, seed, **order))

    larger = eval_batch_size or 2 * batch_size
    plain = read(splits.train)
    train = read(splits.train, True) if augment else plain
    first, _ = plain[np.zeros(1, dtype=np.int64), 0]
    return Loaders(
        train=batches(train, batch_size, shuffle=True, reshuffle=True, drop_last=True),
        validation=batches(read(splits.validation), larger),
        test=batches(read(splits.test), larger),
        calibration=batches(plain, batch_size, shuffle=True, drop_last=True),
        classes=splits.classes,
        shape=tuple(first.shape[1:]),
        name=splits.name,
    )


def _of_user(name: str, result: Any) -> Loaders:
    if isinstance(result, dict):
        try:
            result = Loaders(**{"calibration": result.get("train"), "test": result.get("validation"), **result})
        except TypeError as error:
            raise DataError(f"{name} must return the fields of Loaders, got {sorted(result)} ({error})") from error
    if not isinstance(result, Loaders):
        raise DataError(f"{name} must return Loaders or a dict of its fields, got {type(result).__name__}")
    return result

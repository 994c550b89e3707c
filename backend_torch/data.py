"""Loaders: image sets as normalised batches, repeatable given the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from prunekit.backend_torch._random import seeded
from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.core._names import load_object
from prunekit.core.data import FileSet, ImageSet, Splits, load_images
from prunekit.core.errors import DataError

__all__ = ["Loaders", "loaders"]

Key = tuple[NDArray[np.int64], int]


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


def loaders(
    data: str | Splits,
    batch_size: int = 128,
    *,
    eval_batch_size: int | None = None,
    augment: bool = False,
    image_size: int = 224,
    workers: int = 0,
    seed: int = 0,
    **options: Any,
) -> Loaders:
    """Batches of a data set.

    Args:
        data: An image set, its name (see ``core.data.DATASETS``), or ``"package.module:function"`` of the
            user's own, which is called with ``batch_size``, ``seed`` and ``options`` and returns
            :class:`Loaders`, or a dict with its fields; without ``calibration`` or ``test`` it is ``train`` or
            ``validation`` that stands for them.
        batch_size: Examples in a training batch; an incomplete last batch is left out.
        eval_batch_size: Examples in the other batches; twice as many if not given.
        augment: Shift and mirror training images at random (crop and mirror those of an image folder).
        image_size: Height and width for an image folder.
        workers: Processes that decode an image folder. Sets in memory need none.
        seed: Seed of the order, the augmentation and the split.
        options: What ``core.data.load_images`` takes: ``root``, ``size``, ``limit``, ``validation``.

    Raises:
        DataError: The data set is missing or malformed, or smaller than a batch.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(data, str) and ":" in data:
        return _of_user(data, load_object(data, "data function")(batch_size=batch_size, seed=seed, **options))
    splits = load_images(data, seed=seed, **options) if isinstance(data, str) else data
    if len(splits.train) < batch_size:
        raise DataError(
            f"a training set must fill a batch, got {len(splits.train)} images for batch_size={batch_size}; "
            "use a smaller batch_size"
        )
    dataset = _memory_dataset if isinstance(splits.train, ImageSet) else _file_dataset(image_size)
    workers = 0 if isinstance(splits.train, ImageSet) else workers
    plain = dataset(splits.train, splits, False)
    larger = eval_batch_size or 2 * batch_size

    def batches(images: Dataset[Any], size: int, **order: bool) -> DataLoader[Any]:
        sampler = _Batches(len(images), size, seed, **order)  # type: ignore[arg-type]
        # a generator of its own: a pass over the data must not move the process's random numbers
        own = torch.Generator().manual_seed(seed)
        return DataLoader(images, sampler=sampler, batch_size=None, num_workers=workers, generator=own)

    return Loaders(
        train=batches(dataset(splits.train, splits, augment), batch_size, shuffle=True, reshuffle=True, drop_last=True),
        validation=batches(dataset(splits.validation, splits, False), larger),
        test=batches(dataset(splits.test, splits, False), larger),
        calibration=batches(plain, batch_size, shuffle=True, drop_last=True),
        classes=splits.classes,
        shape=tuple(plain[np.zeros(1, dtype=np.int64), 0][0].shape[1:]),
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


class _Batches(Sampler[Key]):
    """Indices of whole batches, each with a seed of its own; the order depends on (seed, epoch) alone."""

    def __init__(
        self, count: int, size: int, seed: int, shuffle: bool = False, reshuffle: bool = False, drop_last: bool = False
    ) -> None:
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


class _MemoryImages(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory; an item is a whole batch, so that no time goes into single images."""

    def __init__(self, images: ImageSet, splits: Splits, augment: bool) -> None:
        self._images = torch.from_numpy(images.images).permute(0, 3, 1, 2).contiguous()
        self._labels = torch.from_numpy(images.labels)
        self._mean = torch.tensor(splits.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(splits.std).view(1, -1, 1, 1)
        self._augment = augment

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        indices, seed = key
        at = torch.from_numpy(indices)
        images = self._images[at].float().div_(255).sub_(self._mean).div_(self._std)
        if self._augment:
            images = _shift_and_mirror(images, torch.Generator().manual_seed(seed))
        return images, self._labels[at]


def _shift_and_mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to an eighth of its size over a zero border, and mirror every second one."""
    n, _, height, width = images.shape
    pad = max(1, round(height / 8))
    padded = torch.nn.functional.pad(images, (pad,) * 4)
    top = torch.randint(2 * pad + 1, (n, 1), generator=generator)
    left = torch.randint(2 * pad + 1, (n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    across = torch.arange(width).expand(n, -1)
    columns = left + torch.where(mirrored, width - 1 - across, across)
    rows = top + torch.arange(height)
    moved = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _memory_dataset(images: Any, splits: Splits, augment: bool) -> Dataset[Any]:
    return _MemoryImages(images, splits, augment)


class _FileImages(Dataset[tuple[Tensor, Tensor]]):
    """Images in files; an item is a whole batch."""

    def __init__(self, files: FileSet, transform: Callable[[Any], Tensor], open_image: Callable[[str], Any]) -> None:
        self._files, self._transform, self._open = files, transform, open_image

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        indices, seed = key
        with seeded(seed):  # torchvision's transforms draw from the process's generator
            images = [self._transform(self._read(self._files.paths[i])) for i in indices]
        return torch.stack(images), torch.from_numpy(self._files.labels[indices])

    def _read(self, path: Path) -> Any:
        try:
            return self._open(str(path))
        except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for some broken files
            raise DataError(f"an image file must be readable, got {path} ({error}); remove or replace it") from error


def _file_dataset(size: int) -> Callable[[Any, Splits, bool], Dataset[Any]]:
    import_torchvision()
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader

    def build(files: Any, splits: Splits, augment: bool) -> Dataset[Any]:
        frame = (
            [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
            if augment
            # the usual frame: the middle seven eighths
            else [transforms.Resize(round(size * 8 / 7)), transforms.CenterCrop(size)]
        )
        transform = transforms.Compose(
            [*frame, transforms.ToTensor(), transforms.Normalize(list(splits.mean), list(splits.std))]
        )
        return _FileImages(files, transform, default_loader)

    return build

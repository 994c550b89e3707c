"""Loaders: image sets as normalised batches, repeatable given the seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prunekit.core.batches import Batches, BatchOrder, Key, Loaders, build_loaders
from prunekit.core.data import Splits

__all__ = ["Loaders", "loaders"]


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

    def wrap(source: Batches, order: BatchOrder) -> DataLoader[Any]:
        # a generator of its own: a pass over the data must not move the process's random numbers
        own = torch.Generator().manual_seed(seed)
        count = 0 if source.in_memory else workers
        return DataLoader(
            _Images(source),
            sampler=order,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=count,
            generator=own,
        )

    return build_loaders(
        data,
        wrap,
        batch_size,
        eval_batch_size=eval_batch_size,
        augment=augment,
        image_size=image_size,
        seed=seed,
        options=options,
    )


class _Images(Dataset[tuple[Tensor, Tensor]]):
    """Images as tensors; an item is a whole batch, so that no time goes into single images."""

    def __init__(self, source: Batches) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        images, labels = self._source[key]
        return torch.from_numpy(images), torch.from_numpy(labels)

"""Loaders: image sets as normalised batches through mindspore.dataset, repeatable given the seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from mindspore import Tensor
from mindspore import dataset as ds
from numpy.typing import NDArray

from prunekit.core.batches import Batches, BatchOrder, Key, Loaders, build_loaders
from prunekit.core.data import Splits
from prunekit.core.errors import PrunekitError

__all__ = ["BatchDataset", "Loaders", "loaders"]

_AHEAD = 2
_Row = tuple[NDArray[np.float32], NDArray[np.int32]]


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
    """Batches of a data set, the same as those of the PyTorch backend for the same seed.

    Each of the four is a MindSpore data set, for ``mindspore.Model`` as well as for a loop. Its rows are
    whole batches: float32 images and int32 classes.

    Args:
        data: An image set, its name (see ``core.data.DATASETS``), or ``"package.module:function"`` of the
            user's own, which is called with ``batch_size``, ``seed`` and ``options`` and returns
            :class:`Loaders`, or a dict with its fields; without ``calibration`` or ``test`` it is ``train`` or
            ``validation`` that stands for them.
        batch_size: Examples in a training batch; an incomplete last batch is left out.
        eval_batch_size: Examples in the other batches; twice as many if not given.
        augment: Shift and mirror training images at random (crop and mirror those of an image folder).
        image_size: Height and width for an image folder.
        workers: Threads that decode an image folder. Sets in memory need none.
        seed: Seed of the order, the augmentation and the split.
        options: What ``core.data.load_images`` takes: ``root``, ``size``, ``limit``, ``validation``.

    Raises:
        DataError: The data set is missing or malformed, or smaller than a batch.
    """
    return build_loaders(
        data,
        lambda source, order: BatchDataset(source, order, workers),
        batch_size,
        eval_batch_size=eval_batch_size,
        augment=augment,
        image_size=image_size,
        seed=seed,
        options=options,
    )


class BatchDataset(ds.GeneratorDataset):  # type: ignore[misc]
    """A MindSpore data set whose rows are whole batches ``(image, label)``."""

    def __init__(self, source: Batches, order: BatchOrder, workers: int = 0) -> None:
        """Read examples in an order.

        Args:
            source: The examples.
            order: Which ones make up each batch.
            workers: Threads that read batches ahead, if the examples are not in memory.
        """
        passes = _Passes(source, order, 0 if source.in_memory else workers)
        # the one attribute of a data set that is not copied with it
        super().__init__(
            passes, ["image", "label"], shuffle=False, num_parallel_workers=1, python_multiprocessing=False
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; later ones follow from it."""
        self.source.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.source.error = None
        try:
            yield from map(tuple, self._pass())
        except RuntimeError:
            # MindSpore makes text of an error in its thread
            if self.source.error is not None:
                raise self.source.error from None
            raise

    def _pass(self) -> Iterator[list[Tensor]]:
        if self.source.in_memory:
            return super().__iter__()
        usual = ds.config.get_prefetch_size()
        # the usual 16 batches of photographs would fill a gigabyte
        ds.config.set_prefetch_size(min(usual, _AHEAD))
        try:
            return super().__iter__()
        finally:
            ds.config.set_prefetch_size(usual)


class _Passes:
    """What a data set of MindSpore reads from; each iteration is a pass."""

    def __init__(self, source: Batches, order: BatchOrder, workers: int) -> None:
        self.order = order
        self.error: PrunekitError | None = None
        self.in_memory = source.in_memory
        self._source, self._workers = source, workers

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[_Row]:
        try:
            yield from self._ahead() if self._workers > 0 else map(self._read, self.order)
        except PrunekitError as error:
            self.error = error
            raise

    def _read(self, key: Key) -> _Row:
        images, labels = self._source[key]
        # int32 is what MindSpore's losses and metrics take everywhere
        return images, labels.astype(np.int32)

    def _ahead(self) -> Iterator[_Row]:
        with ThreadPoolExecutor(self._workers) as pool:
            waiting: deque[Future[_Row]] = deque()
            for key in self.order:
                waiting.append(pool.submit(self._read, key))
                if len(waiting) > self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

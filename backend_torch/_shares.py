"""Each process's share of the data: of every batch of a loader, without overlap and with as many steps for all."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, IterableDataset

from prunekit.core.batches import BatchOrder
from prunekit.core.errors import DataError
from prunekit.core.processes import Processes

__all__ = ["Share", "Shares", "is_sharded"]

_SHARDED = ("num_replicas", "rank")  # what a DistributedSampler and those like it have


def is_sharded(loader: Any) -> bool:
    """Whether a loader already gives each process data of its own, by a ``DistributedSampler`` or one like it."""
    groups = getattr(loader, "batch_sampler", None)
    parts = (getattr(loader, "sampler", None), groups, getattr(groups, "sampler", None))
    return any(all(hasattr(part, name) for name in _SHARDED) for part in parts)


class Share(NamedTuple):
    """One process's part of a batch.

    Attributes:
        batch: What the loader gives, with fewer examples.
        count: 0 where the example in it is another process's and only keeps this one in step; else None, for all.
    """

    batch: Any
    count: int | None


class Shares:
    """A loader of which each process gets every ``size``-th example of every batch.

    All batches of all processes together are those of the loader, in its order, so that a training sees what
    one process would see. Of a ``DataLoader`` with a map-style data set each process reads its own examples
    only; of other iterables every process reads all batches and keeps its part.

    Where a batch has too few examples for all processes, those without one get the first example, marked.
    """

    def __init__(self, loader: Iterable[Any], processes: Processes, seed: int) -> None:
        """Share a loader.

        Args:
            loader: The same in every process, in the same order.
            processes: Who takes part.
            seed: Seed of the order, where that is drawn from the process's random numbers.
        """
        self.loader, self._processes = loader, processes
        self._stream = _Stream(seed)
        self._whole: deque[bool] = deque()
        self._source = self._reading(loader)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    @property
    def sampler(self) -> Any:
        """What the loader has, for ``set_epoch``."""
        return getattr(self.loader, "sampler", None)

    @property
    def batch_sampler(self) -> Any:
        """What the loader has, for ``set_epoch``."""
        return getattr(self.loader, "batch_sampler", None)

    def set_epoch(self, epoch: int) -> None:
        """Handed on to the loader, if that has it."""
        setter = getattr(self.loader, "set_epoch", None)
        if setter is not None:
            setter(epoch)

    def __iter__(self) -> Iterator[Share]:
        self._whole.clear()
        for batch in self._source:
            # loaders give batches in the order of their keys, also where processes of theirs read ahead
            yield Share(batch, None if self._whole.popleft() else 0)

    def _reading(self, loader: Any) -> Iterable[Any]:
        """What gives the shares: the loader with a sampler that leaves the rest out, where that is possible."""
        if type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset):
            if isinstance(loader.sampler, BatchOrder):
                return _with(loader, batch_size=None, sampler=_Parts(loader.sampler, self._parts, _part_of_key))
            if loader.batch_sampler is not None:
                return _with(loader, batch_sampler=_Parts(loader.batch_sampler, self._parts, _part_of_list))
        return _Parts(loader, self._parts, _part_of_batch)

    def _parts(self, source: Iterable[Any], part: _Part) -> Iterator[Any]:
        """Parts of what an iterable gives, which draws its random numbers as in every other process."""
        with self._stream:
            items = iter(source)
            item = next(items, _END)
        self._processes.require_same(
            "" if item is _END else _digest(item),
            "read the same batches in the same order",
            "seed the loader alike in every process, or say sharded=True if each has data of its own",
            DataError,
        )
        while item is not _END:
            own, whole = part(item, self._processes.rank, self._processes.size)
            self._whole.append(whole)
            yield own
            with self._stream:
                item = next(items, _END)


_END = object()
_Part = Callable[[Any, int, int], tuple[Any, bool]]


class _Stream:
    """Random numbers that go on from one context to the next, and those of the process as if there were none."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        numbers = np.random.RandomState(seed).get_state()
        self._own: tuple[Any, ...] = (generator.get_state(), numbers, random.Random(seed).getstate())
        self._others: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        self._others = _swap(self._own)

    def __exit__(self, *_error: object) -> None:
        self._own = _swap(self._others)


def _swap(states: tuple[Any, ...]) -> tuple[Any, ...]:
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    return before


class _Parts:
    """Parts of what a sampler or a loader gives, pass after pass."""

    def __init__(self, source: Any, parts: Callable[[Any, _Part], Iterator[Any]], part: _Part) -> None:
        self._source, self._parts, self._part = source, parts, part

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Any]:
        return self._parts(self._source, self._part)


def _with(loader: DataLoader[Any], **sampling: Any) -> DataLoader[Any]:
    """The loader, but for what it reads."""
    more: dict[str, Any] = {}
    if loader.num_workers:
        more = {"prefetch_factor": loader.prefetch_factor, "persistent_workers": loader.persistent_workers}
    return DataLoader(
        loader.dataset,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        **more,
        **sampling,
    )


def _part_of_list(keys: Any, rank: int, size: int) -> tuple[Any, bool]:
    keys = list(keys)
    return (keys[rank::size], True) if len(keys) > rank else (keys[:1], False)


def _part_of_key(key: Any, rank: int, size: int) -> tuple[Any, bool]:
    positions, seed = key
    whole = len(positions) > rank
    # another seed for each process, or all would augment their images alike
    own = seed if rank == 0 else int(np.random.default_rng([seed, rank]).integers(2**62))
    return (positions[rank::size] if whole else positions[:1], own), whole


def _part_of_batch(batch: Any, rank: int, size: int) -> tuple[Any, bool]:
    lengths = [len(x) for x in tree_leaves(batch) if _is_row(x)]
    count = lengths[-1] if lengths else 0  # the targets come last
    whole = count > rank
    cut = slice(rank, None, size) if whole else slice(0, 1)
    return tree_map(lambda x: x[cut] if _is_row(x) and len(x) == count else x, batch), whole


def _is_row(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0


def _digest(item: Any) -> str:
    hashed = hashlib.sha256()
    for leaf in tree_leaves(item):
        if isinstance(leaf, Tensor):
            leaf = leaf.detach().cpu().float().numpy()
        hashed.update(np.ascontiguousarray(leaf).tobytes() if isinstance(leaf, np.ndarray) else repr(leaf).encode())
    return hashed.hexdigest()

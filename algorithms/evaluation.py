"""How good a candidate is before any training: cut, batch norm statistics taken anew, scored on held-out images.

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

from prunekit.core.analysis import Analysis
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Request
from prunekit.core.errors import DataError, InputError
from prunekit.core.plan import PruningPlan

__all__ = ["Evaluator", "Score", "check_batches", "count_batches", "held_batches"]

_MOST_BYTES = 1 << 30  # batches up to this are kept ready; more are read again for each candidate


@dataclass(frozen=True)
class Score:
    """What an evaluation found.

    Attributes:
        top1: Share of right answers on the held-out images.
        loss: Mean cross-entropy on them.
        seconds: Time it took.
    """

    top1: float
    loss: float
    seconds: float


@dataclass(frozen=True)
class _Few:
    """The first batches of a loader, read anew each time."""

    loader: Iterable[Any]
    most: int | None

    def __len__(self) -> int:
        if not isinstance(self.loader, Sized):
            raise TypeError("the loader does not tell how many batches it has")
        return len(self.loader) if self.most is None else min(self.most, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), self.most)


def check_batches(loader: Iterable[Any], wanted: int, what: str) -> None:
    """Make sure that a loader gives as many batches as asked for, where it can tell without reading them.

    Args:
        loader: Batches.
        wanted: How many are needed.
        what: The setting that asks for them, for the message.

    Raises:
        DataError: There are fewer.
    """
    if isinstance(loader, Sized) and len(loader) < wanted:
        raise _too_few(f"{what}={wanted} batches", len(loader), what)


def count_batches(loader: Iterable[Any]) -> int:
    """How many batches a loader gives; one that does not tell is read."""
    return len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)


def _too_few(wanted: str, count: int, what: str) -> DataError:
    return DataError(
        f"a search needs {wanted}, got {count}; use {what}={max(count, 1)}, more images, or a smaller batch_size"
    )


def held_batches(loader: Iterable[Any], most: int | None = None, what: str = "batches") -> Any:
    """The first batches of a loader, kept ready in memory where they fit in a gigabyte.

    Args:
        loader: Batches, in an order that never changes.
        most: How many are needed; None takes all.
        what: The setting that asks for them, for the message.

    Raises:
        DataError: There are fewer than asked for, or none.
    """
    if most is not None:
        check_batches(loader, most, what)
    held: list[Any] | None = []
    count, size = 0, 0
    for batch in itertools.islice(iter(loader), most):
        count += 1
        if held is not None:
            size += _size(batch)
            held.append(batch)
            if size > _MOST_BYTES:
                held = None
        if held is None and isinstance(loader, Sized):  # too many to keep, and known to be enough
            return _Few(loader, most)
    if count == 0 or (most is not None and count < most):
        raise _too_few("at least one batch" if most is None else f"{what}={most} batches", count, what)
    return held if held is not None else _Few(loader, most)


def _size(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum(_size(item) for item in value)
    if isinstance(value, dict):
        return sum(_size(item) for item in value.values())
    return int(getattr(value, "nbytes", 0))


class Evaluator:
    """Scores plans for one base network; the network and the data are set up once.

    Args:
        analysis: The trained base network.
        loaders: ``calibration`` gives training images without augmentation, ``validation`` the images that
            were held out of the training set.
        bn_batches: Batches over which batch norm statistics are taken anew.

    Raises:
        DataError: There are fewer batches than asked for.
    """

    def __init__(self, analysis: Analysis, loaders: Loaders, bn_batches: int) -> None:
        self.analysis = analysis
        self.bn_batches = bn_batches
        self._calibration = held_batches(loaders.calibration, bn_batches, "bn_batches") if bn_batches else ()
        self._validation = held_batches(loaders.validation)

    def __call__(
        self, plan: PruningPlan, *, bn_batches: int | None = None, validation_batches: int | None = None
    ) -> Score:
        """Score the network that a plan leaves.

        Args:
            plan: The channels that stay.
            bn_batches: Fewer batches than set up; 0 leaves the statistics as they are.
            validation_batches: Score on the first of the held-out batches alone.

        Raises:
            InputError: The network's answers are not finite.
        """
        begin = time.monotonic()
        small = self.analysis.backend.apply(self.analysis, plan, check=False)
        return self.score(small, begin, bn_batches=bn_batches, validation_batches=validation_batches)

    def answer(self, request: Request) -> dict[str, float]:
        """What an executor wants to know: ``score`` and ``loss``.

        Args:
            request: Its options may hold ``bn_batches`` and ``validation_batches``, as in a call.

        Raises:
            InputError: The network's answers are not finite.
        """
        found = self(request.plan, **request.options)
        return {"score": found.top1, "loss": found.loss}

    def score(
        self,
        small: Any,
        begin: float | None = None,
        *,
        bn_batches: int | None = None,
        validation_batches: int | None = None,
    ) -> Score:
        """Score a network that is cut already; its statistics are changed in place."""
        begin = time.monotonic() if begin is None else begin
        backend = self.analysis.backend
        most = self.bn_batches if bn_batches is None else min(bn_batches, self.bn_batches)
        if most:
            backend.recalibrate(small, self._calibration, most)
        found = backend.evaluate(small, _Few(self._validation, validation_batches))
        if not math.isfinite(found["loss"]):
            raise InputError(
                f"a candidate's answers must be finite, got a loss of {found['loss']}; are the base network's weights "
                "and the data finite?"
            )
        return Score(found["top1"], found["loss"], time.monotonic() - begin)

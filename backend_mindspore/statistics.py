"""Batch-norm statistics of a pruned network, measured anew (adaptive batch normalisation).

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from numpy.typing import NDArray

from prunekit.backend_mindspore._batches import call, evaluating, input_batches, logits_of
from prunekit.backend_mindspore.state import to_array
from prunekit.core.errors import DataError, InputError

__all__ = ["recalibrate"]

# a graph of its own: inference, but for the norms; the name of a compiled graph knows the phase, not the flags
_PHASE = "predict.recalibrate"

Values = list[NDArray[Any]]


def recalibrate(net: nn.Cell, loader: Iterable[Any], batches: int = 100) -> int:
    """Replace the statistics of every batch norm by their exact average over batches.

    Only batch norms run in training mode: dropout stays off. The average is cumulative, each batch with
    the same weight, so that the order does not matter and nothing of the old statistics is left. A norm's
    momentum is part of its operator and stays: a batch's own statistics are what it makes of zeros,
    divided by its share.

    Args:
        net: A network, changed in place; its modes come back as they were.
        loader: Batches, with or without targets.
        batches: How many to use, or all where there are fewer.

    Returns:
        How many batches were seen; 0 for a network without batch norm, which is left as it is. A batch norm
        that does not run in inference mode keeps its statistics.

    Raises:
        InputError: ``batches`` is below 1, or a norm's momentum is 1, so that it never learns anything.
        DataError: The loader gives no batch; the statistics are left as they were.
    """
    if batches < 1:
        raise InputError(f"batches must be at least 1, got {batches}; 100 is usual")
    norms = _norms(net)
    if not norms:
        return 0
    statistics = [p for norm in norms for p in (norm.moving_mean, norm.moving_variance)]
    before = [to_array(p).copy() for p in statistics]
    try:
        with _norms_training(net, norms):
            seen, sums, last = _measure(net, norms, statistics, islice(input_batches(loader), batches))
            if seen == 0:
                raise DataError("recalibration needs at least one batch, got none; use a smaller batch size")
            ran = _ran(net, statistics, sums, last)
    except BaseException:
        _write(statistics, before)
        raise
    _write(statistics, [new / seen if fed else old for new, old, fed in zip(sums, before, ran, strict=True)])
    return seen


def _norms(net: nn.Cell) -> list[nn.Cell]:
    """Every batch norm that keeps statistics."""
    found: dict[int, nn.Cell] = {}
    for name, cell in net.cells_and_names():
        if "moving_mean" not in cell._params or cell.use_batch_statistics is False:
            continue
        # MindSpore keeps 1 - momentum
        if cell.momentum == 0:
            raise InputError(
                f"a batch norm must take in what it sees, got momentum=1.0 in {name!r}; build it with 0.9, say"
            )
        found.setdefault(id(cell), cell)
    return list(found.values())


@contextlib.contextmanager
def _norms_training(net: nn.Cell, norms: list[nn.Cell]) -> Iterator[None]:
    with evaluating(net):
        for norm in norms:
            norm.add_flags(training=True)
        net.phase = _PHASE
        yield


def _measure(
    net: nn.Cell, norms: list[nn.Cell], statistics: list[Parameter], batches: Iterable[Any]
) -> tuple[int, Values, Any]:
    """How many batches there were, the sums of their statistics, and the last of them."""
    zeros = [np.zeros(p.shape, np.float32) for p in statistics]
    sums: Values = [np.zeros(p.shape, np.float64) for p in statistics]
    shares = [norm.momentum for norm in norms for _ in range(2)]
    seen, last = 0, None
    for batch in batches:
        _write(statistics, zeros)
        _run(net, batch)
        for total, parameter, share in zip(sums, statistics, shares, strict=True):
            total += to_array(parameter).astype(np.float64) / share
        seen, last = seen + 1, batch
    return seen, sums, last


def _ran(net: nn.Cell, statistics: list[Parameter], sums: Values, last: Any) -> list[bool]:
    """Whether the norm of each statistic ran: one that only runs in training (an auxiliary head) has seen nothing."""
    fed = [bool(a.any() or b.any()) for a, b in zip(sums[::2], sums[1::2], strict=True)]
    if not all(fed):  # or has it seen nothing but zeros? Those change other values
        marks = [np.full(p.shape, 2.0, np.float32) for p in statistics]
        _write(statistics, marks)
        _run(net, last)
        now = [bool((to_array(p) != 2.0).any()) for p in statistics]
        fed = [was or a or b for was, a, b in zip(fed, now[::2], now[1::2], strict=True)]
    return [each for each in fed for _ in range(2)]


def _run(net: nn.Cell, batch: Any) -> None:
    logits_of(call(net, batch)).asnumpy()  # waits until the statistics are written


def _write(parameters: list[Parameter], values: Values) -> None:
    # in place: set_data would give the parameter other memory than compiled graphs know
    for parameter, value in zip(parameters, values, strict=True):
        ops.assign(parameter, Tensor(value.astype(np.float32), parameter.dtype))

"""Batch-norm statistics of a pruned network, measured anew (adaptive batch normalisation).

Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunekit.backend_torch._batches import call, device_of, evaluating, input_batches
from prunekit.core.errors import DataError, InputError

__all__ = ["recalibrate"]


def recalibrate(model: nn.Module, loader: Iterable[Any], batches: int = 100) -> int:
    """Replace the statistics of every batch norm by their exact average over batches.

    Only batch norms run in training mode: dropout stays off. The average is cumulative, each batch with
    the same weight, so that the order does not matter and nothing of the old statistics is left.

    Args:
        model: A network, changed in place; its modes and momenta come back as they were.
        loader: Batches, with or without targets.
        batches: How many to use, or all where there are fewer.

    Returns:
        How many batches were seen; 0 for a network without batch norm, which is left as it is. A batch norm
        that does not run in inference mode keeps its statistics.

    Raises:
        InputError: ``batches`` is below 1.
        DataError: The loader gives no batch; the statistics are left as they were.
    """
    if batches < 1:
        raise InputError(f"batches must be at least 1, got {batches}; 100 is usual")
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    momenta = [m.momentum for m in norms]
    before = [{name: buffer.clone() for name, buffer in m.named_buffers(recurse=False)} for m in norms]
    seen = 0
    try:
        with evaluating(model), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.training = True
            for batch in islice(input_batches(loader, device_of(model)), batches):
                call(model, batch)
                seen += 1
        if seen == 0:
            raise DataError("recalibration needs at least one batch, got none; use a smaller batch size")
        # a norm that only runs in training (that of an auxiliary head) has seen nothing
        for norm, buffers in zip(norms, before, strict=True):
            if norm.num_batches_tracked == 0:
                _put_back(norm, buffers)
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            _put_back(norm, buffers)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return seen


def _put_back(norm: nn.Module, buffers: dict[str, torch.Tensor]) -> None:
    for name, buffer in buffers.items():
        norm.get_buffer(name).copy_(buffer)

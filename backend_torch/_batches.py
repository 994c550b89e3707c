"""Batches and outputs: what loaders give and models return, brought to one form."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunekit.backend_torch._nested import is_record, map_fields
from prunekit.core.errors import DataError, InputError

__all__ = [
    "auxiliary_of", "call", "check_classes", "check_targets", "device_of", "evaluating", "input_batches", "logits_of",
    "pair", "to_device",
]  # fmt: skip

_CHUNK = 256


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def to_device(value: Any, device: torch.device) -> Any:
    """Arrays as tensors, and tensors on a device, also inside tuples, lists, dicts and dataclasses."""
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value).to(device)
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        moved = [to_device(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return map_fields(lambda item: to_device(item, device), value) if is_record(value) else value


def call(model: nn.Module, inputs: Any) -> Any:
    """Outputs for one tensor, a tuple of positional inputs, or a dict of keyword inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def pair(batch: Any, device: torch.device) -> tuple[Any, Tensor]:
    """Inputs (see :func:`call`) and targets of a batch, on a device; whole numbers come as int64.

    Raises:
        DataError: The batch is not an ``(inputs, targets)`` pair, or the two do not belong together.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(
            f"a batch must be a pair (inputs, targets), got {_describe(batch)}; wrap the loader so that it gives pairs"
        )
    inputs, targets = to_device(batch[0], device), to_device(batch[1], device)
    first = next((t for t in tree_leaves(inputs) if isinstance(t, Tensor)), None)
    if first is None or not isinstance(targets, Tensor):
        raise DataError(f"inputs and targets of a batch must be tensors or arrays, got {_describe(batch)}")
    if len(first) != len(targets) or len(first) == 0:
        raise DataError(
            f"a batch must have one target for each input, got {len(first)} inputs and {len(targets)} targets"
        )
    return inputs, targets if targets.is_floating_point() else targets.long()


def check_targets(logits: Tensor, targets: Tensor) -> None:
    """Refuse a data set of other classes, which an accelerator would only answer with a crash.

    Raises:
        DataError: The outputs are not those of a classifier, or a target is not one of its classes.
    """
    if logits.dim() != 2 or targets.dim() != 1 or targets.is_floating_point():
        raise DataError(
            "a classifier's outputs must be (N, classes) and its targets whole numbers (N,), got "
            f"{tuple(logits.shape)} and {tuple(targets.shape)} of {targets.dtype}"
        )
    if int(targets.min()) < 0:
        raise DataError(f"targets must be classes from 0, got {int(targets.min())}; number the classes from 0")
    check_classes(targets, logits.shape[1])


def check_classes(targets: Tensor, count: int) -> None:
    """Refuse targets beyond the classes of a network.

    Raises:
        DataError: A target is too large.
    """
    if int(targets.max()) >= count:
        raise DataError(
            f"targets must be classes of the network, got {int(targets.max())} for {count} outputs; "
            "build the network with num_classes of the data"
        )


def input_batches(inputs: Iterable[Any] | Any, device: torch.device) -> Iterator[Any]:
    """Batches of inputs: of one tensor in handy parts, of an iterable one by one, of pairs the first.

    Each is what :func:`call` takes.

    Raises:
        InputError: It is neither a tensor, an array nor an iterable of batches.
    """
    if isinstance(inputs, np.ndarray):
        inputs = torch.as_tensor(inputs)
    if isinstance(inputs, Tensor):
        for part in inputs.split(_CHUNK):
            yield part.to(device)
        return
    if not isinstance(inputs, Iterable):
        raise InputError(f"inputs must be a tensor, an array or an iterable of batches, got {_describe(inputs)}")
    for batch in inputs:
        yield to_device(batch[0] if isinstance(batch, (tuple, list)) else batch, device)


def logits_of(outputs: Any) -> Tensor:
    """The main output of a network: itself, its first, or the one called ``logits`` or ``out``.

    Raises:
        InputError: There is no tensor in it.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        for name in ("logits", "out"):
            if isinstance(outputs.get(name), Tensor):
                return outputs[name]
    elif isinstance(getattr(outputs, "logits", None), Tensor):
        return outputs.logits
    elif isinstance(outputs, (tuple, list)) and outputs and isinstance(outputs[0], Tensor):
        return outputs[0]
    raise InputError(f"a network must return a tensor, or a tuple or dict that holds one, got {_describe(outputs)}")


def auxiliary_of(outputs: Any) -> list[Tensor]:
    """Further outputs of a training network that score the same classes (auxiliary classifiers)."""
    main = logits_of(outputs)
    values = outputs.values() if isinstance(outputs, Mapping) else outputs if isinstance(outputs, (tuple, list)) else ()
    return [v for v in values if isinstance(v, Tensor) and v is not main and v.shape == main.shape]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Within the context the model is in inference mode; then every module is as it was."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, training in flags.items():
            module.training = training


def _describe(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)} ({', '.join(type(v).__name__ for v in value[:4])})"
    return type(value).__name__

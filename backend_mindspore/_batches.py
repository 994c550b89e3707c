"""Batches and outputs: what loaders give and networks return, brought to one form."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor, nn
from mindspore import dtype as mstype
from numpy.typing import NDArray

from prunekit.core.errors import DataError, InputError

__all__ = [
    "arguments", "batches_of", "call", "check_classes", "check_targets", "evaluating", "input_batches", "logits_of",
    "pair", "pynative", "running", "to_tensors",
]  # fmt: skip

_CHUNK = 256
_MODES = {"pynative": ms.PYNATIVE_MODE, "graph": ms.GRAPH_MODE}


@contextlib.contextmanager
def running(mode: str) -> Iterator[None]:
    """Within the context cells run in a mode, ``"pynative"`` (op by op) or ``"graph"``; then in that of before.

    Raises:
        InputError: There is no such mode.
    """
    if mode not in _MODES:
        raise InputError(f"a mode of MindSpore must be one of {list(_MODES)}, got {mode!r}; name one of them")
    before, wanted = ms.get_context("mode"), _MODES[mode]
    if before == wanted:
        yield
        return
    ms.set_context(mode=wanted)
    try:
        yield
    finally:
        ms.set_context(mode=before)


def pynative() -> AbstractContextManager[None]:
    """Within the context cells run op by op; then in the mode of before."""
    return running("pynative")


class _Rows:
    """A MindSpore dataset as a loader: an epoch has its own order, which depends on the seed alone."""

    def __init__(self, data: ds.Dataset) -> None:
        self._data = data
        self._first: int | None = None

    def __len__(self) -> int:
        return int(self._data.get_dataset_size())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data.create_tuple_iterator(num_epochs=1))

    def set_epoch(self, epoch: int) -> None:
        """Another seed for every epoch: an iterator begins anew from the seed that is set when it is made."""
        if self._first is None:
            self._first = int(ds.config.get_seed())
        ds.config.set_seed((self._first + epoch) % 2**32)


def batches_of(loader: Any) -> Any:
    """A loader that gives a batch at a time; a MindSpore dataset is wrapped, all else comes as it is."""
    return _Rows(loader) if isinstance(loader, ds.Dataset) and not hasattr(loader, "set_epoch") else loader


def to_tensors(value: Any) -> Any:
    """Arrays as tensors, also inside tuples, lists and dicts."""
    if isinstance(value, np.ndarray):
        return Tensor(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return {key: to_tensors(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        moved = [to_tensors(item) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    return value


def arguments(net: nn.Cell, inputs: Any) -> tuple[Any, ...]:
    """Positional inputs of a network, from one tensor, a tuple of them, or a dict of keyword inputs.

    Raises:
        InputError: A keyword is none of the network's.
    """
    if not isinstance(inputs, Mapping):
        return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    try:
        bound = inspect.signature(net.construct).bind(**inputs)
    except TypeError as error:
        raise InputError(f"a dict of inputs must name those of the network, got {sorted(inputs)} ({error})") from error
    bound.apply_defaults()
    return bound.args


def call(net: nn.Cell, inputs: Any) -> Any:
    """Outputs for one tensor, a tuple of positional inputs, or a dict of keyword inputs."""
    return net(*arguments(net, inputs))


def pair(batch: Any) -> tuple[Any, Tensor]:
    """Inputs (see :func:`call`) and targets of a batch; whole numbers come as int32, as losses take them.

    Raises:
        DataError: The batch is not an ``(inputs, targets)`` pair, or the two do not belong together.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(
            f"a batch must be a pair (inputs, targets), got {_describe(batch)}; wrap the loader so that it gives pairs"
        )
    inputs, targets = to_tensors(batch[0]), to_tensors(batch[1])
    first = next(_tensors(inputs), None)
    if first is None or not isinstance(targets, Tensor):
        raise DataError(f"inputs and targets of a batch must be tensors or arrays, got {_describe(batch)}")
    counts = [t.shape[0] if t.ndim else 0 for t in (first, targets)]
    if counts[0] != counts[1] or counts[0] == 0:
        raise DataError(f"a batch must have one target for each input, got {counts[0]} inputs and {counts[1]} targets")
    return inputs, targets if targets.is_floating_point() else targets.astype(mstype.int32)


def check_targets(shape: tuple[int, ...], targets: NDArray[Any]) -> None:
    """Refuse a data set of other classes, for which a loss would be a number without a meaning.

    Args:
        shape: Shape of the network's outputs.
        targets: The targets of the batch.

    Raises:
        DataError: The outputs are not those of a classifier, or a target is not one of its classes.
    """
    if len(shape) != 2 or targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise DataError(
            "a classifier's outputs must be (N, classes) and its targets whole numbers (N,), got "
            f"{tuple(shape)} and {tuple(targets.shape)} of {targets.dtype}"
        )
    check_classes(targets, shape[1])


def check_classes(targets: NDArray[Any], count: int) -> None:
    """Refuse targets that are no classes of a network.

    Raises:
        DataError: A target is negative or too large.
    """
    if int(targets.min()) < 0:
        raise DataError(f"targets must be classes from 0, got {int(targets.min())}; number the classes from 0")
    if int(targets.max()) >= count:
        raise DataError(
            f"targets must be classes of the network, got {int(targets.max())} for {count} outputs; "
            "build the network with num_classes of the data"
        )


def input_batches(inputs: Iterable[Any] | Any) -> Iterator[Any]:
    """Batches of inputs: of one tensor in handy parts, of an iterable one by one, of pairs the first.

    Each is what :func:`call` takes.

    Raises:
        InputError: It is neither a tensor, an array nor an iterable of batches.
    """
    if isinstance(inputs, (np.ndarray, Tensor)):
        for begin in range(0, inputs.shape[0], _CHUNK):
            yield to_tensors(inputs[begin : begin + _CHUNK])
        return
    inputs = batches_of(inputs)
    if not isinstance(inputs, Iterable):
        raise InputError(f"inputs must be a tensor, an array or an iterable of batches, got {_describe(inputs)}")
    for batch in inputs:
        yield to_tensors(batch[0] if isinstance(batch, (tuple, list)) else batch)


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
    elif isinstance(outputs, (tuple, list)) and outputs and isinstance(outputs[0], Tensor):
        return outputs[0]
    raise InputError(f"a network must return a tensor, or a tuple or dict that holds one, got {_describe(outputs)}")


@contextlib.contextmanager
def evaluating(net: nn.Cell) -> Iterator[nn.Cell]:
    """Within the context the network is in inference mode; then every cell is as it was."""
    flags = [(cell, cell.training) for _, cell in net.cells_and_names()]
    # the phase is part of a compiled graph's name: a graph of another mode is not taken by mistake
    phase = net.phase
    net.set_train(False)
    try:
        yield net
    finally:
        for cell, training in flags:
            cell.add_flags(training=training)
        net.phase = phase


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _describe(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)} ({', '.join(type(v).__name__ for v in value[:4])})"
    return type(value).__name__

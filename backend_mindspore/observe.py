"""What a network gives on data: predictions, scores, channel activations and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype
from numpy.typing import NDArray

from prunekit.backend_mindspore._batches import (
    batches_of,
    call,
    check_targets,
    evaluating,
    input_batches,
    logits_of,
    pair,
    pynative,
)
from prunekit.backend_mindspore._names import is_statistic, parameters
from prunekit.backend_mindspore.cut import clone
from prunekit.backend_mindspore.state import to_array
from prunekit.backend_mindspore.statistics import recalibrate
from prunekit.backend_mindspore.trace import leaves
from prunekit.core.backend import Tap
from prunekit.core.errors import DataError, InputError
from prunekit.core.observe import check_layers, check_seen, check_taps

__all__ = ["activations", "evaluate", "feature_maps", "gradients", "outputs", "precise", "predict"]

_LAST_AXIS = (nn.Dense, nn.LayerNorm, nn.Embedding)


def predict(net: nn.Cell, inputs: Iterable[Any] | Any) -> NDArray[Any]:
    """Outputs in inference mode, concatenated over batches: ``(N, classes)`` for a classifier.

    Args:
        net: A network.
        inputs: One array or tensor ``(N, …)``, or an iterable of batches; of ``(inputs, targets)`` pairs
            the first is taken.

    Raises:
        DataError: There is no batch.
    """
    with evaluating(net):
        parts = [to_array(logits_of(call(net, batch))) for batch in input_batches(inputs)]
    if not parts:
        raise DataError("predict needs at least one batch, got none")
    return np.concatenate(parts)


def outputs(net: nn.Cell, example: Any) -> list[NDArray[Any]]:
    """All tensors of a network's answer; see ``core.backend.Backend.outputs``."""
    with evaluating(net):
        found = call(net, example)
    return [to_array(t) for t in leaves(found) if t.is_floating_point()]


def precise(net: nn.Cell, example: Any) -> tuple[nn.Cell, Any]:
    """A copy whose statistics fit its weights: else values grow beyond what single precision can tell apart."""
    other = clone(net)
    if isinstance(example, Tensor) and any(is_statistic(name) for name in parameters(other)):
        recalibrate(other, [(example, Tensor(np.zeros(len(example), np.int32)))], 1)
    return other, example


def evaluate(net: nn.Cell, loader: Iterable[Any]) -> dict[str, float]:
    """Share of right answers and mean cross-entropy: ``{"top1": …, "top5": …, "loss": …}``.

    Args:
        net: A classifier.
        loader: ``(inputs, targets)`` batches.

    Raises:
        DataError: There is no batch, or a target is no class of the network.
    """
    sums = np.zeros(3)
    seen = 0
    with evaluating(net):
        for batch in batches_of(loader):
            inputs, targets = pair(batch)
            logits, wanted = to_array(logits_of(call(net, inputs))), to_array(targets)
            check_targets(logits.shape, wanted)
            sums += _scores(logits.astype(np.float64), wanted)
            seen += len(wanted)
    if seen == 0:
        raise DataError("evaluate needs at least one batch, got none")
    top1, top5, loss_sum = (sums / seen).tolist()
    return {"top1": top1, "top5": top5, "loss": loss_sum}


def _scores(logits: NDArray[np.float64], targets: NDArray[Any]) -> NDArray[np.float64]:
    """Sums over a batch: right at first, right among five, cross-entropy."""
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5] == targets[:, None]
    shifted = logits - logits.max(axis=1, keepdims=True)
    chances = shifted[np.arange(len(targets)), targets] - np.log(np.exp(shifted).sum(axis=1))
    return np.array([ranked[:, 0].sum(), ranked.sum(), -chances.sum()], dtype=np.float64)


def activations(net: nn.Cell, loader: Iterable[Any], layers: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Mean absolute output per channel of each named layer over the data: ``(C,)`` each.

    Args:
        net: A network, run in inference mode, op by op whatever the mode is: compiled graphs know no hooks.
        loader: Batches, with or without targets.
        layers: Dotted names of cells; channels are the last axis of dense layers and layer norms and
            axis 1 of all others.

    Raises:
        InputError: A layer is unknown, never ran, or does not return a tensor.
        DataError: There is no batch.
    """
    cells = dict(net.cells_and_names())
    check_layers(layers, cells)
    sums: dict[str, Any] = {}
    counts: dict[str, int] = dict.fromkeys(layers, 0)

    def hook(name: str, cell: nn.Cell) -> Any:
        def record(_cell: nn.Cell, _inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            if not isinstance(output, Tensor) or output.ndim < 2:
                raise InputError(f"a layer must return a tensor (N, …), got {type(output).__name__} from {name!r}")
            axis = output.ndim - 1 if isinstance(cell, _LAST_AXIS) else 1
            rows = np.moveaxis(np.abs(to_array(output)), axis, -1).reshape(-1, output.shape[axis])
            sums[name] = sums.get(name, 0) + rows.sum(axis=0, dtype=np.float64)
            counts[name] += len(rows)

        return record

    handles = [cells[name].register_forward_hook(hook(name, cells[name])) for name in layers]
    seen = 0
    try:
        with pynative(), evaluating(net):
            for batch in input_batches(loader):
                logits_of(call(net, batch)).asnumpy()
                seen += 1
    finally:
        for handle in handles:
            handle.remove()
    if seen == 0:
        raise DataError("activations need at least one batch, got none")
    check_seen(layers, [name for name in layers if counts[name]])
    return {name: sums[name] / counts[name] for name in layers}


def feature_maps(net: nn.Cell, inputs: Any, taps: Sequence[Tap]) -> dict[Tap, NDArray[Any]]:
    """What flows into and out of layers for one batch, in inference mode.

    Args:
        net: A network, run op by op whatever the mode is: compiled graphs know no hooks.
        inputs: One batch, with or without targets.
        taps: ``(layer, "input")`` for its first input, ``(layer, "output")`` for its output. Of a
            layer that runs more than once the last run counts.

    Raises:
        InputError: A layer is unknown, did not run, or has no tensor there.
    """
    cells = dict(net.cells_and_names())
    check_taps(taps, cells)
    seen: dict[Tap, NDArray[Any]] = {}

    def hook(tap: Tap) -> Any:
        def record(_cell: nn.Cell, given: Any, output: Any) -> None:
            value = (given[0] if given else None) if tap[1] == "input" else output
            if not isinstance(value, Tensor):
                raise InputError(
                    f"a tapped layer must have one tensor as {tap[1]}, got {type(value).__name__}: {tap[0]!r}"
                )
            seen[tap] = to_array(value)

        return record

    handles = [cells[tap[0]].register_forward_hook(hook(tap)) for tap in taps]
    try:
        with pynative(), evaluating(net):
            for batch in input_batches([inputs]):
                logits_of(call(net, batch)).asnumpy()
    finally:
        for handle in handles:
            handle.remove()
    check_seen([tap[0] for tap in taps], [tap[0] for tap in seen])
    return seen


def gradients(net: nn.Cell, loader: Iterable[Any]) -> dict[str, NDArray[Any]]:
    """Gradient of the mean cross-entropy over the data for each parameter, by canonical name.

    The network is in inference mode, so that the gradient is that of the network as it will be used and
    does not depend on batches; parameters that the output does not depend on have a gradient of 0. It runs
    op by op, whatever the mode is: a few batches are not worth compiling a graph for.

    Raises:
        DataError: There is no batch, or a target is no class of the network.
    """
    named = {name: p for name, p in parameters(net).items() if not is_statistic(name)}
    frozen = [p for p in named.values() if not p.requires_grad]
    sums = {name: np.zeros(p.shape, np.float64) for name, p in named.items()}
    seen = 0
    try:
        for p in frozen:
            p.requires_grad = True
        with pynative(), evaluating(net):
            for batch in batches_of(loader):
                found, count = _gradients(net, list(named.values()), batch)
                for name, gradient in zip(named, found, strict=True):
                    sums[name] += to_array(gradient)
                seen += count
    finally:
        for p in frozen:
            p.requires_grad = False
    if seen == 0:
        raise DataError("gradients need at least one batch, got none")
    return {name: (total / seen).astype(np.float32) for name, total in sums.items()}


def _gradients(net: nn.Cell, weights: list[Parameter], batch: Any) -> tuple[tuple[Tensor, ...], int]:
    """Gradients of the summed cross-entropy of a batch, and its size."""
    inputs, targets = pair(batch)
    wanted = to_array(targets)

    def loss_of(*_unused: Any) -> Tensor:
        logits = logits_of(call(net, inputs))
        check_targets(logits.shape, wanted)
        chances = ops.log_softmax(logits.astype(mstype.float32), axis=1)
        return -ops.gather_elements(chances, 1, targets.expand_dims(1)).sum()

    _, found = ms.value_and_grad(loss_of, None, ms.ParameterTuple(weights))(*_positional(inputs))
    return found, len(wanted)


def _positional(inputs: Any) -> tuple[Any, ...]:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return tuple(values) if isinstance(inputs, (dict, tuple, list)) else (inputs,)

"""What a network gives on data: predictions, scores, channel activations and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from prunekit.backend_torch._batches import (
    call,
    check_targets,
    device_of,
    evaluating,
    input_batches,
    logits_of,
    pair,
)
from prunekit.backend_torch._copying import deep_copy
from prunekit.backend_torch._double import in_double
from prunekit.backend_torch._nested import map_tensors
from prunekit.backend_torch.state import to_array
from prunekit.backend_torch.trace import leaves
from prunekit.core.backend import Tap
from prunekit.core.errors import DataError, InputError
from prunekit.core.observe import check_layers, check_seen, check_taps

__all__ = [
    "activations",
    "evaluate",
    "feature_maps",
    "gradients",
    "outputs",
    "precise",
    "predict",
    "shares_of",
    "totals",
]

_LAST_AXIS = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)


def predict(model: nn.Module, inputs: Iterable[Any] | Any) -> NDArray[Any]:
    """Outputs in inference mode, concatenated over batches: ``(N, classes)`` for a classifier.

    Args:
        model: A network.
        inputs: One array or tensor ``(N, …)``, or an iterable of batches; of ``(inputs, targets)`` pairs
            the first is taken.

    Raises:
        DataError: There is no batch.
    """
    parts = []
    with evaluating(model), torch.inference_mode():
        for batch in input_batches(inputs, device_of(model)):
            parts.append(to_array(logits_of(call(model, batch))))
    if not parts:
        raise DataError("predict needs at least one batch, got none")
    return np.concatenate(parts)


def outputs(model: nn.Module, example: Any) -> list[NDArray[Any]]:
    """All tensors of a network's answer; see ``core.backend.Backend.outputs``."""
    with evaluating(model), torch.inference_mode(), in_double(model):
        return [to_array(t) for t in leaves(call(model, example)) if t.is_floating_point()]


def precise(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """A copy in double precision, and the example likewise."""

    def double(value: torch.Tensor) -> torch.Tensor:
        return value.double() if value.is_floating_point() else value

    memo: dict[int, Any] = {}  # converted one by one: a copy that is converted as a whole takes half as much again
    for tensor in (*model.parameters(), *model.buffers()):
        other = tensor.detach().to(torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True)
        memo[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else other
    return deep_copy(model, memo).double(), map_tensors(double, example)


def evaluate(model: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
    """Share of right answers and mean cross-entropy: ``{"top1": …, "top5": …, "loss": …}``.

    Args:
        model: A classifier.
        loader: ``(inputs, targets)`` batches.

    Raises:
        DataError: There is no batch, or a target is no class of the network.
    """
    return shares_of(totals(model, loader))


def totals(model: nn.Module, loader: Iterable[Any]) -> Tensor:
    """Sums over the examples that :func:`shares_of` divides: right, in the first five, loss, examples; ``(4,)``."""
    device = device_of(model)
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    with evaluating(model), torch.inference_mode():
        for batch in loader:
            inputs, targets = pair(batch, device)
            logits = logits_of(call(model, inputs))
            check_targets(logits, targets)
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
            loss = F.cross_entropy(logits.float(), targets, reduction="sum")
            sums[:3] += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss]).double()
            sums[3] += len(targets)
    return sums


def shares_of(sums: Tensor) -> dict[str, float]:
    """What :func:`evaluate` returns, of the sums of :func:`totals`.

    Raises:
        DataError: There was no batch.
    """
    top1, top5, loss, seen = sums.tolist()
    if seen == 0:
        raise DataError("evaluate needs at least one batch, got none")
    return {"top1": top1 / seen, "top5": top5 / seen, "loss": loss / seen}


def activations(model: nn.Module, loader: Iterable[Any], layers: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Mean absolute output per channel of each named layer over the data: ``(C,)`` each.

    Args:
        model: A network, run in inference mode.
        loader: Batches, with or without targets.
        layers: Dotted names of modules; channels are the last axis of linear layers and layer norms and
            axis 1 of all others.

    Raises:
        InputError: A layer is unknown, never ran, or does not return a tensor.
        DataError: There is no batch.
    """
    modules = dict(model.named_modules())
    check_layers(layers, modules)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = dict.fromkeys(layers, 0)

    def hook(name: str, module: nn.Module) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            if not isinstance(output, Tensor) or output.dim() < 2:
                raise InputError(f"a layer must return a tensor (N, …), got {type(output).__name__} from {name!r}")
            axis = output.dim() - 1 if isinstance(module, _LAST_AXIS) else 1
            rows = output.detach().abs().movedim(axis, -1).flatten(0, -2)
            sums[name] = sums.get(name, 0) + rows.sum(0, dtype=torch.float64)
            counts[name] += len(rows)

        return record

    handles = [modules[name].register_forward_hook(hook(name, modules[name])) for name in layers]
    seen = 0
    try:
        with evaluating(model), torch.inference_mode():
            for batch in input_batches(loader, device_of(model)):
                call(model, batch)
                seen += 1
    finally:
        for handle in handles:
            handle.remove()
    if seen == 0:
        raise DataError("activations need at least one batch, got none")
    check_seen(layers, [name for name in layers if counts[name]])
    return {name: (sums[name] / counts[name]).cpu().numpy() for name in layers}


def feature_maps(model: nn.Module, inputs: Any, taps: Sequence[Tap]) -> dict[Tap, NDArray[Any]]:
    """What flows into and out of layers for one batch, in inference mode.

    Args:
        model: A network.
        inputs: One batch, with or without targets.
        taps: ``(layer, "input")`` for its first input, ``(layer, "output")`` for its output. Of a
            layer that runs more than once the last run counts.

    Raises:
        InputError: A layer is unknown, did not run, or has no tensor there.
    """
    modules = dict(model.named_modules())
    check_taps(taps, modules)
    seen: dict[Tap, NDArray[Any]] = {}

    def hook(tap: Tap) -> Any:
        def record(_module: nn.Module, given: Any, output: Any) -> None:
            value = (given[0] if given else None) if tap[1] == "input" else output
            if not isinstance(value, Tensor):
                raise InputError(
                    f"a tapped layer must have one tensor as {tap[1]}, got {type(value).__name__}: {tap[0]!r}"
                )
            # a copy: what follows may work in place
            seen[tap] = to_array(value.detach())

        return record

    handles = [modules[tap[0]].register_forward_hook(hook(tap)) for tap in taps]
    try:
        with evaluating(model), torch.inference_mode():
            for batch in input_batches([inputs], device_of(model)):
                call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    check_seen([tap[0] for tap in taps], [tap[0] for tap in seen])
    return seen


def gradients(model: nn.Module, loader: Iterable[Any]) -> dict[str, NDArray[Any]]:
    """Gradient of the mean cross-entropy over the data for each parameter, by name.

    The network is in inference mode, so that the gradient is that of the network as it will be used and
    does not depend on batches; parameters that the output does not depend on have a gradient of 0. The
    parameters' own ``grad`` is left alone.

    Raises:
        DataError: There is no batch, or a target is no class of the network.
    """
    device = device_of(model)
    named = dict(model.named_parameters())
    frozen = [p for p in named.values() if not p.requires_grad]
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    seen = 0
    try:
        for p in frozen:
            p.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for batch in loader:
                inputs, targets = pair(batch, device)
                logits = logits_of(call(model, inputs))
                check_targets(logits, targets)
                loss = F.cross_entropy(logits, targets, reduction="sum")
                found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
                for name, gradient in zip(named, found, strict=True):
                    if gradient is not None:
                        sums[name] += gradient
                seen += len(targets)
    finally:
        for p in frozen:
            p.requires_grad_(False)
    if seen == 0:
        raise DataError("gradients need at least one batch, got none")
    return {name: to_array(total / seen) for name, total in sums.items()}

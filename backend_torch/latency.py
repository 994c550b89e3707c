"""How long a forward pass takes on the device where the model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunekit.backend_torch._batches import device_of, evaluating, to_device
from prunekit.core._timing import cpu_name, time_passes
from prunekit.core.backend import Latency

__all__ = ["device_name", "latency"]


def latency(model: nn.Module, example: Any, *, runs: int = 50, warmup: int = 10) -> Latency:
    """Time forward passes in inference mode.

    Args:
        model: A network; it is timed where its parameters are.
        example: One input, a tuple of positional inputs, or a dict of keyword inputs.
        runs: Timed passes, each by itself.
        warmup: Passes before them.

    Raises:
        InputError: ``runs`` is below 1 or ``warmup`` below 0.
    """
    device = device_of(model)
    example = to_device(example, device)
    if isinstance(example, Mapping):
        args, kwargs = (), dict(example)
    else:
        args, kwargs = (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}
    inputs = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    with evaluating(model), torch.inference_mode():
        return time_passes(
            lambda: model(*args, **kwargs),
            runs=runs,
            warmup=warmup,
            device=device_name(device),
            shape=tuple(inputs[0].shape) if inputs else (),
            wait=wait,
        )


def device_name(device: torch.device) -> str:
    """What a device is, e.g. ``"cpu: AMD EPYC, 2 threads"``."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu: {cpu_name()}, {torch.get_num_threads()} threads"
    return str(device)

"""How long a forward pass takes on the device that MindSpore runs on."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn

from prunekit.backend_mindspore._batches import arguments, evaluating, logits_of, to_tensors
from prunekit.core._timing import cpu_name, time_passes
from prunekit.core.backend import Latency

__all__ = ["device_name", "latency"]


def latency(net: nn.Cell, example: Any, *, runs: int = 50, warmup: int = 10) -> Latency:
    """Time forward passes in inference mode, in the mode (PYNATIVE or GRAPH) that is set.

    Args:
        net: A network.
        example: One input, a tuple of positional inputs, or a dict of keyword inputs.
        runs: Timed passes, each by itself.
        warmup: Passes before them; in GRAPH mode the first compiles.

    Raises:
        InputError: ``runs`` is below 1 or ``warmup`` below 0.
    """
    args = arguments(net, to_tensors(example))
    inputs = [v for v in args if isinstance(v, Tensor)]
    with evaluating(net):
        return time_passes(
            # the output is fetched: a call returns before the device has finished
            lambda: logits_of(net(*args)).asnumpy(),
            runs=runs,
            warmup=warmup,
            device=device_name(),
            shape=tuple(inputs[0].shape) if inputs else (),
        )


def device_name() -> str:
    """What the device is, e.g. ``"cpu: AMD EPYC, 2 threads"`` or ``"Ascend"``."""
    target = str(ms.get_context("device_target"))
    if target != "CPU":
        return target
    return f"cpu: {cpu_name()}, {ms.get_context('runtime_num_threads')} threads"

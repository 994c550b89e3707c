"""Random numbers from a seed, without touching those of the process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["seeded"]


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Within the context, torch draws from a seed; then its generators go on as they were.

    Args:
        seed: The seed.
        device: An accelerator whose generator is seeded besides the CPU's.
    """
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # not torch.manual_seed: it seeds every accelerator, also those that are not put back
        torch.default_generator.manual_seed(seed)
        for each in devices:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield

"""Networks in double precision whose code makes numbers in single precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["in_double"]


def in_double(model: nn.Module) -> AbstractContextManager[Any]:
    """Within the context a network in double precision makes its own numbers in double, too: ``.float()`` and the like.

    For other networks it does nothing.
    """
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return _InDouble() if kinds == {torch.float64} else nullcontext()


class _InDouble(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = torch.utils._pytree.tree_map_only(
            torch.dtype, lambda kind: torch.float64 if kind is torch.float32 else kind, (args, kwargs or {})
        )
        return func(*args, **kwargs)

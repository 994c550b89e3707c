"""The table of PyTorch's ops: a function for each, which the modules beside this one register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["MAKERS", "Args", "Maker", "aten", "axes_of", "plain", "tensors_of", "text_of"]

Args = dict[str, Any]
Maker = Callable[[Args, Any], tuple[str, list[str], dict[str, Any]]]
"""Arguments by schema name, output → kind, schema names of the tensor operands, attributes."""

MAKERS: dict[str, Maker] = {}


def aten(*names: str) -> Callable[[Maker], Maker]:
    """Enter a function under the names of the ops that it describes."""

    def register(maker: Maker) -> Maker:
        for name in names:
            assert name not in MAKERS, f"{name} is described twice"
            MAKERS[name] = maker
        return maker

    return register


def plain(kind: str, *names: str) -> None:
    """Ops of one kind whose shapes say all."""
    aten(*names)(lambda a, out: (kind, [k for k, v in a.items() if tensors_of(v)], {}))


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Tensors in an argument or a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors_of(v)]
    return []


def axes_of(dim: Any, rank: int) -> tuple[int, ...]:
    """Axes that an argument ``dim`` names: all of them where it names none."""
    if dim is None or dim == []:
        return tuple(range(rank))
    return tuple(d % max(rank, 1) for d in ([dim] if isinstance(dim, int) else dim))


_LARGEST = {torch.finfo(t).max for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def text_of(number: Any) -> str:
    """A number as text; the least of a type, as masks hold it, is that of another precision in a converted network."""
    if isinstance(number, float) and abs(number) in _LARGEST:
        return "-largest" if number < 0 else "largest"
    return repr(number)

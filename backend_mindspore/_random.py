"""Random numbers from a seed, without touching those of the process."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import mindspore as ms
import mindspore.dataset as ds
from mindspore import Tensor, nn, ops

from prunekit.core._seeds import seeded as seeded_plain

__all__ = ["seeded"]

_LARGEST = 2**31 - 1

# the package has a function of that name, which hides the module
global_seed = importlib.import_module("mindspore.common.seed")


@contextlib.contextmanager
def seeded(seed: int, net: nn.Cell | None = None) -> Iterator[None]:
    """Within the context, MindSpore and NumPy draw from a seed; then their generators go on as they were.

    Args:
        seed: The seed.
        net: A network whose dropout layers draw from the seed too: each holds a seed of its own, which it
            was given when it was made. (``ops.dropout`` called in ``construct`` is seeded, but on a CPU
            MindSpore does not draw the same again after some calls.)
    """
    before = _state()
    # set_seed seeds NumPy as well
    with seeded_plain(seed):
        try:
            ms.set_seed(seed)
            ms.manual_seed(seed)
            with _dropouts(net, seed) if net is not None else contextlib.nullcontext():
                yield
        finally:
            _put_back(before)


def _state() -> dict[str, Any]:
    # there is no public way to say again that no seed was set
    return {
        "seed": global_seed._GLOBAL_SEED,
        "kernels": dict(global_seed._KERNEL_SEED),
        "data": ds.config.get_seed(),
        "generator": ms.get_rng_state(),
    }


def _put_back(state: dict[str, Any]) -> None:
    global_seed._GLOBAL_SEED = state["seed"]
    global_seed._KERNEL_SEED.clear()
    global_seed._KERNEL_SEED.update(state["kernels"])
    ds.config.set_seed(state["data"])
    ms.set_rng_state(state["generator"])


class _Dropout(nn.Cell):
    """Dropout that draws the same again from the same seed.

    MindSpore's own goes on drawing where it stopped, and on a CPU what it draws depends on how many threads
    it has found to be the fastest.
    """

    def __init__(self, keep: float, seed: int, number: int) -> None:
        super().__init__()
        self.keep = keep
        # two seeds of 0 would mean: draw them
        self.uniform = ops.UniformReal(seed=seed % _LARGEST + 1, seed2=number)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = (self.uniform(x.shape) < self.keep).astype(x.dtype)
        return x * mask / self.keep, mask


@contextlib.contextmanager
def _dropouts(net: nn.Cell, seed: int) -> Iterator[None]:
    """Dropout layers with operators that draw from a seed; then they have their own again."""
    replaced: list[tuple[nn.Cell, str, ops.Primitive]] = []
    try:
        for cell in {id(c): c for _, c in net.cells_and_names()}.values():
            for name, primitive in list(cell._primitives.items()):
                if isinstance(primitive, ops.Dropout):
                    replaced.append((cell, name, primitive))
                    setattr(cell, name, _Dropout(primitive.keep_prob, seed, len(replaced)))
        yield
    finally:
        for cell, name, primitive in replaced:
            cell._cells.pop(name, None)
            setattr(cell, name, primitive)

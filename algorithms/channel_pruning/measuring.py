"""What layers of the pruned network read, and what the base network gives in their place, at random positions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.channel_pruning.moments import IntArray, Sample
from prunekit.algorithms.channel_pruning.readers import Reader, check_finite
from prunekit.algorithms.channel_pruning.shortcuts import corrected
from prunekit.core.analysis import Analysis
from prunekit.core.backend import Tap
from prunekit.core.coupling.groups import Coupling
from prunekit.core.plan import PruningPlan

__all__ = ["Alive", "Sampler", "alive"]

Maps = Mapping[Tap, NDArray[Any]]


@dataclass(frozen=True)
class Alive:
    """What is left of a layer: input and output channels, sorted."""

    inputs: IntArray
    outputs: IntArray


def alive(coupling: Coupling, plan: PruningPlan, readers: Iterable[Reader]) -> dict[str, Alive]:
    """What a plan leaves of layers, by name."""
    cuts = coupling.cuts(plan)
    shapes = {t.name: t.shape for t in coupling.graph.tensors if t.name}
    result = {}
    for reader in readers:
        kept, shape = cuts.get(reader.weight, {}), shapes[reader.weight]
        result[reader.layer] = Alive(kept.get(1, np.arange(shape[1])), kept.get(0, np.arange(shape[0])))
    return result


@dataclass(frozen=True)
class Sampler:
    """Takes rows and targets of layers at the same random positions in both networks, and adds up their moments.

    Attributes:
        base: The base network.
        batches: Calibration batches.
        points: Positions in each output of a layer.
        seed: Seed of the positions.
    """

    base: Analysis
    batches: Iterable[Any]
    points: int
    seed: int

    def __call__(
        self, readers: Sequence[Reader], left: Mapping[str, Alive], current: Analysis | None, plan: PruningPlan
    ) -> dict[str, Sample]:
        """Moments of layers, by name.

        Args:
            readers: The layers.
            left: Their channels that are left.
            current: The pruned network, everything that is dropped being zero; None stands for the base network.
            plan: What it keeps.

        Raises:
            InputError: Activations are not finite.
        """
        shortcuts = [r.shortcut.tap for r in readers if r.shortcut and r.shortcut.tap] if current else []
        goals = list(dict.fromkeys([*((r.layer, "output") for r in readers), *shortcuts]))
        reads = list(dict.fromkeys([*((r.layer, "input") for r in readers), *shortcuts]))
        result: dict[str, Sample] = {}
        for number, batch in enumerate(self.batches):
            if current is None:
                wanted = seen = self._maps(self.base, batch, [*goals, *reads])
            else:
                wanted = self._maps(self.base, batch, goals)
                with _as_cut(current, plan):
                    seen = self._maps(current, batch, reads)
            for reader in readers:
                rng = np.random.default_rng([self.seed, reader.position, number])
                x, y = self._rows(reader, wanted, seen, left[reader.layer], rng)
                sample = Sample.of(x, y, images=len(wanted[reader.layer, "output"]))
                result[reader.layer] = result[reader.layer] + sample if reader.layer in result else sample
        return result

    def _maps(self, analysis: Analysis, batch: Any, taps: Sequence[Tap]) -> Maps:
        return analysis.backend.feature_maps(analysis.model, batch, taps)

    def _rows(
        self, reader: Reader, wanted: Maps, seen: Maps, left: Alive, rng: np.random.Generator
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """What a layer reads, ``(n, inputs · K)``, and what it should give, ``(n, outputs)``."""
        window = reader.window
        if window is None:
            raise ValueError(f"{reader.layer} has no window")
        inputs, outputs = seen[reader.layer, "input"], wanted[reader.layer, "output"]
        positions = window.positions(outputs, self.points, rng)
        y = window.answers(outputs, positions)
        tap = reader.shortcut.tap if reader.shortcut else None
        if tap is not None and tap in seen and seen[tap].shape == outputs.shape:
            y = corrected(y, window.answers(wanted[tap], positions), window.answers(seen[tap], positions), reader.scale)
        inputs = np.take(inputs, left.inputs, axis=1 if window.kernel else -1)
        x = window.rows(inputs, positions)
        for values in (x, y):
            check_finite(reader.layer, values)
        return x, y[:, left.outputs]


def _as_cut(current: Analysis, plan: PruningPlan) -> contextlib.AbstractContextManager[Any]:
    """Zeros are as good as gone, but for ops that take statistics over channels."""
    exact: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    if current.coupling.compress:
        return current.backend.masked(current, plan)
    return exact()

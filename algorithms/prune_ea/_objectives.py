"""What models are worth: objectives by name, as numbers that are all to be minimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prunekit.core.candidates import Candidate
from prunekit.core.cost import Cost
from prunekit.core.encoding import ZeroOneEncoding

__all__ = ["ALWAYS", "Objectives"]

FloatArray = NDArray[np.float64]

ALWAYS = ("macs", "params")
"""Costs that are noted of every model, whether they are objectives or not."""


class Objectives:
    """The objectives of a search: the error, and costs as shares of the unpruned network's.

    Args:
        names: Objectives by name.
        encoding: What encodings mean.
        latency: Seconds that the unpruned network takes, where latency is an objective.
    """

    def __init__(self, names: Sequence[str], encoding: ZeroOneEncoding, latency: float | None = None) -> None:
        self.names = tuple(names)
        self.costs = ALWAYS + tuple(n for n in names if n in ("memory", "bandwidth"))
        """Names of the costs that follow from the widths alone."""
        self._encoding, self._cost = encoding, Cost(encoding.coupling)
        self.full: dict[str, float] = {
            **self._cost.full(self.costs),
            **({} if latency is None else {"latency": latency}),
        }
        """Costs of the unpruned network."""

    def figures(self, vectors: NDArray[np.bool_]) -> list[Mapping[str, float]]:
        """Costs of each model of a population ``(n, length)``; nothing is built for it."""
        table = self._cost.of(self._encoding.widths(vectors), self.costs)
        columns = [table[name].tolist() for name in self.costs]
        return [dict(zip(self.costs, row, strict=True)) for row in zip(*columns, strict=True)]

    def values(self, candidates: Sequence[Candidate]) -> FloatArray:
        """What candidates are worth, ``(n, objectives)``: the less, the better."""
        table = np.empty((len(candidates), len(self.names)))
        for column, name in enumerate(self.names):
            if name == "accuracy":
                table[:, column] = [1 - c.score for c in candidates]
            else:
                table[:, column] = [c.figures[name] / self.full[name] for c in candidates]
        return table

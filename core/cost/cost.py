"""Cost of a network at any group widths: compiled once, then one vectorised call per population."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core._names import nearest
from prunekit.core.cost.conventions import Convention, find_convention
from prunekit.core.cost.counters import Counter, Monomial
from prunekit.core.coupling.groups import Coupling
from prunekit.core.errors import ConfigError, InputError

__all__ = ["METRICS", "Cost", "LayerCost"]

METRICS = ("params", "macs", "flops", "memory", "bandwidth")

IntArray = NDArray[np.int64]

_CELLS = 1 << 21  # candidates × monomials held at a time


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer.

    Attributes:
        layer: Dotted name.
        figures: Cost by metric.
    """

    layer: str
    figures: Mapping[str, int]


@dataclass(frozen=True)
class _Polynomial:
    """A sum of monomials, those with the same factors added up.

    Attributes:
        forms: Slope and base of the axis lengths that occur, ``(G, F + 1)`` and ``(F + 1,)``;
            the last is the constant 1.
        factors: Columns of ``forms``, one row per degree: ``(D, M)``.
        coefficients: Array ``(M,)``, for a whole batch.
        batch: Samples in it.
    """

    forms: tuple[NDArray[np.float64], NDArray[np.float64]]
    factors: IntArray
    coefficients: IntArray
    batch: int

    def values(self, widths: IntArray) -> IntArray:
        """Value of each monomial for the batch, ``(n, M)`` for widths ``(n, G)``."""
        slope, base = self.forms
        lengths = np.rint(widths.astype(np.float64) @ slope + base).astype(np.int64)
        product: IntArray = lengths[:, self.factors[0]]
        for row in self.factors[1:]:
            product *= lengths[:, row]
        product *= self.coefficients
        return product

    def total(self, widths: IntArray) -> IntArray:
        """Sum of the monomials for one sample, ``(n,)`` for widths ``(n, G)``."""
        step = max(_CELLS // max(len(self.coefficients), 1), 1)
        result = np.empty(len(widths), dtype=np.int64)
        for start in range(0, len(widths), step):
            part = slice(start, start + step)
            result[part] = self.values(widths[part]).sum(axis=1)
        return -(-result // self.batch)


class Cost:
    """Parameters, MACs, FLOPs, memory and bandwidth as functions of group widths.

    Figures are of one sample: what the traced batch costs, divided by its size (parameters are
    counted, and read, once). ``macs`` are multiply-accumulates of conv, linear, matmul and
    attention; ``flops`` are twice that plus all other arithmetic: 1 per element for biases,
    activations, other elementwise ops, sums, and average pool inputs; 1 per window cell of a max
    pool; 2 per batch norm element, 5 per softmax element, 7 per layer or group norm element.
    ``memory`` is the number of bytes of all activations together (as training keeps them), and
    ``bandwidth`` the bytes that all ops read and write; ops that only rearrange count as free.
    Other systems count in other ways: see :func:`prunekit.core.cost.conventions`.

    Training-mode ops (auxiliary heads) cost nothing, but their parameters count.

    Args:
        coupling: A coupled network.
        convention: Name of a way of counting, or a :class:`Convention`.
        batch: Samples in the traced input; by default the first axis of the first input.

    Raises:
        ConfigError: The convention is unknown.
    """

    def __init__(
        self, coupling: Coupling, convention: str | Convention = "prunekit", *, batch: int | None = None
    ) -> None:
        self.coupling = coupling
        self.convention = find_convention(convention)
        self._batch = _batch(coupling) if batch is None else batch
        self._counter = Counter(coupling.graph, coupling.forms, self._batch)
        self._monomials = _by_counter(self._counter.monomials())
        _, first, same = np.unique(
            np.column_stack([coupling.forms.slope, coupling.forms.base]), axis=0, return_index=True, return_inverse=True
        )
        self._same = first[same.ravel()]  # form → the first that is equal
        self._compiled: dict[str, _Polynomial] = {}

    def of(self, widths: ArrayLike, metrics: Sequence[str] = ("params", "macs")) -> dict[str, IntArray]:
        """Cost of a population.

        Args:
            widths: Channels kept per group, ``(n, G)`` or ``(G,)``, in the order of the groups.
            metrics: Which figures; see :data:`METRICS`.

        Returns:
            One array ``(n,)`` of exact integers for each metric.

        Raises:
            ConfigError: A metric is unknown.
            InputError: The widths do not fit the network.
        """
        checked = self._check(widths)
        return {metric: self._polynomial(metric).total(checked) for metric in metrics}

    def full(self, metrics: Sequence[str] = METRICS) -> dict[str, int]:
        """Cost of the unpruned network."""
        return {m: int(v[0]) for m, v in self.of(self.coupling.widths, metrics).items()}

    def per_layer(
        self, widths: ArrayLike | None = None, metrics: Sequence[str] = ("params", "macs")
    ) -> tuple[LayerCost, ...]:
        """Cost of each layer of one network, in the order of the layers.

        Args:
            widths: Channels kept per group, ``(G,)``; by default all.
            metrics: Which figures.

        Returns:
            One row per layer that costs something. The rows add up to the cost of the network.

        Raises:
            ConfigError: A metric is unknown.
            InputError: The widths do not fit the network.
        """
        row = self._check(self.coupling.widths if widths is None else widths)
        if len(row) != 1:
            raise InputError(f"per_layer takes the widths of one network, got {len(row)}; call it for each")
        table: dict[str, dict[str, int]] = {name.rpartition(".")[0]: {} for name in self.coupling.graph.names}
        for metric in metrics:
            terms = self._terms(metric)
            values = self._compile(terms, merge=False).values(row)[0]
            for (_, monomial), value in zip(terms, values, strict=True):
                figures = table.setdefault(monomial.owner, {})
                figures[metric] = figures.get(metric, 0) - int(-value // self._batch)
        return tuple(
            LayerCost(layer, {m: figures.get(m, 0) for m in metrics})
            for layer, figures in table.items()
            if any(figures.values())
        )

    def _check(self, widths: ArrayLike) -> IntArray:
        array: NDArray[Any] = np.atleast_2d(np.asarray(widths))
        groups = len(self.coupling.groups)
        if array.ndim != 2 or array.shape[1] != groups:
            raise InputError(f"widths must have shape (n, {groups}) or ({groups},), got {np.shape(widths)}")
        if groups and not np.issubdtype(array.dtype, np.integer):
            raise InputError(f"widths must be integers, got {array.dtype}; round them")
        checked: IntArray = array.astype(np.int64)
        if (checked < 0).any() or (checked > self.coupling.widths).any():
            raise InputError("widths must lie between 0 and the size of their group, got some that do not")
        return checked

    def _terms(self, metric: str) -> list[tuple[int, Monomial]]:
        """(weight, monomial) of everything that counts in a metric."""
        weights: Mapping[str, int]
        if metric in ("params", "macs", "flops"):
            weights = getattr(self.convention, metric)
        elif metric in METRICS:
            weights = {metric: 1}
            if metric not in self._monomials:
                self._monomials.update(_by_counter(self._counter.traffic()))
        else:
            raise ConfigError(f"metric must be a known name, got {metric!r}; {nearest(str(metric), METRICS)}")
        return [(weight, m) for name, weight in weights.items() for m in self._monomials.get(name, [])]

    def _polynomial(self, metric: str) -> _Polynomial:
        if metric not in self._compiled:
            self._compiled[metric] = self._compile(self._terms(metric), merge=True)
        return self._compiled[metric]

    def _compile(self, terms: list[tuple[int, Monomial]], merge: bool) -> _Polynomial:
        merged: dict[tuple[int, ...], int] = {}
        for number, (weight, monomial) in enumerate(terms):
            key = tuple(sorted(int(self._same[f]) for f in monomial.factors))
            # a negative number keeps terms apart; it is dropped again below
            key = key if merge else (-number - 1, *key)
            merged[key] = merged.get(key, 0) + weight * monomial.coefficient
        keys = [tuple(f for f in key if f >= 0) for key in merged]
        used = sorted({f for key in keys for f in key})
        column = {f: k for k, f in enumerate(used)}
        degree = max((len(key) for key in keys), default=1) or 1
        factors = np.full((degree, len(keys)), len(used), dtype=np.int64)
        for k, key in enumerate(keys):
            factors[: len(key), k] = [column[f] for f in key]
        forms = self.coupling.forms
        slope = np.zeros((len(self.coupling.groups), len(used) + 1))
        slope[:, :-1] = forms.slope[used].T
        base = np.append(forms.base[used], 1).astype(np.float64)
        return _Polynomial((slope, base), factors, np.array(list(merged.values()), dtype=np.int64), self._batch)


def _by_counter(monomials: Iterable[Monomial]) -> dict[str, list[Monomial]]:
    result: dict[str, list[Monomial]] = {}
    for monomial in monomials:
        result.setdefault(monomial.counter, []).append(monomial)
    return result


def _batch(coupling: Coupling) -> int:
    graph = coupling.graph
    shape = graph.tensors[graph.inputs[0]].shape if graph.inputs else ()
    return max(shape[0], 1) if shape else 1

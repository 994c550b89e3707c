"""The PruningNet of MetaPruning (Liu et al., ICCV 2019) for any network, as far as no framework is needed.

A PruningNet is a network whose weights are made by small fully-connected networks, one a layer, that are
told how wide the layer's groups are. Trained with random widths, it gives weights for all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.core.coupling.groups import Coupling, IntArray
from prunekit.core.errors import InputError
from prunekit.core.graph import Op
from prunekit.core.plan import PruningPlan

__all__ = ["GeneratedWeight", "PruningNetSpec"]

FloatArray = NDArray[np.float32]
Span = tuple[int, int]

_LARGE = 4e9  # bytes
_KINDS = ("conv", "linear")


@dataclass(frozen=True)
class GeneratedWeight:
    """A weight that is made from widths by Linear(k, hidden) → ReLU → Linear(hidden, size).

    Attributes:
        name: Canonical name of the parameter.
        shape: Its full shape.
        groups: Positions of the ``k`` groups whose widths are told: those of its own output and input
            axes, as in the paper, where the first conv has k = 1 and others 2. An axis that is frozen
            has a constant width, for which the bias of the first layer stands.
    """

    name: str
    shape: tuple[int, ...]
    groups: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))

    def spread(self, values: NDArray[np.generic]) -> float:
        """Standard deviation that the weight should begin with.

        Args:
            values: What the layer has now; where that is all but constant, it is that of He et al. (2015).
        """
        usual = float(np.sqrt(2 * self.shape[0] / self.size))
        found = float(np.std(np.asarray(values, dtype=np.float64)))
        return found if found > 1e-3 * usual else usual


@dataclass(frozen=True)
class PruningNetSpec:
    """Which weights are generated, from which widths, and what each width leaves of every parameter.

    Attributes:
        names: Name of each group.
        widths: Full width of each group, shape ``(G,)``.
        free: Positions of the groups that may vary. The others, whose channels are seen by statistics
            (layer norm) or by sums of other than a layer's weights, stay whole: there a channel that is
            zero is not the same as one that is gone.
        weights: The generated weights, in the order of the network.
        hidden: Width of the generators' hidden layer.
        spans: What lies on the groups: parameter → axis → its part (begin, end) of the flat mask.
        mask_group: Group of each entry of the flat mask, shape ``(M,)``.
        mask_channel: Its channel within the group; -1 where it belongs to none and always stays.
    """

    names: tuple[str, ...]
    widths: IntArray
    free: tuple[int, ...]
    weights: tuple[GeneratedWeight, ...]
    hidden: int
    spans: Mapping[str, Mapping[int, Span]]
    mask_group: IntArray = field(repr=False)
    mask_channel: IntArray = field(repr=False)

    @classmethod
    def of(cls, coupling: Coupling, hidden: int = 32) -> PruningNetSpec:
        """The PruningNet of a network.

        Args:
            coupling: Its channel groups.
            hidden: Width of the generators' hidden layer: 32 in the paper's MobileNetV1 and ResNet-50, 64 in
                its MobileNetV2.

        Raises:
            InputError: ``hidden`` is below 1, or the network has no group that may vary.
        """
        if hidden < 1:
            raise InputError(f"hidden must be at least 1, got {hidden}; 32 is usual")
        free = tuple(sorted({i for i, g in enumerate(coupling.groups) if g.neutral} - _summed(coupling)))
        if not free:
            raise InputError(
                f"a PruningNet needs channel groups whose widths may vary, got none among {len(coupling.groups)}; "
                "see what inspect() says of the frozen layers"
            )
        spans, group, channel = _masks(coupling)
        return cls(
            names=tuple(g.name for g in coupling.groups),
            widths=coupling.widths,
            free=free,
            weights=_generated(coupling),
            hidden=hidden,
            spans=spans,
            mask_group=group,
            mask_channel=channel,
        )

    @property
    def parts(self) -> tuple[Span, ...]:
        """The distinct spans: they follow on each other and make up the flat mask."""
        return tuple(sorted({span for axes in self.spans.values() for span in axes.values()}))

    @property
    def seen(self) -> IntArray:
        """Groups that the generators see, one generator after the other."""
        return np.array([group for weight in self.weights for group in weight.groups], dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes that the generators' parameters take in single precision."""
        each = (w.size * (self.hidden + 1) + self.hidden * (len(w.groups) + 1) for w in self.weights)
        return 4 * sum(each)

    def warn(self) -> None:
        """Say so if the generators are large: training takes three times their size, with gradient and momentum."""
        if self.nbytes > _LARGE:
            largest = max(self.weights, key=lambda w: w.size)
            warnings.warn(
                f"the generators of this PruningNet take {self.nbytes / 1e9:.1f} GB and their training about "
                f"{3 * self.nbytes / 1e9:.1f} GB (hidden={self.hidden}; the largest makes {largest.name!r} of "
                f"{largest.size:,} entries); choose a smaller hidden, or ignore the layer when analysing",
                stacklevel=3,
            )

    def check(self, widths: ArrayLike) -> IntArray:
        """Widths as whole numbers, shape ``(G,)``.

        Raises:
            InputError: They are too many or too few, out of range, or a group that must stay whole is cut.
        """
        given = np.asarray(widths)
        if given.shape != self.widths.shape:
            raise InputError(
                f"widths must be one number for each of the {len(self.widths)} groups, got an array of shape "
                f"{given.shape}; take them in the order of coupling.groups"
            )
        with np.errstate(invalid="ignore"):
            whole = np.rint(given.astype(np.float64)).astype(np.int64)
        fixed = np.ones(len(whole), dtype=bool)
        fixed[list(self.free)] = False
        for wrong, rule in (
            (given != whole, "a whole number"),
            (whole < 1, "at least 1"),
            (whole > self.widths, "at most the group's full width"),
            (fixed & (whole < self.widths), "full for a group that is not free"),
        ):
            if wrong.any():
                at = int(np.argmax(wrong))
                raise InputError(
                    f"a width must be {rule}, got {given[at]} for group {self.names[at]!r} of {self.widths[at]} "
                    "channels; vary those in spec.free between 1 and their full widths"
                )
        return whole

    def mask(self, widths: ArrayLike) -> FloatArray:
        """The flat mask ``(M,)``: 1 for the leading channels of each group, 0 for the others."""
        kept = self.check(widths)[self.mask_group]
        return (self.mask_channel < kept).astype(np.float32)

    def masks(self, widths: ArrayLike) -> dict[tuple[str, int], FloatArray]:
        """What widths leave: (parameter, axis) → a factor 0 or 1 for each index of that axis."""
        flat = self.mask(widths)
        return {
            (name, axis): flat[begin:end] for name, axes in self.spans.items() for axis, (begin, end) in axes.items()
        }

    def plan(self, coupling: Coupling, widths: ArrayLike) -> PruningPlan:
        """The plan that cuts the network to these widths: it keeps the leading channels, as MetaPruning does."""
        kept = {name: range(int(n)) for name, n in zip(self.names, self.check(widths), strict=True)}
        return PruningPlan.of(coupling, kept)

    def initial(self, number: int, values: NDArray[np.generic], seed: int) -> dict[str, FloatArray]:
        """The parameters that a generator begins with; the same in every framework.

        Half of the variance of a weight comes from the last bias and half through the hidden layer, which is
        scaled so that its squared length is 1 on average over random widths. So at all widths a generated
        weight begins with the standard deviation that the layer itself has in the network (within about a
        third), and a step of the optimizer moves it about twice as far as it would move that layer.

        Args:
            number: Which of ``weights``.
            values: The weight that the network has now; see :meth:`GeneratedWeight.spread`.
            seed: Of the random numbers.
        """
        weight = self.weights[number]
        rng = np.random.default_rng([seed, number])
        inputs = len(weight.groups)
        first = rng.standard_normal((self.hidden, inputs)) / np.sqrt(inputs)
        shift = rng.standard_normal(self.hidden)
        seen = np.maximum(rng.uniform(size=(256, inputs)) @ first.T + shift, 0)
        length = max(float(np.sqrt((seen**2).sum(axis=1).mean())), 1e-3)
        spread = np.float32(weight.spread(values) * np.sqrt(0.5))
        return {
            "hidden.weight": (first / length).astype(np.float32),
            "hidden.bias": (shift / length).astype(np.float32),
            "output.weight": spread * rng.standard_normal((weight.size, self.hidden), dtype=np.float32),
            "output.bias": spread * rng.standard_normal(weight.size, dtype=np.float32),
        }


def _generated(coupling: Coupling) -> tuple[GeneratedWeight, ...]:
    parameters = coupling.graph.parameters()
    seen: dict[str, list[tuple[bool, int]]] = {}
    for position, group in enumerate(coupling.groups):
        for m in group.members:
            if m.name in parameters and m.kind in _KINDS and m.role in ("out", "in"):
                seen.setdefault(m.name, []).append((m.role == "out", position))
    return tuple(
        GeneratedWeight(name, parameters[name].shape, tuple(dict.fromkeys(p for _, p in sorted(seen[name]))))
        for name in parameters
        if name in seen
    )


def _masks(coupling: Coupling) -> tuple[dict[str, dict[int, Span]], IntArray, IntArray]:
    """Spans of the flat mask, and group and channel of its entries; axes that are alike share a span."""
    parameters = coupling.graph.parameters()
    tables: dict[tuple[str, int], IntArray] = {}
    for position, group in enumerate(coupling.groups):
        for m in group.members:
            if m.name not in parameters:
                continue  # buffers keep their values, as in Backend.zero
            table = tables.setdefault((m.name, m.axis), np.stack([np.zeros(m.length, int), np.full(m.length, -1)]))
            table[0, m.indices] = position
            table[1, m.indices] = np.arange(group.size)[:, None]
    spans: dict[str, dict[int, Span]] = {}
    found: dict[bytes, Span] = {}
    parts: list[IntArray] = []
    end = 0
    for (name, axis), table in tables.items():
        key = table.tobytes()
        if key not in found:
            found[key] = (end, end + table.shape[1])
            end += table.shape[1]
            parts.append(table)
        spans.setdefault(name, {})[axis] = found[key]
    flat = np.concatenate(parts, axis=1)
    return spans, flat[0], flat[1]


def _summed(coupling: Coupling) -> set[int]:
    """Groups over which an op takes statistics or sums, so that what is gone must be left out of it."""
    group_of, _ = coupling.unit_of
    found: set[int] = set()
    for position in coupling.compress:
        op = coupling.graph.all_ops[position]
        for tensor, axes in _axes_summed(op):
            labels = coupling.labels.get(tensor, ())
            for each in labels if axes is None else [labels[axis] for axis in axes if labels]:
                if each is not None:
                    found.update(group_of[each].tolist())
    return found - {-1}


def _axes_summed(op: Op) -> list[tuple[int, tuple[int, ...] | None]]:
    """(tensor, axes) over which an op sums; None for any of them."""
    if op.kind == "matmul":
        return [(op.inputs[0], (-1,)), (op.inputs[1], (-2,))]
    if op.kind == "attention":
        return [(op.inputs[0], (-1,)), (op.inputs[1], (-2, -1))]
    return [(tensor, None) for tensor in op.inputs]

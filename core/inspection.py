"""What a network looks like to a pruner: its groups, what must stay and why, what budgets leave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunekit.core.analysis import Analysis
from prunekit.core.constants import Solved, shortened, solved
from prunekit.core.cost import Cost
from prunekit.core.coupling.groups import ChannelGroup, FrozenGroup, Member
from prunekit.core.errors import InputError

__all__ = ["BudgetRow", "FrozenRow", "GroupRow", "Inspection", "shorten"]

_STEPS = 1000  # how finely even cuts are tried


@dataclass(frozen=True)
class GroupRow:
    """A channel group.

    Attributes:
        name: Its name.
        width: Channels that can be cut one by one.
        layers: Layers whose outputs they are: those that make them, and the norms on the way.
        readers: Layers whose inputs they are.
        members: Every parameter axis that is cut with them, ``"layer.weight[axis]"``; ``×k`` where
            each channel takes ``k`` indices.
        params: Parameters that a cut of half of the group alone would remove.
        macs: MACs that it would remove.
        neutral: False where an op takes statistics over the channels.
    """

    name: str
    width: int
    layers: tuple[str, ...]
    readers: tuple[str, ...]
    members: tuple[str, ...]
    params: int
    macs: int
    neutral: bool


@dataclass(frozen=True)
class FrozenRow:
    """Channels that must stay.

    Attributes:
        name: Name of the frozen group.
        size: How many.
        reason: Why.
        where: Source line, where known.
    """

    name: str
    size: int
    reason: str
    where: str = ""

    @property
    def because(self) -> str:
        """The reason and the end of the source line's path."""
        return self.reason + (f" ({shortened(self.where)})" if self.where else "")


@dataclass(frozen=True)
class BudgetRow:
    """What a budget would leave, with all groups cut evenly.

    Attributes:
        keep: Share of the MACs asked for; None for the least that can be reached.
        widths: Share of each group's channels that stays, rounded group by group.
        params: Parameters left.
        macs: MACs left.
        reached: Whether the MACs are within the budget.
    """

    keep: float | None
    widths: float
    params: int
    macs: int
    reached: bool

    @property
    def title(self) -> str:
        """What the budget is, in words."""
        return "the least" if self.keep is None else f"{self.keep:.0%} of the MACs"


@dataclass(frozen=True)
class Inspection:
    """What there is to know before pruning; ``print`` it.

    Attributes:
        model: Name of the network.
        inputs: Shapes of its inputs.
        params: Parameters.
        macs: Multiply-accumulates of one sample.
        flops: Floating-point operations of one sample.
        groups: What can be cut.
        frozen: What must stay.
        budgets: What budgets would leave, the least reachable last.
        constants: Numbers in the network's own code that a cut sets anew, or for which layers are cut alike.
    """

    model: str
    inputs: tuple[tuple[int, ...], ...]
    params: int
    macs: int
    flops: int
    groups: tuple[GroupRow, ...]
    frozen: tuple[FrozenRow, ...]
    budgets: tuple[BudgetRow, ...]
    constants: tuple[Solved, ...] = ()

    @classmethod
    def of(cls, analysis: Analysis, *, model: str = "", keep: Sequence[float] = (0.75, 0.5, 0.25)) -> Inspection:
        """Look at an analysed network.

        Args:
            analysis: The network and its groups.
            model: What to call it; by default the name of its class.
            keep: Shares of the MACs to show as budgets, in (0, 1].

        Raises:
            InputError: A share is out of range.
        """
        for share in keep:
            if not 0 < share <= 1:
                raise InputError(f"keep must hold shares in (0, 1], got {share}; 0.5 keeps half of the MACs")
        cost = Cost(analysis.coupling)
        full = cost.full(("params", "macs", "flops"))
        graph = analysis.graph
        return cls(
            model=model or type(analysis.model).__name__,
            inputs=tuple(graph.tensors[i].shape for i in graph.inputs),
            params=full["params"],
            macs=full["macs"],
            flops=full["flops"],
            groups=_group_rows(analysis.groups, cost, full),
            frozen=_frozen_rows(analysis),
            budgets=_budget_rows(cost, keep) if analysis.groups else (),
            constants=tuple(entry for entry in solved(analysis.coupling) if entry.how != "frozen"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "model": self.model,
            "inputs": [list(shape) for shape in self.inputs],
            "params": self.params,
            "macs": self.macs,
            "flops": self.flops,
            "groups": [_row_to_dict(row) for row in self.groups],
            "frozen": [_row_to_dict(row) for row in self.frozen],
            "budgets": [_row_to_dict(row) for row in self.budgets],
            "constants": [_row_to_dict(row) for row in self.constants],
        }

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.inputs)
        head = f"{self.model}, input {shapes}: {self.params:,} parameters, {self.macs:,} MACs, {self.flops:,} FLOPs"
        parts = [head, self._groups_text(), self._frozen_text(), self._constants_text(), self._budgets_text()]
        return "\n\n".join(part for part in parts if part)

    def _groups_text(self) -> str:
        if not self.groups:
            return "Nothing can be cut."
        lines = [("group", "width", "half saves", "and MACs", "outputs of", "read by")]
        for row in self.groups:
            saves = (f"{row.params:,}", f"{row.macs:,}")
            lines.append((row.name, f"{row.width:,}", *saves, shorten(row.layers), shorten(row.readers)))
        note = ""
        if not all(row.neutral for row in self.groups):
            names = ", ".join(row.name for row in self.groups if not row.neutral)
            note = f"\nStatistics run over the channels of {names}: removing one changes what the others give."
        return f"{len(self.groups)} groups can be cut:\n" + _columns(lines, right=(1, 2, 3)) + note

    def _frozen_text(self) -> str:
        if not self.frozen:
            return ""
        lines = [("stays", "width", "because")]
        for row in self.frozen:
            lines.append((row.name, f"{row.size:,}", row.because))
        return _columns(lines, right=(1,))

    def _constants_text(self) -> str:
        if not self.constants:
            return ""
        return "Numbers in the code, and what a cut makes of them:\n" + "\n".join(f"  {row}" for row in self.constants)

    def _budgets_text(self) -> str:
        if not self.groups:
            return ""
        lines = [("budget", "channels", "parameters", "", "MACs", "")]
        for row in self.budgets:
            lines.append(
                (
                    row.title + ("" if row.reached else " (out of reach)"),
                    f"{row.widths:.1%}",
                    f"{row.params:,}",
                    f"{row.params / self.params:.1%}",
                    f"{row.macs:,}",
                    f"{row.macs / max(1, self.macs):.1%}",
                )
            )
        return "With every group cut evenly, a budget leaves:\n" + _columns(lines, right=(1, 2, 3, 4, 5))


def _group_rows(groups: Sequence[ChannelGroup], cost: Cost, full: dict[str, int]) -> tuple[GroupRow, ...]:
    if not groups:
        return ()
    widths = np.tile(cost.coupling.widths, (len(groups), 1))
    np.fill_diagonal(widths, np.maximum(1, cost.coupling.widths // 2))
    left = cost.of(widths, ("params", "macs"))
    return tuple(
        GroupRow(
            group.name,
            group.size,
            _layers(m for m in group.members if m.role in ("out", "gain", "shift", "other")),
            _layers(group.consumers),
            tuple(_member(m) for m in group.members if m.role != "stat"),
            full["params"] - int(left["params"][i]),
            full["macs"] - int(left["macs"][i]),
            group.neutral,
        )
        for i, group in enumerate(groups)
    )


def _layers(members: Iterable[Member]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(m.layer or m.name for m in members))


def _member(member: Member) -> str:
    times = member.indices.shape[1]
    return f"{member.name}[{member.axis}]" + (f" ×{times}" if times > 1 else "")


def _frozen_rows(analysis: Analysis) -> tuple[FrozenRow, ...]:
    graph = analysis.graph
    kernels = _kernel_axes(analysis)
    shown = [g for g in analysis.coupling.frozen if not g.members or not set(g.members) <= kernels]
    rows = [FrozenRow(g.name, g.size, g.reason, g.where) for g in shown if not _is_input(g, analysis)]
    shapes = graph.parameters()
    rows += [
        FrozenRow(name, shapes[name].shape[0] if name in shapes and shapes[name].shape else 1, "no trace reached it")
        for name in graph.unreached
    ]
    return tuple(rows)


def _kernel_axes(analysis: Analysis) -> set[tuple[str, int]]:
    """Axes of convolution weights that are no channels: nobody expects to cut those."""
    tensors = analysis.graph.tensors
    kernels: set[tuple[str, int]] = set()
    for op in analysis.graph.all_ops:
        weight = op.operand("weight") if op.kind == "conv" else None
        if weight is not None:
            kernels |= {(tensors[weight].name, axis) for axis in range(2, len(tensors[weight].shape))}
    return kernels


def _is_input(group: FrozenGroup, analysis: Analysis) -> bool:
    """Whether it is only the network's input that is frozen here."""
    return bool(group.members) and all(not name for name, _ in group.members)


def _budget_rows(cost: Cost, keep: Sequence[float]) -> tuple[BudgetRow, ...]:
    full = cost.coupling.widths
    shares = np.arange(_STEPS + 1) / _STEPS
    table = np.maximum(1, np.rint(shares[:, None] * full)).astype(np.int64)
    left = cost.of(table, ("params", "macs"))
    rows: list[BudgetRow] = []
    for share in keep:
        fits = np.flatnonzero(left["macs"] <= share * left["macs"][-1])
        at = int(fits[-1]) if len(fits) else 0
        rows.append(_budget_row(share, table[at], full, left, at, bool(len(fits))))
    return (*rows, _budget_row(None, table[0], full, left, 0, True))


def _budget_row(share: float | None, widths: Any, full: Any, left: Any, at: int, reached: bool) -> BudgetRow:
    kept = float(widths.sum() / full.sum())
    return BudgetRow(share, kept, int(left["params"][at]), int(left["macs"][at]), reached)


def shorten(names: Sequence[str], most: int = 2) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _row_to_dict(row: Any) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _columns(lines: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Lines of cells as aligned text; columns in ``right`` hold numbers."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )

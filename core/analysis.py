"""A network, understood: its graph, its channel groups, and the backend that can cut it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunekit.core.constants import repair
from prunekit.core.coupling.couple import couple
from prunekit.core.coupling.groups import ChannelGroup, Coupling, Tie
from prunekit.core.coupling.propagate import LAYERS, Freeze
from prunekit.core.coupling.verify import Mismatch, compare
from prunekit.core.errors import CutError
from prunekit.core.graph import Graph
from prunekit.core.plan import PruningPlan

if TYPE_CHECKING:
    from prunekit.core.backend import Backend

__all__ = ["Analysis", "analyse", "check_cut", "cuttable", "dry_run"]


_NOT = Freeze("", whole=False)


@dataclass(frozen=True)
class Analysis:
    """What the rest of prunekit needs to know of one model.

    Attributes:
        backend: The backend of the model's framework.
        model: The user's model, untouched.
        example: The example input it was traced with.
        coupling: Its channel groups.
        probed: Whether a cut of every group was tried, or need not be.
    """

    backend: Backend
    model: Any
    example: Any
    coupling: Coupling = field(repr=False)
    probed: bool = False

    @property
    def graph(self) -> Graph:
        """The traced network."""
        return self.coupling.graph

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """The groups that may be cut."""
        return self.coupling.groups


def analyse(
    backend: Backend,
    model: Any,
    example: Any,
    *,
    attention: str = "heads",
    grouped: str = "within",
    ignore: Sequence[str] = (),
    probe: bool = True,
) -> Analysis:
    """Trace a model and find its channel groups.

    Args:
        backend: The backend of the model's framework.
        model: A network; it is not changed.
        example: One input, a tuple of positional inputs, or a dict of keyword inputs.
        attention: Which axis is cut where channels are split into heads.
        grouped: Whether grouped convolutions are cut ``"within"`` their groups or by ``"whole"`` groups;
            transposed ones always within.
        ignore: Name patterns of layers whose outputs must stay.
        probe: Try a cut of every group without weights, unless no op was given a size. Where a number in the
            model's own code (``x.view(n, 64)``) stands in the way, the channels that meet it are frozen.

    Raises:
        TraceError: The model does not run on the example.
        InputError: The policy is unknown, or a pattern matches no layer.
    """
    ignore = (ignore,) if isinstance(ignore, str) else ignore
    graph = backend.trace(model, example)
    frozen: dict[int, Freeze] = {}

    def coupled(ties: Sequence[Tie]) -> Coupling:
        return couple(graph, attention=attention, grouped=grouped, ignore=ignore, frozen_ops=frozen, ties=ties)

    def run(coupling: Coupling) -> Mismatch | None:
        if not coupling.groups:
            return None
        return dry_run(Analysis(backend, model, example, coupling), _probe_plan(coupling))

    coupling = coupled(())
    # most convolutional networks have nowhere to keep a number: they are spared the trial
    mismatch = run(coupling) if probe and not all(op.attrs.get("sizeless") for op in graph.all_ops) else None
    integers = backend.integers(model) if mismatch else {}
    while mismatch is not None:
        repaired = repair(coupling, mismatch, integers, coupled, run)
        if repaired is not None:
            coupling, mismatch = repaired
            continue
        fresh = {k for k in _same_line(graph, mismatch, coupling) if not frozen.get(k, _NOT).whole}
        if not fresh:
            raise CutError(f"a network must compute the shapes its cut implies, but {mismatch.text}; freeze the layer")
        reason = f"a number in the code stands in the way ({mismatch.text})"
        # what a layer reads is more often wrong than what it gives
        frozen |= {k: Freeze(reason, whole=k in frozen or graph.all_ops[k].kind not in LAYERS) for k in fresh}
        coupling = replace(coupled(coupling.ties), attributes=coupling.attributes)
        mismatch = run(coupling)
    return Analysis(backend, model, example, coupling, probe)


def dry_run(analysis: Analysis, plan: PruningPlan) -> Mismatch | None:
    """Cut the model without its weights, run it, and say where it differs from the plan, if it does."""
    return _compared(analysis, plan, lambda: analysis.backend.trace_cut(analysis, plan))


def check_cut(analysis: Analysis, plan: PruningPlan, traced: Callable[[], Graph | None]) -> None:
    """Make sure that a cut network does what its plan implies.

    Args:
        analysis: The original.
        plan: What was kept.
        traced: Gives the trace of the network as it was cut; None where all is known to be as it should.

    Raises:
        CutError: It does not; the message says where.
    """
    mismatch = _compared(analysis, plan, traced)
    if mismatch is not None:
        op = analysis.graph.all_ops[mismatch.position]
        place = f"{op.scope or 'the model'}{f' ({op.where})' if op.where else ''}"
        raise CutError(
            f"a cut network must compute the shapes its plan implies, but in {place} {mismatch.text}; "
            "ignore that layer, or analyse with probe=True"
        )


def _compared(analysis: Analysis, plan: PruningPlan, traced: Callable[[], Graph | None]) -> Mismatch | None:
    try:
        cut = traced()
    except CutError as error:
        if error.position is None:
            raise
        return Mismatch(error.position, str(error))
    return None if cut is None else compare(analysis.coupling, plan, cut)


def _probe_plan(coupling: Coupling) -> PruningPlan:
    """Drop a different share of each group, so that no two widths agree by chance."""
    rng = np.random.default_rng(0)
    kept = {}
    for group in coupling.groups:
        least = 1 if group.size == 2 else 2
        count = int(rng.integers(least, group.size)) if group.size > least else 1
        kept[group.name] = np.sort(rng.permutation(group.size)[:count]).tolist()
    return PruningPlan.of(coupling, kept)


def _same_line(graph: Graph, mismatch: Mismatch, coupling: Coupling) -> set[int]:
    """The op that differs, every op of the same source line, and, where it holds nothing that can
    be cut, the ops before it up to one that does."""
    ops = graph.all_ops
    position = mismatch.position
    while position > 0 and not cuttable(coupling, position):
        position -= 1
    op = ops[position]
    return {k for k, other in enumerate(ops) if k == position or (op.where and other.where == op.where
            and other.raw == op.raw)}  # fmt: skip


def cuttable(coupling: Coupling, position: int) -> bool:
    """Whether an op (by its index in ``graph.all_ops``) holds channels that may be cut."""
    group_of, _ = coupling.unit_of
    op = coupling.graph.all_ops[position]
    return any(
        labels is not None and (group_of[labels] >= 0).any()
        for tensor in (*op.inputs, *op.outputs)
        for labels in coupling.labels.get(tensor, ())
    )

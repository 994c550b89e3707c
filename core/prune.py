"""The short way: a model and a budget in, a smaller model and its plan out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prunekit.core.analysis import Analysis, analyse
from prunekit.core.backend import Backend
from prunekit.core.budget import Budget
from prunekit.core.errors import InputError
from prunekit.core.importance.score import Importance, layers_to_watch, needs, score
from prunekit.core.plan import PruningPlan
from prunekit.core.processes import check_same, first_decides
from prunekit.core.select import check_prunable, select

__all__ = ["check_prunable", "prune", "score_model", "select"]


def prune(
    backend: Backend,
    model: Any,
    example: Any,
    budget: Budget,
    *,
    importance: Importance = "l2",
    scope: str = "global",
    align: str | int | None = None,
    min_channels: int = 1,
    ignore: Sequence[str] = (),
    attention: str = "heads",
    grouped: str = "within",
    data: Iterable[Any] | None = None,
    seed: int = 0,
) -> tuple[Any, PruningPlan]:
    """Prune a model to a budget.

    Where several processes train together (``torchrun``, ``msrun``) all of them call this: the first one
    decides, the others take its plan, and all are checked to have the same weights and the same plan.

    Args:
        backend: The backend of the model's framework.
        model: A network; it is left as it is.
        example: An example input; its first axis is the batch.
        budget: What is kept.
        importance: A criterion's name, or a function ``f(group, state)`` of ``(size,)`` scores.
        scope: ``"global"`` ranks channels over the whole network; ``"layer"`` keeps the same share
            of every group.
        align: Alignment profile or number that channel counts are multiples of.
        min_channels: Fewest channels a group keeps.
        ignore: Name patterns of layers whose outputs stay.
        attention: Where channels are split into heads, cut ``"heads"`` or ``"head_dim"``.
        grouped: Cut grouped convolutions ``"within"`` their groups or by ``"whole"`` groups; transposed ones are
            always cut within.
        data: Loader of ``(inputs, targets)`` batches, for importance from gradients or activations.
        seed: Of random scores.

    Returns:
        The smaller model, and the plan that made it.

    Raises:
        BudgetError: The budget cannot be reached.
        NothingToPruneError: No channel may be cut; the message says why.
        InputError: Something that the importance needs is missing or not finite, or the processes have
            different weights.
    """
    if needs(importance) and data is None:
        raise InputError(
            f"importance={importance!r} is computed from {needs(importance)} over data, got data=None; "
            "give a loader of (inputs, targets) batches, or use importance='l2'"
        )
    processes = backend.processes()
    if processes.size > 1:
        check_same(processes, backend.get_state(model, copy=False))
    analysis = analyse(backend, model, example, attention=attention, grouped=grouped, ignore=ignore)
    check_prunable(analysis.coupling)

    def decide() -> PruningPlan:
        scores = score_model(analysis, importance, data=data, seed=seed)
        return select(analysis, budget, scores, scope=scope, align=align, min_channels=min_channels)

    plan = first_decides(processes, decide)
    small = backend.apply(analysis, plan)
    if processes.size > 1:
        check_same(processes, backend.get_state(small, copy=False), plan, what="the pruned model")
    return small, plan


def score_model(
    analysis: Analysis, importance: Importance, *, data: Iterable[Any] | None = None, seed: int = 0, **options: Any
) -> dict[str, Any]:
    """Scores of all channels of an analysed model, gathering what the criterion needs.

    Args:
        analysis: The model and its groups.
        importance: A criterion's name, or a function ``f(group, state)``.
        data: Loader of ``(inputs, targets)`` batches.
        seed: Of random scores.
        **options: ``reduction``, ``normalize``, ``members``: see :func:`prunekit.core.importance.score`.

    Raises:
        InputError: The criterion needs data and there are none, or a score is not finite.
    """
    backend, model, coupling = analysis.backend, analysis.model, analysis.coupling
    given: dict[str, Any] = {}
    if data is not None and needs(importance) == "gradients":
        given["gradients"] = backend.gradients(model, data)
    if data is not None and needs(importance) == "activations":
        given["activations"] = backend.activations(model, data, layers_to_watch(coupling))
    return score(coupling, importance, backend.get_state(model, copy=False), seed=seed, **given, **options)

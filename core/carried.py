"""The plan that a pruned network carries with it."""

from __future__ import annotations

from typing import Any

from prunekit.core.errors import PlanError
from prunekit.core.plan import PruningPlan

__all__ = ["attach_plan", "find_plan", "hand_on_plan", "plan_of"]

_ATTRIBUTE = "_prunekit_plan"


def attach_plan(model: Any, plan: PruningPlan) -> None:
    """Let a network carry its plan; copies of the network carry it too."""
    setattr(model, _ATTRIBUTE, plan)


def find_plan(model: Any) -> PruningPlan | None:
    """The plan that a network was cut by, or None for a network that was not."""
    plan = getattr(model, _ATTRIBUTE, None)
    return plan if isinstance(plan, PruningPlan) else None


def hand_on_plan(model: Any, small: Any, plan: PruningPlan) -> None:
    """Let a network that was cut from another carry the plan that cuts it from the first original.

    Raises:
        PlanError: The plans of the two cuts do not go together.
    """
    before = find_plan(model)
    attach_plan(small, plan if before is None else before.compose(plan))


def plan_of(model: Any) -> PruningPlan:
    """The plan that a network was cut by.

    Raises:
        PlanError: prunekit did not cut this network.
    """
    plan = find_plan(model)
    if plan is None:
        raise PlanError(
            f"a model must come from prune, convert or load to have a plan, got a {type(model).__name__} without one; "
            "pass the pruned model itself, not the module inside or around it"
        )
    return plan

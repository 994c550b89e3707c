"""The plan that a pruned module carries with it."""

from __future__ import annotations

from torch import nn

from prunekit.core.errors import PlanError
from prunekit.core.plan import PruningPlan

__all__ = ["attach_plan", "find_plan", "plan_of"]

_ATTRIBUTE = "_prunekit_plan"


def attach_plan(model: nn.Module, plan: PruningPlan) -> None:
    """Let a module carry its plan; copies of the module carry it too."""
    setattr(model, _ATTRIBUTE, plan)


def find_plan(model: nn.Module) -> PruningPlan | None:
    """The plan that a module was cut by, or None for a module that was not."""
    plan = getattr(model, _ATTRIBUTE, None)
    return plan if isinstance(plan, PruningPlan) else None


def plan_of(model: nn.Module) -> PruningPlan:
    """The plan that a module was cut by.

    Raises:
        PlanError: prunekit did not cut this module.
    """
    plan = find_plan(model)
    if plan is None:
        raise PlanError(
            f"a model must come from prune, convert or load to have a plan, got a {type(model).__name__} without one; "
            "pass the pruned model itself, not the module inside or around it"
        )
    return plan

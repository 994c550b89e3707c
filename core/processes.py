"""The processes of a distributed job: what the first one decides, and that all have the same; no framework.

A backend tells who and how many they are and how bytes go round (``Backend.processes()``); everything
else is text, so that nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core import errors
from prunekit.core.errors import InputError, PlanError, PrunekitError, TrainingError
from prunekit.core.plan import PruningPlan

__all__ = ["Processes", "check_same", "first_decides", "share_plan"]


def _alone(own: bytes) -> list[bytes]:
    return [own]


@dataclass(frozen=True)
class Processes:
    """The processes that work on one job; by default there is one.

    Attributes:
        rank: Number of this process, from 0. The first one decides, writes and speaks.
        size: How many there are.
        gather: Takes this process's bytes and gives those of all, by rank. All processes must call it.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[bytes], Sequence[bytes]] = _alone

    @property
    def is_main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def of_first(self, text: str) -> str:
        """The text of the first process; all processes must call this."""
        return bytes(self.gather(text.encode() if self.is_main else b"")[0]).decode()

    def require_same(
        self, text: str, rule: str, advice: str, error: Callable[[str], PrunekitError] = TrainingError
    ) -> None:
        """Make sure that all processes call this with the same text; all must call it.

        Args:
            text: What is compared, by its hash.
            rule: What must hold: ``"have the same weights"``.
            advice: What to do where it does not.
            error: Class of the error.

        Raises:
            PrunekitError: They do not; the error is raised in every process.
        """
        if self.size == 1:
            return
        found = [bytes(digest).hex() for digest in self.gather(hashlib.sha256(text.encode()).digest())]
        others = [rank for rank, digest in enumerate(found) if digest != found[0]]
        if others:
            raise error(
                f"all processes must {rule}, got another hash in process {_listed(others)} ({found[others[0]][:12]}) "
                f"than in process 0 ({found[0][:12]}); {advice}"
            )


def first_decides(processes: Processes, decide: Callable[[], PruningPlan]) -> PruningPlan:
    """The plan that the first process decides on, in every process; the others only wait for it.

    Raises:
        PrunekitError: The first process could not decide; what it raises, all raise.
    """
    if processes.size == 1:
        return decide()
    answer: dict[str, Any] = {}
    failure: Exception | None = None
    if processes.is_main:
        try:
            answer = {"plan": decide().to_dict()}
        except Exception as error:  # the others must hear of it, or they would wait for ever
            failure, answer = error, {"error": type(error).__name__, "message": str(error)}
    answer = json.loads(processes.of_first(json.dumps(answer)))
    if failure is not None:
        raise failure
    if "error" in answer:
        kind = getattr(errors, answer["error"], PrunekitError)
        raise kind(f"{answer['message']} (in process 0, which decides for all)")
    return PruningPlan.from_dict(answer["plan"])


def share_plan(processes: Processes, plan: PruningPlan | None) -> PruningPlan:
    """The plan of the first process, in every process.

    Args:
        processes: Who takes part; all must call this.
        plan: This process's own plan; only that of the first one counts, the others may have none.

    Raises:
        PlanError: The first process has no plan.
    """

    def own() -> PruningPlan:
        if plan is None:
            raise PlanError("the first process must have a plan to share, got None; make it there: prune(…), select(…)")
        return plan

    return first_decides(processes, own)


def check_same(
    processes: Processes,
    state: Mapping[str, NDArray[Any]],
    plan: PruningPlan | None = None,
    *,
    what: str = "the model",
) -> None:
    """Make sure that all processes have the same plan and the same weights, by their hashes.

    Args:
        processes: Who takes part; all must call this.
        state: Weights and statistics by name.
        plan: How the network was or will be cut.
        what: Whose weights they are, for messages.

    Raises:
        PlanError: The plans differ.
        InputError: The weights differ.
    """
    if processes.size == 1:
        return
    text = "" if plan is None else json.dumps(plan.to_dict(), sort_keys=True)
    processes.require_same(
        text, "have the same plan", "take that of the first one: plan = distributed.share_plan(plan)", PlanError
    )
    processes.require_same(
        _digest(state),
        f"have the same weights of {what}",
        "build it from the same seed in every process, or load the same file into it",
        InputError,
    )


def _digest(state: Mapping[str, NDArray[Any]]) -> str:
    hashed = hashlib.sha256()
    for name in sorted(state):
        value = np.ascontiguousarray(state[name])
        hashed.update(f"{name}|{value.dtype.str}|{value.shape}|".encode())
        hashed.update(value.tobytes())
    return hashed.hexdigest()


def _listed(ranks: Sequence[int], most: int = 4) -> str:
    return ", ".join(str(r) for r in ranks[:most]) + (", …" if len(ranks) > most else "")

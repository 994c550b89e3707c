"""What a pruning method is to those who run it: settings, a check before any training, and a search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from prunekit.core.analysis import Analysis
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Evaluation
from prunekit.core.coupling.groups import Coupling
from prunekit.core.executor import Executor, LocalExecutor
from prunekit.core.logs import RunLog
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe
from prunekit.core.settings import Section, check
from prunekit.core.study import Study

__all__ = ["Outcome", "SearchMethod", "Task"]


@dataclass(frozen=True)
class Task:
    """What a method works on.

    Attributes:
        analysis: The trained base network, which is not changed.
        loaders: The data: batches to train on, to calibrate with, and to score by.
        model: Name of the network, as the zoo calls it.
        folder: Where files of the search go; None writes none.
        finetune: How the pruned network will be trained.
        seed: Of everything that is drawn.
        say: Tells the user what happens.
        log: Gets what a log of the run should hold.
        study: Remembers what was scored; one that holds candidates of the same search already continues it.
        executor: Where candidates are evaluated.
        build: Makes the network anew, untrained, for methods that train from scratch.
    """

    analysis: Analysis
    loaders: Loaders
    model: str = ""
    folder: Path | None = None
    finetune: Recipe = Recipe()
    seed: int = 0
    say: Callable[[str], None] = lambda text: None
    log: RunLog | None = None
    study: Study = field(default_factory=Study)
    executor: Executor = field(default_factory=LocalExecutor)
    build: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a method found.

    Attributes:
        plan: The channels that stay.
        analysis: The network that the plan cuts: the base itself, or one whose weights were fitted.
        figures: What the method wants to be known of it: plain data.
        finetune: How to train the pruned network, where the method has a say in it.
    """

    plan: PruningPlan
    analysis: Analysis
    figures: Mapping[str, Any] = field(default_factory=dict)
    finetune: Recipe | None = None


class SearchMethod(ABC):
    """A method that looks for a plan, given a trained network.

    Args:
        config: The method's settings, by key.

    Raises:
        ConfigError: A key is unknown, or a value is wrong.
    """

    name: ClassVar[str]
    """What configurations call it."""
    Settings: ClassVar[type[Section]]
    """Its keys."""
    strategies: ClassVar[bool] = False
    """Whether it leaves strategies to choose from, so that `prunekit search` makes sense."""
    trained: ClassVar[bool] = True
    """Whether it needs the base network trained; if not, what it finds is trained from scratch."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.settings: Any = check(self.Settings, dict(config or {}), f"keys of {self.name}")

    @abstractmethod
    def check(self, coupling: Coupling, *, model: str = "") -> None:
        """Make sure, before any training, that the method can reach what its settings ask for.

        Raises:
            BudgetError: The budget cannot be reached; the message says what can.
            NothingToPruneError: No channel may be cut.
        """

    def check_data(self, loaders: Loaders) -> None:  # noqa: B027  a method may need no batches
        """Make sure, before any training, that there are as many batches as the settings ask for.

        Raises:
            DataError: There are fewer.
        """

    @abstractmethod
    def run(self, task: Task) -> Outcome:
        """Find a plan.

        Raises:
            DataError: There are too few batches.
        """

    def train(self, task: Task) -> dict[str, Any]:
        """Train what the search needs beside the network itself, and leave it in the task's folder for ``run``.

        Returns:
            How it was trained: plain data.
        """
        raise NotImplementedError(f"{self.name} trains nothing of its own")

    def evaluation(self, task: Task) -> Evaluation:
        """What scores this method's requests; made once in every process that evaluates.

        Args:
            task: What to work on. In other processes than the search's own it has neither log nor study.
        """
        raise NotImplementedError(f"{self.name} evaluates no candidates")

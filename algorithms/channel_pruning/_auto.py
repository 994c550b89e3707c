"""Automatic channel pruning: a search for the widths that do best within a share of the FLOPs of the convs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.algorithms.channel_pruning._ddpg import ddpg_search, require_ddpg
from prunekit.algorithms.channel_pruning._evolution import evolution_search
from prunekit.algorithms.channel_pruning.settings import ChannelPruningSettings
from prunekit.algorithms.evaluation import Evaluator
from prunekit.core.candidates import Candidate, Evaluation, Proposal
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import PreserveRatioEncoding
from prunekit.core.errors import BudgetError
from prunekit.core.ledger import Ledger
from prunekit.core.method import Task
from prunekit.core.plan import PruningPlan
from prunekit.core.rollouts import TOLERANCE, Decisions
from prunekit.core.strategies import StrategyFile

__all__ = ["BN_BATCHES", "ROLLOUTS_FILE", "Rollouts", "check_reachable", "rollout_evaluation", "search_widths"]

BN_BATCHES = 10
"""Batches over which a roll-out's batch norm statistics are taken anew; ``cp_nb_batches`` where that is less."""

ROLLOUTS_FILE = "search_results/rollouts.jsonl"
"""Candidates, one a line; ``rates`` are the shares removed of the groups that are decided."""

_ALIGN = 4


def check_reachable(coupling: Coupling, settings: ChannelPruningSettings) -> Decisions:
    """Make sure, before any training, that the searcher is installed and the share can be kept.

    Returns:
        What the search decides.

    Raises:
        BudgetError: The share cannot be reached; the message says what can.
        MissingDependencyError: The searcher needs a library that is not installed.
        NothingToPruneError: There is nothing to decide.
    """
    if settings.cp_auto_searcher == "ddpg":
        require_ddpg()
    return Decisions(coupling, settings.cp_preserve_ratio, _ALIGN if settings.cp_quadruple else 1)


def search_widths(
    task: Task, settings: ChannelPruningSettings, rank: Mapping[str, ArrayLike]
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Search for the widths of all groups.

    Args:
        task: What to work on. Candidates are written to ``search_results/rollouts.jsonl`` of its folder.
        settings: The method's.
        rank: Scores of every group's channels, ``(size,)``: a candidate keeps the best ones.

    Returns:
        Channels kept per group, ``(G,)``, and figures of the search.

    Raises:
        BudgetError: The share cannot be reached.
        DataError: There are too few batches.
        MissingDependencyError: The searcher needs a library that is not installed.
    """
    begin = time.monotonic()
    decisions = check_reachable(task.analysis.coupling, settings)
    task.say(
        f"searching the widths of {len(decisions)} groups of channels with {settings.cp_auto_searcher}: "
        f"{settings.cp_nb_rlouts} roll-outs at {decisions.preserve_ratio:.2%} of the convs' multiply-accumulates"
    )
    with Rollouts(task, settings, decisions, rank) as rollouts:
        if settings.cp_auto_searcher == "ddpg":
            warmup = settings.cp_nb_rlouts_min
            ddpg_search(decisions, rollouts, rollouts=settings.cp_nb_rlouts, warmup=warmup, seed=task.seed)
        else:
            evolution_search(decisions, rollouts.score_all, rollouts=settings.cp_nb_rlouts, seed=task.seed)
    widths = np.array(rollouts.best_widths, dtype=np.int64)
    return widths, {**_figures(settings, decisions, widths, rollouts), "seconds": round(time.monotonic() - begin, 1)}


def rollout_evaluation(task: Task, settings: ChannelPruningSettings) -> Evaluation:
    """Accuracy of a roll-out's network on the held-out images, once batch norm statistics are taken anew."""
    return Evaluator(task.analysis, task.loaders, min(settings.cp_nb_batches, BN_BATCHES)).answer


class Rollouts:
    """Scores widths, each once.

    Args:
        task: What to work on.
        settings: The method's.
        decisions: What is decided.
        rank: Scores of every group's channels.
    """

    def __init__(
        self, task: Task, settings: ChannelPruningSettings, decisions: Decisions, rank: Mapping[str, ArrayLike]
    ) -> None:
        self.asked = 0
        """Roll-outs so far, those that ended at widths already scored included."""
        self._say, self._decisions = task.say, decisions
        self._every = max(settings.cp_nb_rlouts // 10, 1)
        self._encoding = PreserveRatioEncoding(task.analysis.coupling, rank)
        self._file = None if task.folder is None else StrategyFile(task.folder / ROLLOUTS_FILE)
        self._scores: dict[tuple[int, ...], tuple[float, float]] = {}
        task.executor.prepare(lambda: rollout_evaluation(task, settings))
        self._ledger = Ledger(
            task.study, task.executor, self._plan, total=settings.cp_nb_rlouts, seed=task.seed, scored=self._scored,
            log=task.log,
        )  # fmt: skip

    def __enter__(self) -> Rollouts:
        self._ledger.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.__exit__(kind, error, trace)

    def __call__(self, widths: NDArray[np.int64]) -> float:
        """Share of right answers, on the held-out images, of the network with these widths, ``(G,)``."""
        return self.score_all(widths[None])[0]

    def score_all(self, widths: NDArray[np.int64]) -> list[float]:
        """The same for several networks, ``(n, G)``."""
        kept = widths[:, self._decisions.groups]
        ratios = self._decisions.macs(kept) / self._decisions.full
        rates = (1 - kept / self._decisions.sizes).round(9)
        self.asked += len(widths)
        found = self._ledger.score(
            [
                Proposal(tuple(row), figures={"ratio": float(ratio)})
                for row, ratio in zip(rates.tolist(), ratios, strict=True)
            ]
        )
        return [candidate.score for candidate in found]

    @property
    def best_widths(self) -> tuple[int, ...]:
        """The widths with most right answers; of several, those with the least loss."""
        return max(self._scores, key=lambda key: (self._scores[key][0], -self._scores[key][1]))

    @property
    def scores(self) -> list[float]:
        """Scores of all networks that were tried, in order."""
        return [top1 for top1, _ in self._scores.values()]

    def _widths(self, rates: tuple[float, ...]) -> NDArray[np.int64]:
        kept = np.rint((1 - np.array(rates)) * self._decisions.sizes)
        return self._decisions.widths(kept.astype(np.int64))

    def _plan(self, rates: tuple[float, ...]) -> PruningPlan:
        return self._encoding.plan(self._widths(rates))

    def _scored(self, candidate: Candidate) -> None:
        if self._file is not None:
            self._file.add(candidate)
        key = tuple(int(w) for w in self._widths(candidate.vector))
        self._scores[key] = candidate.score, candidate.figures["loss"]
        if len(self._scores) % self._every == 0:
            best = self._scores[self.best_widths][0]
            self._say(f"{len(self._scores)} networks scored in {self.asked} roll-outs, the best {best:.2%}")


def _figures(
    settings: ChannelPruningSettings, decisions: Decisions, widths: NDArray[np.int64], rollouts: Rollouts
) -> dict[str, Any]:
    macs = int(decisions.macs(widths[decisions.groups])[0])
    if not decisions.near(macs):
        raise BudgetError(
            f"a search must end within {TOLERANCE:.0%} of its budget, got {macs / decisions.full:.4f} where "
            f"cp_preserve_ratio={decisions.preserve_ratio:g}; use another ratio"
        )
    scores = rollouts.scores
    return {
        "searcher": settings.cp_auto_searcher,
        "asked": decisions.preserve_ratio,
        "achieved": macs / decisions.full,
        "rollouts": rollouts.asked,
        "evaluated": len(scores),
        "score": max(scores),
        "median_score": float(np.median(scores)),
    }

"""Scores for proposals: from the study where it has them, from the executor where it has not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType

from prunekit.core.candidates import Candidate, Proposal, Request
from prunekit.core.executor import Executor, Result
from prunekit.core.logs import Bar, RunLog, progress
from prunekit.core.plan import PruningPlan
from prunekit.core.study import Study

__all__ = ["Ledger"]


class Ledger:
    """Scores what a search proposes, each network once, and keeps every score as soon as it is known.

    Example:
        >>> from prunekit.core.executor import LocalExecutor
        >>> executor = LocalExecutor()
        >>> executor.prepare(lambda: lambda request: {"score": sum(request.vector)})
        >>> with Ledger(Study(), executor, lambda vector: PruningPlan({}, {}), show=False) as ledger:
        ...     [candidate.score for candidate in ledger.score([Proposal((1, 2)), Proposal((3, 4)), Proposal((1, 2))])]
        [3.0, 7.0, 3.0]

    Args:
        study: Remembers candidates.
        executor: Evaluates, after its ``prepare``.
        decode: The plan of a vector.
        total: How many evaluations the search will ask for, for the progress bar and for who reads the study meanwhile.
        seed: Of evaluations.
        scored: Called with each candidate, in the order of the proposals, once it and all before it are scored.
        log: Gets a line per evaluated candidate.
        show: Whether to show progress.
    """

    def __init__(
        self,
        study: Study,
        executor: Executor,
        decode: Callable[[tuple[float, ...]], PruningPlan],
        *,
        total: int = 0,
        seed: int = 0,
        scored: Callable[[Candidate], object] = lambda candidate: None,
        log: RunLog | None = None,
        show: bool = True,
    ) -> None:
        self.study = study
        self.evaluated = 0
        """How many candidates were really evaluated, and not found in the study."""
        self._executor, self._decode, self._seed = executor, decode, seed
        self._scored, self._log = scored, log
        self._known: dict[str, Candidate] = {}
        self._numbers: dict[str, int] = {}
        self._total, self._progress = total, progress("search", total, show=show)
        self._stack = contextlib.ExitStack()
        self._bar: Bar | None = None

    def __len__(self) -> int:
        """How many different candidates were asked for."""
        return len(self._numbers)

    def __enter__(self) -> Ledger:
        if self._total:
            self.study.once("search", "total", lambda: self._total)
        self._bar = self._stack.enter_context(self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def score(self, proposals: Sequence[Proposal]) -> list[Candidate]:
        """The candidates of proposals, in their order; of equal ones the first is evaluated.

        Raises:
            OutputError: The study cannot be written.
            PrunekitError: An evaluation failed.
        """
        fresh: list[Proposal] = []
        for proposal in proposals:
            if proposal.key in self._numbers:
                continue
            self._numbers[proposal.key] = len(self._numbers)
            fresh.append(proposal)
            found = self.study.get(proposal.key, proposal.vector)
            if found is not None:
                self._known[proposal.key] = found
        missing = [p for p in fresh if p.key not in self._known]
        told = self._tell(fresh, 0)
        if missing:
            plans = [self._decode(p.vector) for p in missing]
            requests = [Request(plan, p.vector, p.options, self._seed) for p, plan in zip(missing, plans, strict=True)]
            for position, result in self._executor.map(requests):
                self._keep(missing[position], plans[position], result)
                told = self._tell(fresh, told)
        return [self._known[p.key] for p in proposals]

    def _keep(self, proposal: Proposal, plan: PruningPlan, result: Result) -> None:
        number = self._numbers[proposal.key]
        figures = {**proposal.figures, **result.figures}
        score = figures.pop("score")
        candidate = Candidate(
            number if proposal.index is None else proposal.index, proposal.vector, score, figures, result.seconds,
            proposal.generation, self._seed,
        )  # fmt: skip
        self.study.add(number, proposal.key, candidate, plan, proposal.options)
        self._known[proposal.key] = candidate
        self.evaluated += 1
        if self._log is not None:
            extra = {key: value for key, value in figures.items() if key not in ("index", "score", "seconds")}
            self._log.write("candidate", index=candidate.index, score=score, seconds=result.seconds, **extra)

    def _tell(self, fresh: Sequence[Proposal], told: int) -> int:
        """Hand on the candidates that are scored, as far as none before them is missing; returns how many."""
        while told < len(fresh) and fresh[told].key in self._known:
            candidate = self._known[fresh[told].key]
            self._scored(candidate)
            if self._bar is not None:
                self._bar.advance(score=candidate.score)
            told += 1
        return told

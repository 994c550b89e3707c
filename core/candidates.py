"""What a search has scored: one small interface between the methods and whatever keeps their candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prunekit.core.plan import PruningPlan

__all__ = ["Candidate", "Candidates", "CandidateList"]


@dataclass(frozen=True)
class Candidate:
    """A network that was tried.

    Attributes:
        index: Its number in the search, from 0.
        vector: How the method writes it down.
        score: What the search maximises: the share of right answers on the held-out images.
        figures: What else is known of it, e.g. ``{"macs": 0.501}``.
        plan: The channels it keeps.
        seconds: Time its evaluation took.
    """

    index: int
    vector: tuple[float, ...]
    score: float
    figures: Mapping[str, float] = field(default_factory=dict)
    plan: PruningPlan | None = field(default=None, repr=False, compare=False)
    seconds: float = 0.0


class Candidates(Protocol):
    """Keeps what was scored, each as soon as it is."""

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate; once this returns, nothing that happens later loses it."""
        ...

    def __iter__(self) -> Iterator[Candidate]:
        """All that are kept, in the order in which they were added."""
        ...

    def __len__(self) -> int:
        """How many are kept."""
        ...


class CandidateList:
    """Keeps candidates in memory."""

    def __init__(self) -> None:
        self._all: list[Candidate] = []

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate."""
        self._all.append(candidate)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(tuple(self._all))

    def __len__(self) -> int:
        return len(self._all)

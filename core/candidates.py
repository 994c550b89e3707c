"""What a search tries: proposals, what is asked of whoever evaluates one, and candidates, which have a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from prunekit.core.plan import PruningPlan

__all__ = ["Candidate", "Evaluation", "Proposal", "Request"]


@dataclass(frozen=True)
class Proposal:
    """A network that a search wants to know the score of.

    Attributes:
        vector: How the method writes it down, in canonical form: equal networks have equal vectors.
        index: Its number in the search; None takes the order of proposals.
        generation: When it was proposed, from 0.
        figures: What is known of it without an evaluation, e.g. ``{"ratio": 0.501}``.
        options: How it is to be evaluated, as plain data: another way gives another score.
    """

    vector: tuple[float, ...]
    index: int | None = None
    generation: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """A hash of the network and of how it is evaluated."""
        text = json.dumps(dict(self.options), sort_keys=True).encode() if self.options else b"{}"
        return hashlib.sha256(np.asarray(self.vector, dtype=np.float64).tobytes() + text).hexdigest()[:32]


@dataclass(frozen=True)
class Request:
    """What an evaluation is given; plain data, so that it can be sent to another process.

    Attributes:
        plan: The channels that stay.
        vector: How the method writes the network down.
        options: How it is to be evaluated.
        seed: Of whatever the evaluation draws.
    """

    plan: PruningPlan
    vector: tuple[float, ...]
    options: Mapping[str, Any]
    seed: int


Evaluation = Callable[[Request], Mapping[str, float]]
"""Figures of a network, among them ``score``: what the search maximises. It depends on the request alone."""


@dataclass(frozen=True)
class Candidate:
    """A network that was tried.

    Attributes:
        index: Its number in the search, from 0.
        vector: How the method writes it down.
        score: What the search maximises: the share of right answers on the held-out images.
        figures: What else is known of it, e.g. ``{"macs": 0.501}``.
        seconds: Time its evaluation took.
        generation: When it was proposed, from 0.
        seed: Of its evaluation.
    """

    index: int
    vector: tuple[float, ...]
    score: float
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    generation: int = 0
    seed: int = 0

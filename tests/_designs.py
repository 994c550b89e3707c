"""Descriptions of random networks, from which each framework builds its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import gcd

from hypothesis import strategies as st

SIDE = 4
PAIRED = frozenset(["add", "concat", "cross_attention", "multiply", "shared"])
"""Kinds of steps that read their second tensor, too."""


@dataclass(frozen=True)
class Design:
    """What to build: the width of the stem, steps ``(kind, x, y, width)``, and how it ends."""

    stem: int
    steps: tuple[tuple[str, int, int, int], ...]
    heads: tuple[str, ...]
    auxiliary: bool = field(default=False)

    @property
    def reads(self) -> tuple[tuple[int, int], ...]:
        """Which of the tensors made before it each step reads; steps count from the latest back."""
        return tuple((n - x % (n + 1), n - y % (n + 1)) for n, (_, x, y, _) in enumerate(self.steps))


def divisor(*numbers: int) -> int:
    """The least common divisor above 1, or 1."""
    common = gcd(*numbers)
    return next((d for d in (2, 3, 5, 7) if common % d == 0), 1)


def designs(kinds: Iterable[str]) -> st.SearchStrategy[Design]:
    """Any design with steps of these kinds."""
    widths = st.sampled_from([4, 6, 8, 9, 12])
    steps = st.tuples(st.sampled_from(sorted(kinds)), st.integers(0, 2), st.integers(0, 3), widths)
    return st.builds(
        Design,
        stem=widths,
        steps=st.lists(steps, min_size=2, max_size=7).map(tuple),
        heads=st.sets(st.sampled_from(["maps", "classes", "flat"]), min_size=1).map(lambda s: tuple(sorted(s))),
        auxiliary=st.booleans(),
    )


def without_dead_ends(design: Design) -> Design:
    """The same design without steps whose results nothing reads."""
    read = {len(design.steps)}
    for n in reversed(range(len(design.steps))):
        if n + 1 in read:
            read |= set(design.reads[n][: 2 if design.steps[n][0] in PAIRED else 1])
    kept = sorted(read - {0})
    number = {old: new for new, old in enumerate([0, *kept])}
    steps = []
    for k in kept:
        name, _, _, width = design.steps[k - 1]
        x, y = (number.get(old, 0) for old in design.reads[k - 1])
        steps.append((name, number[k] - 1 - x, number[k] - 1 - y, width))
    return replace(design, steps=tuple(steps))

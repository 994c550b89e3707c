"""How new encodings come about: drawn at random, or by swapping and flipping segments of those that survived."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.encoding import ZeroOneEncoding

__all__ = ["Bits", "Variation", "draw", "flip_segment", "swap_between_two_points"]

Bits = NDArray[np.bool_]

_NEAR = 6  # parents stand up to so large a part of the population apart
_TRIES = 100  # rounds of breeding in which all children of a generation must be new ones


def draw(count: int, length: int, rng: np.random.Generator) -> Bits:
    """Random models, ``(count, length)``: for each a probability of its own, uniform in (0, 1), that a bit is 1."""
    share = rng.random((count, 1))
    bits: Bits = rng.random((count, length)) < share
    return bits


def swap_between_two_points(one: Bits, two: Bits, rng: np.random.Generator) -> tuple[Bits, Bits]:
    """Children of pairs of parents, ``(n, length)`` each: what lies between two random points is swapped.

    A point is a place between two bits, or an end: so each bit may be swapped, the first and the last included.
    """
    count, length = one.shape
    points = np.sort(rng.integers(length + 1, size=(count, 2)), axis=1)
    place = np.arange(length)
    inside = (place >= points[:, :1]) & (place < points[:, 1:])
    return np.where(inside, two, one), np.where(inside, one, two)


def flip_segment(bits: Bits, rng: np.random.Generator) -> Bits:
    """The same with one random segment of each row flipped, ``(n, length)``.

    A segment begins anywhere and goes on at the front where it passes the end, so that each bit is as likely as any
    other. Lengths are log-uniform from 1 to all bits: most changes are small.
    """
    count, length = bits.shape
    start = rng.integers(length, size=(count, 1))
    size = np.minimum(np.exp(rng.random((count, 1)) * math.log(length + 1)).astype(np.int64), length)
    inside = (np.arange(length) - start) % length < size
    flipped: Bits = bits ^ inside
    return flipped


class Variation:
    """Breeds new encodings; stands where pymoo's genetic algorithms have their mating.

    Every child is repaired, and none is an encoding that was seen before.

    Args:
        encoding: What bits mean.
        crossover: Probability of :func:`swap_between_two_points` for a pair.
        mutation: Probability of :func:`flip_segment` for a child.
    """

    def __init__(self, encoding: ZeroOneEncoding, crossover: float, mutation: float) -> None:
        self._encoding, self._crossover, self._mutation = encoding, crossover, mutation
        self._seen: set[bytes] = set()

    def first(self, count: int, rng: np.random.Generator) -> Bits:
        """Distinct random models, ``(n, length)``; fewer than asked for where there are no more."""
        return self._new(count, lambda missing: draw(missing, self._encoding.length, rng))

    def do(self, problem: Any, pop: Any, n_offsprings: int, *, random_state: np.random.Generator, **_: Any) -> Any:
        """What pymoo calls: children of a population."""
        from pymoo.core.population import Population

        parents = np.array([individual.X for individual in pop])
        children = self._new(n_offsprings, lambda missing: self.breed(parents, missing, random_state))
        return Population.new(X=children) if len(children) else Population.create()

    def breed(self, parents: Bits, count: int, rng: np.random.Generator) -> Bits:
        """Children, ``(count, length)``, before any repair.

        Two parents keep about as many channels: of the population in that order they stand a few places apart.
        Children of a large and a small network would have wide layers beside narrow ones, and seldom be good.
        """
        pairs = -(-count // 2)
        ordered = parents[np.argsort(parents.sum(axis=1), kind="stable")]
        first = rng.integers(len(ordered), size=pairs)
        apart = rng.integers(1, max(2, len(ordered) // _NEAR + 1), size=pairs) * rng.choice([-1, 1], size=pairs)
        one, two = ordered[first], ordered[np.clip(first + apart, 0, len(ordered) - 1)]
        swapped = rng.random((pairs, 1)) < self._crossover
        crossed = swap_between_two_points(one, two, rng)
        children = np.concatenate([np.where(swapped, new, old) for new, old in zip(crossed, (one, two), strict=True)])
        mutated = (rng.random((2 * pairs, 1)) < self._mutation) | ~np.concatenate([swapped, swapped])
        result: Bits = np.where(mutated, flip_segment(children, rng), children)[:count]
        return result

    def _new(self, count: int, make: Any) -> Bits:
        """As many encodings as asked for, none of them seen before, as far as they are found."""
        taken: list[Bits] = []
        for _ in range(_TRIES):
            repaired = self._encoding.repair_all(make(count - len(taken)))
            keys = np.packbits(repaired, axis=1)
            for row, key in zip(repaired, keys, strict=True):
                text = key.tobytes()
                if text not in self._seen:
                    self._seen.add(text)
                    taken.append(row)
            if len(taken) == count:
                break
        return np.array(taken, dtype=np.bool_).reshape(len(taken), self._encoding.length)

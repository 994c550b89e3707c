"""The parts of PruneEA: how encodings vary, the evolution, and the Pareto front."""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import numpy as np
import pytest
from _prune_ea import make

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)

from prunekit.algorithms.prune_ea._evolution import Evolution, directions
from prunekit.algorithms.prune_ea._front import Front, hypervolume
from prunekit.algorithms.prune_ea._training import spread
from prunekit.algorithms.prune_ea._variation import Variation, draw, flip_segment, swap_between_two_points
from prunekit.algorithms.prune_ea.prune_ea import choose
from prunekit.core.candidates import Candidate
from prunekit.core.cost import Cost
from prunekit.core.encoding import ZeroOneEncoding


@pytest.fixture(scope="module")
def encoding() -> ZeroOneEncoding:
    return ZeroOneEncoding.vega(make("torch").analysis.coupling)


def test_swaps_and_flips_reach_every_bit() -> None:
    rng = np.random.default_rng(0)
    zeros, ones = np.zeros((4000, 64), dtype=bool), np.ones((4000, 64), dtype=bool)
    left, right = swap_between_two_points(zeros, ones, rng)
    assert (left ^ right).all() and left.any(axis=0).all()
    assert ((np.diff(np.pad(left, ((0, 0), (1, 1))).astype(int), axis=1) == 1).sum(axis=1) <= 1).all()  # one run
    flipped = flip_segment(zeros, rng)
    assert flipped.any(axis=1).all()
    shares = flipped.mean(axis=0)
    assert shares.max() < 1.4 * shares.min()  # the first and the last as often as any other
    runs = (np.diff(np.concatenate([flipped, flipped[:, :1]], axis=1).astype(int), axis=1) != 0).sum(axis=1)
    assert (runs <= 2).all()  # one segment, which may pass the end
    assert flipped.sum(axis=1).min() == 1 and flipped.sum(axis=1).max() == 64


def test_every_bit_changes_in_a_search(encoding: ZeroOneEncoding) -> None:
    evolution = Evolution(Variation(encoding, 0.5, 0.5), 8, 8, 2, seed=0)
    evolution.ask()
    evolution.tell(np.random.default_rng(0).random((8, 2)))
    parents, changed = None, np.zeros(encoding.length, dtype=bool)
    for _ in range(40):
        bits = evolution.ask()
        parents = bits if parents is None else parents
        changed |= (bits ^ parents[:1]).any(axis=0)
        evolution.tell(np.random.default_rng(1).random((8, 2)))
    assert changed.all() and changed[-1]


def test_random_models_have_all_densities() -> None:
    share = draw(2000, 400, np.random.default_rng(0)).mean(axis=1)
    assert share.min() < 0.02 and share.max() > 0.98
    assert np.histogram(share, bins=5, range=(0, 1))[0].min() > 300


def test_proposals_are_new_and_repaired(encoding: ZeroOneEncoding) -> None:
    evolution, seen = Evolution(Variation(encoding, 0.9, 0.9), 6, 4, 2, seed=3), set()
    rng = np.random.default_rng(0)
    for _ in range(30):
        bits = evolution.ask()
        assert np.array_equal(encoding.repair_all(bits), bits)
        assert np.array_equal(np.array([encoding.repair(row) for row in bits[:2]]), bits[:2])
        seen |= {row.tobytes() for row in bits}
        evolution.tell(rng.random((len(bits), 2)))
    assert len(seen) == 6 + 29 * 4


def test_an_empty_segment_keeps_its_most_important_channel(encoding: ZeroOneEncoding) -> None:
    coupling = encoding.coupling
    rank = {group.name: np.arange(group.size) for group in coupling.groups}
    repaired = ZeroOneEncoding.vega(coupling, rank=rank).repair_all(np.zeros((1, 464)))[0]
    starts = np.cumsum([0, *ZeroOneEncoding.vega(coupling).segments])
    assert np.flatnonzero(repaired).tolist() == (starts[1:] - 1).tolist()


def test_the_search_ends_where_no_new_models_are_found(encoding: ZeroOneEncoding) -> None:
    coupling = encoding.coupling
    tiny = ZeroOneEncoding(coupling, [coupling.groups[0].name])
    every = (np.arange(2**tiny.length)[:, None] >> np.arange(tiny.length)) & 1 == 1
    variation = Variation(tiny, 0.9, 0.2)
    variation._seen |= {row.tobytes() for row in np.packbits(every[:-1], axis=1)}
    evolution = Evolution(variation, 50, 4, 2, seed=0)
    first = evolution.ask()
    assert len(first) <= 1  # all but one are known already
    if len(first):
        evolution.tell(np.array([[0.5, 0.5]]))
        assert len(evolution.ask()) == 0


def test_evolution_beats_chance_where_there_is_something_to_learn(encoding: ZeroOneEncoding) -> None:
    cost, bounds = Cost(encoding.coupling), np.cumsum([0, *encoding.segments])
    full = cost.full(("macs",))["macs"]

    def values(bits: np.ndarray, seed: int) -> np.ndarray:
        """Some channels of a segment matter more than others, and some segments more than others."""
        rng = np.random.default_rng([7, seed])
        weight, needed = np.exp(rng.normal(0, 0.7, bits.shape[1])), np.exp(rng.normal(0, 0.7, len(bounds) - 1))
        spans = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
        kept = np.stack([bits[:, span] @ weight[span] / weight[span].sum() for span in spans], axis=1)
        error = 1 - 0.9 * np.exp(-0.7 * ((1 - kept).clip(0) ** 2.3 @ (needed / needed.mean())))
        return np.stack([error, cost.of(encoding.widths(bits), ("macs",))["macs"] / full], axis=1)

    for seed in range(3):
        evolution, front, history = Evolution(Variation(encoding, 0.9, 0.2), 64, 32, 2, seed), Front(2), []
        for generation in range(11):
            bits = evolution.ask()
            worth = values(bits, seed)
            evolution.tell(worth)
            front.add([candidate(64 * generation + k, 0.0, 1.0) for k in range(len(bits))], worth)
            history.append(hypervolume(front.values))
        assert all(a <= b for a, b in itertools.pairwise(history))
        drawn = Variation(encoding, 0.9, 0.2).first(64 + 10 * 32, np.random.default_rng([seed, 0]))
        chance = Front(2)
        chance.add([candidate(k, 0.0, 1.0) for k in range(len(drawn))], values(drawn, seed))
        assert history[0] < hypervolume(chance.values) < history[-1]


@pytest.mark.parametrize(("objectives", "most", "count"), [(2, 32, 32), (3, 32, 28), (4, 32, 20), (2, 2, 2), (6, 6, 6)])
def test_directions_fill_the_population(objectives: int, most: int, count: int) -> None:
    found = directions(objectives, most)
    assert found.shape == (count, objectives)
    assert np.allclose(found.sum(axis=1), 1)


# ---------------------------------------------------------------- the front


def candidate(index: int, score: float, macs: float) -> Candidate:
    return Candidate(index, (1,), score, {"macs": macs, "params": macs})


def test_the_front_forgets_what_is_beaten_and_its_hypervolume_never_falls() -> None:
    rng = np.random.default_rng(0)
    front, history, points = Front(2), [], []
    for start in range(0, 60, 6):
        new = [candidate(start + k, float(s), float(m)) for k, (s, m) in enumerate(rng.random((6, 2)))]
        points += new
        front.add(new, np.array([[1 - c.score, c.figures["macs"]] for c in new]))
        history.append(hypervolume(front.values))
    assert all(a <= b for a, b in itertools.pairwise(history)) and history[-1] > history[0]
    kept = {c.index for c in front.candidates}
    for c in points:
        better = [o for o in points if o.score >= c.score and o.figures["macs"] <= c.figures["macs"] and o is not c]
        assert (c.index in kept) == (not better)
    # by hand: a staircase of boxes below the reference point
    total, width = 0.0, 1.0
    for c in front.by_cost():
        total += max(0.0, width - (1 - c.score)) * (1 - c.figures["macs"])
        width = min(width, 1 - c.score)
    assert history[-1] == pytest.approx(total)


def test_of_equal_models_the_first_is_kept() -> None:
    front = Front(2)
    front.add([candidate(0, 0.5, 0.5), candidate(1, 0.5, 0.5)], np.array([[0.5, 0.5], [0.5, 0.5]]))
    front.add([candidate(2, 0.5, 0.5)], np.array([[0.5, 0.5]]))
    assert [c.index for c in front.candidates] == [0]


def test_the_run_goes_on_with_the_most_accurate_model_within_its_budget() -> None:
    front = [candidate(0, 0.2, 10), candidate(1, 0.6, 40), candidate(2, 0.7, 50), candidate(3, 0.9, 80)]
    assert choose(front, 50) == (front[2], True)
    assert choose(front, 5) == (front[0], False)
    trained = {1: {"trained_accuracy": 0.8}, 3: {"trained_accuracy": 0.95}}
    assert choose(front, 50, trained) == (front[1], True)
    assert choose(front, 50, {**trained, 2: {"trained_accuracy": 0.85}}) == (front[2], True)
    assert spread(front, "all", front[1]) == spread(front, 9, front[1]) == front
    assert spread(front, 1, front[1]) == [front[1]] and spread(front, 0, front[1]) == []
    assert spread(front, 2, front[3]) == [front[0], front[3]]
    assert [len(spread(front, n, front[1])) for n in (2, 3)] == [2, 3] and front[1] in spread(front, 2, front[1])

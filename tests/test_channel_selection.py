"""Channel pruning as mathematics: which channels are selected, and what is fitted to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.linear_model import lasso_path

from prunekit.algorithms.channel_pruning.moments import Moments, Sample
from prunekit.algorithms.channel_pruning.reconstruction import best_ridge, fit_weight
from prunekit.algorithms.channel_pruning.selection import Contributions, Part, entry_scores, select_channels


@dataclass
class Layer:
    """Rows that a layer reads, in units of ``k`` columns, and its outputs."""

    x: np.ndarray
    weight: np.ndarray
    y: np.ndarray
    k: int

    @property
    def units(self) -> np.ndarray:
        return np.arange(self.x.shape[1]).reshape(-1, self.k)

    def part(self, centred: bool = False) -> Part:
        return Part(Moments.of(self.x, self.y).means(centred), self.weight, self.units)

    def stack(self) -> tuple[np.ndarray, np.ndarray]:
        """Contributions ``(n · O, channels)`` and targets ``(n · O,)``, of energy 1."""
        parts = np.stack([(self.x[:, u] @ self.weight[:, u].T).ravel() for u in self.units], axis=1)
        energy = np.sqrt((self.y**2).mean(axis=0).sum())
        return parts / energy, self.y.ravel() / energy


def layer(rng: np.random.Generator, channels: int = 12, k: int = 9, outputs: int = 6, rows: int = 500) -> Layer:
    x = rng.normal(size=(rows, channels * k)) @ (np.eye(channels * k) + 0.1 * rng.normal(size=(channels * k,) * 2))
    weight = rng.normal(size=(outputs, channels * k))
    return Layer(x, weight, x @ weight.T + 0.05 * rng.normal(size=(rows, outputs)), k)


def test_moments_give_the_contributions_of_the_rows(rng: np.random.Generator) -> None:
    siblings = [layer(rng), layer(rng, k=1, outputs=4)]
    found = Contributions.of([s.part() for s in siblings])
    stacks = [s.stack() for s in siblings]
    gram = sum(z.T @ z for z, _ in stacks) / len(siblings[0].x)
    target = sum(z.T @ y for z, y in stacks) / len(siblings[0].x)
    np.testing.assert_allclose(found.gram, gram, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.target, target, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", [1, 3, 6, 11])
def test_selection_is_that_of_a_lasso_on_the_stacked_data(keep: int, rng: np.random.Generator) -> None:
    siblings = [layer(rng), layer(rng, k=1, outputs=4)]
    chosen = select_channels(Contributions.of([s.part() for s in siblings]), keep)
    assert len(chosen) == keep
    z = np.concatenate([s.stack()[0] for s in siblings])
    y = np.concatenate([s.stack()[1] for s in siblings])
    alphas = np.geomspace(1, 1e-4, 2000) * np.abs(z.T @ y).max() / len(y)
    _, factors, _ = lasso_path(z, y, alphas=alphas, tol=1e-10, max_iter=100000)
    first = np.flatnonzero((factors != 0).sum(axis=0) == keep)[0]
    assert chosen.tolist() == np.flatnonzero(factors[:, first]).tolist()


def test_what_other_inputs_give_is_taken_off_the_target(rng: np.random.Generator) -> None:
    whole = layer(rng)
    mine = np.arange(6)
    found = Contributions.of([replace(whole.part(), units=whole.units[mine])])
    z, y = whole.stack()
    rest = y - z[:, 6:].sum(axis=1)
    np.testing.assert_allclose(found.target, z[:, mine].T @ rest / len(whole.x), atol=1e-9)


def test_dead_and_double_channels_come_last(rng: np.random.Generator) -> None:
    whole = layer(rng, channels=8, k=1, outputs=5)
    whole.x[:, 2] = 0  # dead
    whole.x[:, 5] = whole.x[:, 4]  # a double
    whole.weight[:, 5] = whole.weight[:, 4]
    whole.weight[:, 7] = 0  # read by nobody
    whole.y = whole.x @ whole.weight.T
    found = Contributions.of([whole.part()])
    chosen = select_channels(found, 5)
    assert {0, 1, 3, 6} <= set(chosen.tolist()) and len({4, 5} & set(chosen.tolist())) == 1
    for keep in range(1, 9):  # and yet every count can be had
        assert len(set(select_channels(found, keep).tolist())) == keep
    scores = entry_scores(found)
    assert sorted(scores) == list(range(1, 9))
    assert scores[[2, 7]].max() < scores[[0, 1, 3, 6]].min()
    nothing = Contributions(np.zeros((4, 4)), np.zeros(4))
    assert select_channels(nothing, 2).tolist() == [0, 1]


def test_moments_add_up_whatever_the_batches(rng: np.random.Generator) -> None:
    x, y = rng.normal(2, 1, size=(90, 7)).astype(np.float32), rng.normal(size=(90, 3)).astype(np.float32)
    whole = Moments.of(x, y)
    parts = Moments.of(x[:10], y[:10])
    for start in range(10, 90, 20):
        parts = parts + Moments.of(x[start : start + 20], y[start : start + 20])
    for name in ("xx", "xy", "x", "y", "yy"):
        assert getattr(parts, name).shape == getattr(whole, name).shape
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    centred = whole.means(True)
    np.testing.assert_allclose(centred.xx, np.cov(x.T.astype(np.float64), bias=True), atol=1e-9)
    np.testing.assert_allclose(centred.yy, y.astype(np.float64).var(axis=0), atol=1e-9)


def test_the_fit_is_least_squares(rng: np.random.Generator) -> None:
    x, y, start = rng.normal(size=(300, 12)), rng.normal(size=(300, 4)), rng.normal(size=(4, 12))
    wanted = np.linalg.lstsq(x, y, rcond=None)[0].T
    np.testing.assert_allclose(fit_weight(Moments.of(x, y).means(False), start, 1e-12), wanted, atol=1e-8)
    centred = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[0].T
    np.testing.assert_allclose(fit_weight(Moments.of(x, y).means(True), start, 1e-12), centred, atol=1e-8)
    x[:, 5] = 0  # a direction that is never seen keeps its weights
    fitted = fit_weight(Moments.of(x, y).means(False), start, 1e-6)
    np.testing.assert_allclose(fitted[:, 5], start[:, 5], atol=1e-9)
    np.testing.assert_array_equal(fit_weight(Moments.of(0 * x, y).means(False), start, 1e-6), start)


def test_a_small_sample_is_not_learnt_by_heart(rng: np.random.Generator) -> None:
    weight, start = rng.normal(size=(4, 60)), np.zeros((4, 60))
    mix = rng.normal(size=(60, 60)) * np.geomspace(1, 1e-3, 60)[:, None]

    def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(count, 60)) @ mix
        return x, x @ weight.T + 2 * rng.normal(size=(count, 4))

    def far(ridge: float, sample: Sample) -> float:
        x, y = rows(4000)
        return float(((y - x @ fit_weight(sample.whole.means(False), start, ridge).T) ** 2).mean())

    small, large = Sample.of(*rows(80), images=40), Sample.of(*rows(40000), images=40)
    assert small.held.count == 20 and small.whole.count == 80
    assert best_ridge(large, start, False) < best_ridge(small, start, False)
    assert far(best_ridge(small, start, False), small) < 0.8 * far(1e-7, small)
    assert best_ridge(Sample.of(*rows(3), images=3), start, False) > 0  # nothing is held out

"""Importance: each criterion against its definition, and what must be refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import Mixed, randomise
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.importance import NORMALIZATIONS, criteria, layers_to_watch, needs, score


class Pair(nn.Module):
    """Two convs tied by a sum, each with a norm, then a reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.c = nn.Conv2d(6, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm_a(self.a(x)) + self.norm_b(self.b(x)))
        return self.fc(torch.relu(self.c(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def pair() -> Analysis:
    torch.manual_seed(0)
    return analyse(TorchBackend(), randomise(Pair()).eval(), torch.zeros(1, 3, 8, 8))


@pytest.fixture(scope="module")
def state(pair: Analysis) -> dict[str, np.ndarray]:
    return pair.backend.get_state(pair.model)


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 2) for _ in range(2)]


def rows(state: dict[str, np.ndarray], name: str) -> np.ndarray:
    return state[name].reshape(len(state[name]), -1).astype(np.float64)


def test_norms(pair: Analysis, state: dict[str, np.ndarray]) -> None:
    a, b = rows(state, "a.weight"), rows(state, "b.weight")
    l1 = score(pair.coupling, "l1", state, normalize="none")
    assert np.allclose(l1["a"], (np.abs(a).sum(1) + np.abs(b).sum(1)) / 2)
    for reduction, combine in (("mean", np.mean), ("sum", np.sum), ("max", np.max)):
        l2 = score(pair.coupling, "l2", state, normalize="none", reduction=reduction)
        assert np.allclose(l2["a"], combine([np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)], axis=0))
    both = score(pair.coupling, "l1", state, normalize="none", members="all", reduction="sum")
    read = np.abs(np.moveaxis(state["c.weight"], 1, 0).reshape(6, -1)).sum(1)
    assert np.allclose(both["a"], np.abs(a).sum(1) + np.abs(b).sum(1) + read)


def test_gains(pair: Analysis, state: dict[str, np.ndarray]) -> None:
    gains = np.abs(state["norm_a.weight"]), np.abs(state["norm_b.weight"])
    gamma = score(pair.coupling, "bn_gamma", state, normalize="none")
    assert np.allclose(gamma["a"], np.mean(gains, axis=0))
    # no norm follows c: its weights speak
    assert np.allclose(gamma["c"], np.linalg.norm(rows(state, "c.weight"), axis=1))
    product = score(pair.coupling, "l2_gamma", state, normalize="none")
    norms = [np.linalg.norm(rows(state, f"{k}.weight"), axis=1) for k in "ab"]
    assert np.allclose(product["a"], (norms[0] * gains[0] + norms[1] * gains[1]) / 2)
    assert np.allclose(product["c"], gamma["c"])


def test_fpgm_is_the_sum_of_distances(pair: Analysis, state: dict[str, np.ndarray]) -> None:
    c = rows(state, "c.weight")
    direct = np.linalg.norm(c[:, None] - c[None], axis=2).sum(1)
    assert np.allclose(score(pair.coupling, "fpgm", state, normalize="none")["c"], direct)


def test_lamp(pair: Analysis, state: dict[str, np.ndarray]) -> None:
    squares = (rows(state, "c.weight") ** 2).sum(1)
    expected = [s / squares[squares >= s].sum() for s in squares]
    lamp = score(pair.coupling, "lamp", state)
    assert np.allclose(lamp["c"], expected)
    assert all(scores.max() == pytest.approx(1) for scores in lamp.values())


def test_taylor_predicts_the_loss(pair: Analysis, state: dict[str, np.ndarray], batches: list) -> None:
    gradients = pair.backend.gradients(pair.model, batches)
    scores = score(pair.coupling, "taylor", state, gradients=gradients, normalize="none", reduction="sum")
    change = {k: gradients[f"norm_{k}.weight"] * state[f"norm_{k}.weight"]
              + gradients[f"norm_{k}.bias"] * state[f"norm_{k}.bias"] for k in "ab"}  # fmt: skip
    assert np.allclose(scores["a"], np.abs(change["a"]) + np.abs(change["b"]), rtol=1e-4)
    bias = gradients["c.bias"] * state["c.bias"]
    own = (rows(gradients, "c.weight") * rows(state, "c.weight")).sum(1)
    assert np.allclose(scores["c"], np.abs(own + bias), rtol=1e-4)


def test_activation(pair: Analysis, state: dict[str, np.ndarray], batches: list) -> None:
    assert set(layers_to_watch(pair.coupling)) == {"a", "b", "c"}
    seen = pair.backend.activations(pair.model, batches, layers_to_watch(pair.coupling))
    scores = score(pair.coupling, "activation", state, activations=seen, normalize="none")
    with torch.inference_mode():
        direct = torch.cat([pair.model.a(x) for x, _ in batches]).abs().mean((0, 2, 3)).numpy()
        other = torch.cat([pair.model.b(x) for x, _ in batches]).abs().mean((0, 2, 3)).numpy()
    assert np.allclose(scores["a"], (direct + other) / 2, rtol=1e-4)


def test_random_depends_on_seed_and_name_alone(pair: Analysis, state: dict[str, np.ndarray]) -> None:
    first, again = (score(pair.coupling, "random", state, seed=3) for _ in range(2))
    other = score(pair.coupling, "random", state, seed=4)
    deeper = analyse(TorchBackend(), Pair().eval(), torch.zeros(1, 3, 8, 8), ignore=("c",))
    assert all(np.array_equal(first[k], again[k]) and not np.array_equal(first[k], other[k]) for k in first)
    assert np.array_equal(score(deeper.coupling, "random", state, seed=3)["a"], first["a"])


@pytest.mark.parametrize("normalize", list(NORMALIZATIONS))
def test_normalisation_keeps_the_order(pair: Analysis, state: dict[str, np.ndarray], normalize: str) -> None:
    raw = score(pair.coupling, "l2", state, normalize="none")
    scores = score(pair.coupling, "l2", state, normalize=normalize)
    for name, values in scores.items():
        assert np.array_equal(np.argsort(values), np.argsort(raw[name]))
    values = scores["a"]
    figure = {"none": raw["a"].mean(), "mean": 1.0, "max": None, "sum": 1 / 6, "minmax": None, "standard": 0.0}[
        normalize
    ]
    if figure is not None:
        assert values.mean() == pytest.approx(figure, abs=1e-12)
    if normalize in ("max", "minmax"):
        assert values.max() == 1
    if normalize == "standard":
        assert values.std() == pytest.approx(1)


def test_own_function(pair: Analysis, state: dict[str, np.ndarray]) -> None:
    scores = score(pair.coupling, lambda group, state: np.arange(group.size), state, normalize="max")
    assert scores["c"].tolist() == [0, 1 / 3, 2 / 3, 1]
    with pytest.raises(InputError, match="must give 6 scores for 'a'"):
        score(pair.coupling, lambda group, state: [1.0], state)


def test_every_criterion_scores_every_group() -> None:
    torch.manual_seed(0)
    mixed = analyse(TorchBackend(), Mixed().eval(), torch.zeros(1, 3, 12, 12))
    state = mixed.backend.get_state(mixed.model)
    data = [(torch.randn(4, 3, 12, 12), torch.arange(4))]
    given = {
        "gradients": mixed.backend.gradients(mixed.model, data),
        "activations": mixed.backend.activations(mixed.model, data, layers_to_watch(mixed.coupling)),
    }
    for name in criteria():
        scores = score(mixed.coupling, name, state, **given)
        assert {k: v.shape for k, v in scores.items()} == {g.name: (g.size,) for g in mixed.groups}
        if needs(name):
            with pytest.raises(InputError, match=f"{name} needs {needs(name)}, got none"):
                score(mixed.coupling, name, state)


def test_bad_input(pair: Analysis, state: dict[str, np.ndarray]) -> None:
    diverged = {**state, "c.weight": np.full_like(state["c.weight"], np.nan)}
    with pytest.raises(InputError, match="finite, got nan from l2 for channel 0 of 'c' .4 of 4"):
        score(pair.coupling, "l2", diverged)
    with pytest.raises(InputError, match="none called 'b.weight'"):
        score(pair.coupling, "l1", {k: v for k, v in state.items() if k != "b.weight"})
    with pytest.raises(InputError, match="must have 4 entries along axis 0"):
        score(pair.coupling, "l1", {**state, "c.weight": state["c.weight"][:3]})
    with pytest.raises(ConfigError, match="did you mean 'taylor'"):
        score(pair.coupling, "tailor", state)
    for key in ("reduction", "normalize", "members"):
        with pytest.raises(ConfigError, match=f"{key} must be a known name"):
            score(pair.coupling, "l2", state, **{key: "median"})
    bare = analyse(TorchBackend(), nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match="bn_gamma needs norm layers"):
        score(bare.coupling, "bn_gamma", bare.backend.get_state(bare.model))

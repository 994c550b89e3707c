"""MetaPruning without any training: what its vectors mean, which it draws, and how it breeds them."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("mindspore"):
    import prunekit.backend_mindspore  # noqa: F401  (before mindspore: it sets what its kernels read)

from prunekit.algorithms.correlation_study import spread
from prunekit.algorithms.meta_pruning import MetaPruning, MetaPruningSettings
from prunekit.algorithms.meta_pruning._evolution import evolve, ranked
from prunekit.algorithms.meta_pruning._space import Space, Taken
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Candidate, Proposal, Request
from prunekit.core.cost import Cost
from prunekit.core.encoding import ChannelScaleEncoding, metapruning_genes
from prunekit.core.errors import BudgetError, ConfigError, PlanError
from prunekit.core.executor import LocalExecutor
from prunekit.core.ledger import Ledger
from prunekit.core.method import Task
from prunekit.core.registry import get_algorithm, get_backend
from prunekit.core.study import Study

GOLDEN = Path(__file__).parent / "golden"


@cache
def published(model: str) -> Analysis:
    """A network that has published vectors."""
    backend: Any = get_backend("torch")
    return analyse(backend, backend.build_model(model, seed=0), backend.example((1, 3, 224, 224)), probe=False)


@pytest.fixture(scope="module")
def small() -> Analysis:
    backend: Any = get_backend("torch")
    model = backend.build_model("resnet20", seed=0, in_channels=1)
    return analyse(backend, model, backend.example((1, 1, 8, 8)), probe=False)


def draw(space: Space, count: int, seed: int = 0) -> np.ndarray:
    return np.array(space.draw(count, np.random.default_rng(seed), Taken()))


def test_the_registry_knows_it() -> None:
    assert get_algorithm("meta_pruning") is MetaPruning


# ---------------------------------------------------------------- published vectors


@pytest.mark.parametrize(
    ("model", "golden", "keys"),
    [
        ("mobilenetv1", "metapruning_mbv1_search_order", ["rngs"]),
        ("mobilenetv2_metapruning", "metapruning_mbv2_log_issue35", ["overall_channel_ids", "mid_channel_ids"]),
        ("resnet50", "metapruning_resnet50_1G_shipped", ["ids"]),
    ],
)
def test_published_vectors_give_their_figures(model: str, golden: str, keys: list[str]) -> None:
    data = json.loads((GOLDEN / f"{golden}.json").read_text())
    analysis = published(model)
    vector = [i for key in keys for i in data[key]]
    method = MetaPruning({"vector": vector, "convention": "metapruning"})
    method.check(analysis.coupling, model=model)
    outcome = method.run(Task(analysis, Loaders([], [], [], []), model=model))
    assert (outcome.figures["flops"], outcome.figures["macs"]) == (data["metap_flops"], data["macs"])
    widths = outcome.plan.widths(analysis.coupling)
    assert Cost(analysis.coupling).of(widths)["params"].tolist() == [data["params"]]
    assert ChannelScaleEncoding(analysis.coupling, metapruning_genes(model)).widths(vector)[0].tolist() == (
        widths.tolist()
    )
    # the budget is in the count that the settings choose
    for convention, figure in (("metapruning", data["metap_flops"]), ("macs", data["macs"])):
        exact = Space(analysis.coupling, model, [figure, figure], convention)
        assert exact.within(np.array([vector])).tolist() == [True]
        assert not Space(analysis.coupling, model, [0, figure - 1], convention).within(np.array([vector])).any()


def test_the_whole_network_costs_what_was_published() -> None:
    data = json.loads((GOLDEN / "metapruning_mbv1_full.json").read_text())
    space = Space(published("mobilenetv1").coupling, "mobilenetv1", [0.5, 1.0], "metapruning")
    assert space.high == data["metap_flops"]
    [figures] = space.figures(np.full((1, 13), 30))
    assert figures == {"macs": data["macs"], "ratio": 1.0, "flops": data["metap_flops"]}


def test_a_vector_of_the_published_form_is_cut_as_it_was_searched() -> None:
    """The original read it rotated by one place."""
    analysis = published("mobilenetv1")
    space = Space(analysis.coupling, "mobilenetv1", [0.2, 0.3], "macs")
    vector = draw(space, 1)[0]
    outcome = MetaPruning({"vector": vector.tolist()}).run(Task(analysis, Loaders([], [], [], []), model="mobilenetv1"))
    cut = analysis.backend.apply(analysis, outcome.plan)
    base = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024]
    wanted = [int(b * (10 + 3 * i)) // 100 for b, i in zip(base, vector.tolist(), strict=True)]
    layers = [cut.conv1, *(cut.layers[k].conv2 for k in range(12))]
    assert [layer.out_channels for layer in layers] == wanted
    again = Cost(analyse(analysis.backend, cut, analysis.example, probe=False).coupling).full(("macs",))
    assert again["macs"] == outcome.figures["macs"] == space.figures(vector[None])[0]["macs"]
    rotated = np.roll(vector, 1)
    assert space.figures(rotated[None])[0]["macs"] != outcome.figures["macs"]


# ---------------------------------------------------------------- vectors


def test_a_canonical_vector_is_the_one_its_network_is_written_as(small: Analysis) -> None:
    for coupling, model in (
        (small.coupling, ""),
        (published("mobilenetv2_metapruning").coupling, "mobilenetv2_metapruning"),
    ):
        space = Space(coupling, model, [0.2, 0.6], "macs")
        vectors = space.uniform(100, np.random.default_rng(0))
        canonical = space.encoding.canonical(vectors)
        assert (space.encoding.widths(vectors) == space.encoding.widths(canonical)).all()
        assert [space.encoding.repair(v).tolist() for v in vectors[:20]] == canonical[:20].tolist()
        assert (space.encoding.canonical(canonical) == canonical).all()
        _, one = np.unique(canonical, axis=0, return_inverse=True)
        _, other = np.unique(space.encoding.widths(vectors), axis=0, return_inverse=True)
        assert len(set(zip(one.tolist(), other.tolist(), strict=True))) == one.max() + 1 == other.max() + 1


def test_ids_of_one_stage_agree_whatever_is_done_to_them() -> None:
    space = Space(published("mobilenetv2_metapruning").coupling, "mobilenetv2_metapruning", [0, 140e6], "metapruning")
    rng, taken = np.random.default_rng(0), Taken()
    parents = np.array(space.draw(10, rng, taken))
    found = [
        parents,
        np.array(space.mutate(parents, 25, 0.3, rng, taken)),
        np.array(space.cross(parents, 25, rng, taken)),
    ]
    stages = np.repeat(np.arange(8), [1, 1, 2, 3, 4, 3, 3, 1])
    assert space.encoding.choices.tolist() == [*stages.tolist(), *range(8, 25)]
    for vectors in found:
        first = np.unique(stages, return_index=True)[1]
        assert (vectors[:, :18] == vectors[:, first][:, stages]).all()
        assert len(np.unique(vectors[:, 18:])) > 10


def test_draws_and_children_are_new_canonical_and_within_the_budget(small: Analysis) -> None:
    space = Space(small.coupling, "resnet20", [0.2, 0.25], "macs")
    rng, taken = np.random.default_rng(0), Taken()
    parents = np.array(space.draw(20, rng, taken))
    mutants, crossed = (
        np.array(v) for v in (space.mutate(parents, 40, 0.1, rng, taken), space.cross(parents, 40, rng, taken))
    )
    every = np.concatenate([parents, mutants, crossed])
    assert len(np.unique(every, axis=0)) == 100
    assert (space.encoding.canonical(every) == every).all()
    cost = Cost(small.coupling)
    shares = cost.of(space.encoding.widths(every), ("macs",))["macs"] / cost.full(("macs",))["macs"]
    assert ((shares >= 0.2) & (shares <= 0.25)).all()
    changed = (mutants[:, None] != parents[None]).sum(axis=2).min(axis=1)
    assert 1 <= changed.mean() <= 3  # of 12 ids, one in ten and never none
    from_one = (crossed[:, None] == parents[None]).any(axis=1)
    assert from_one.all() and ((crossed[:, None] == parents[None]).sum(axis=2).max(axis=1) < 12).all()
    genes = [[g.name] for g in small.coupling.groups]
    assert space.genes == genes  # no vector was published: one id for each group


def test_budgets_that_uniform_draws_never_meet_are_met_by_moving_them() -> None:
    space = Space(published("mobilenetv1").coupling, "mobilenetv1", [36e6, 41e6], "macs")
    assert not space.within(space.uniform(4096, np.random.default_rng(0))).any()
    vectors = draw(space, 50)
    assert len(vectors) == 50 and space.within(vectors).all()
    assert (vectors.std(axis=0) > 0.5).sum() > 6
    assert (draw(space, 50) == vectors).all() and (draw(space, 50, seed=1) != vectors).any()


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"flops_range": [0.001, 0.002]}, r"cost from 18,252 \(0\.0072\) to 2,532,992 \(1\.0000\) of 2,532,992 MACs"),
        ({"flops_range": [9e9, 10e9]}, "got none; use a range between these"),
        ({"flops_range": [0.5, 0.5000001]}, r"as many distinct networks as population=50 says, got \d+ of"),
        ({"flops_range": [0.0, 0.005], "convention": "metapruning"}, "FLOPs in MetaPruning's count"),
    ],
)
def test_a_budget_out_of_reach_is_told_with_what_can_be_reached(
    keys: dict[str, Any], part: str, small: Analysis
) -> None:
    with pytest.raises(BudgetError, match=part):
        MetaPruning(keys).check(small.coupling, model="resnet20")


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"flops_range": [0.5, 0.4]}, "must be [low, high], rising"),
        ({"flops_range": [0, 0]}, "must be [low, high], rising"),
        ({"flops_range": [-0.1, 0.4]}, "rising from 0 or more"),
        ({"flops_range": [0.5, 1e6]}, "write both alike"),
        ({"flops_range": [0.5]}, "at least 2 items"),
        ({"flops_range": [0.5, float("nan")]}, "finite"),
        ({"convention": "flops"}, "metapruning"),
        ({"hidden": 0}, "at least 1"),
        ({"training": {"epoch": 1}}, "did you mean 'epochs'?"),
        ({"training": {"lr": -1}}, "lr of a recipe must be above 0"),
        ({"training": {"distill_weight": 1.0}}, "without a teacher"),
        ({"top_k": 60}, "top_k must be at most keep=50, got 60"),
        ({"mutations": 40}, "raise population to 65"),
        ({"mutation": 1.5}, "at most 1"),
        ({"correlation": 3}, "0 or lie from 4"),
        ({"correlation": 2000}, "number of candidates (1000), got 2000"),
        ({"vector": [31]}, "at most 30"),
        ({"vector": [1.5]}, "whole number"),
        ({"populatoin": 3}, "did you mean 'population'?"),
    ],
)
def test_a_wrong_key_is_told(keys: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError if "flops_range" not in keys else (ConfigError, BudgetError)) as caught:
        MetaPruning(keys)
    assert part in str(caught.value)


def test_settings_have_the_published_defaults() -> None:
    settings = MetaPruningSettings()
    recipe = settings.recipe(seed=3)
    assert (recipe.epochs, recipe.lr, recipe.schedule, recipe.label_smoothing, recipe.seed) == (
        64,
        0.25,
        "linear",
        0.1,
        3,
    )
    assert (settings.population, settings.keep, settings.top_k, settings.mutations, settings.crossovers) == (
        50, 50, 10, 25, 25,
    )  # fmt: skip
    assert MetaPruning({"iterations": 7}).settings.generations == 7
    assert MetaPruning({"training": {"seed": 5}}).settings.recipe(3).seed == 5


def test_a_vector_of_another_network_is_told(small: Analysis) -> None:
    with pytest.raises(PlanError, match="has 12 entries for this model, got 3"):
        MetaPruning({"vector": [1, 2, 3]}).check(small.coupling, model="resnet20")
    stages = [3] * 18
    stages[3] = 4
    with pytest.raises(PlanError, match="must agree"):
        MetaPruning({"vector": [*stages, *[5] * 17]}).check(
            published("mobilenetv2_metapruning").coupling, model="mobilenetv2_metapruning"
        )


# ---------------------------------------------------------------- evolution


def evolved(space: Space, seed: int, **keys: Any) -> tuple[list[Candidate], list[dict[str, Any]]]:
    """A search for one vector, by the distance from it; the loop and the space are the real ones."""
    goal = draw(space, 1, seed=99)[0]
    found: list[Candidate] = []
    told: list[dict[str, Any]] = []

    def score(vectors: np.ndarray, generation: int) -> list[Candidate]:
        assert space.within(vectors).all()
        here = [
            Candidate(len(found) + k, tuple(v), -float(np.abs(np.array(v) - goal).sum()), {}, generation=generation)
            for k, v in enumerate(vectors.tolist())
        ]
        found.extend(here)
        return here

    settings = MetaPruning({"population": 20, "mutations": 10, "crossovers": 8, "generations": 6, **keys}).settings
    result = evolve(space, score, settings, seed, lambda generation, figures: told.append(figures))
    assert result == found
    return found, told


def test_evolution_finds_what_random_draws_do_not(small: Analysis) -> None:
    space = Space(small.coupling, "resnet20", [0.2, 0.25], "macs")
    for seed in range(3):
        found, told = evolved(space, seed)
        random = -np.abs(draw(space, 120, seed=100 + seed) - draw(space, 1, seed=99)).sum(axis=1)
        assert max(c.score for c in found) > random.max()
        assert len(found) == 120 and len({c.vector for c in found}) == 120
        assert [line["candidates"] for line in told] == [20] * 6
        assert (told[0]["random"], told[0].get("mutants")) == (20, 0)
        assert all(line["mutants"] == 10 and line["crossovers"] == 8 and line["random"] == 2 for line in told[1:])
        best = [line["best_so_far"] for line in told]
        assert best == sorted(best) and best[-1] == max(c.score for c in found)
        assert all(
            line["mean"] <= line["best"] <= line["best_so_far"] and line["kept_mean"] <= line["best_so_far"]
            for line in told
        )
        again, _ = evolved(space, seed)
        assert again == found


def test_a_search_ends_where_no_new_network_is_left(small: Analysis) -> None:
    full = Cost(small.coupling).full(("macs",))["macs"]
    space = Space(small.coupling, "resnet20", [0.99 * full, full], "macs")
    found, told = evolved(space, 0, generations=50)
    assert told[-1]["candidates"] == 0 and len(told) < 50
    assert len({c.vector for c in found}) == len(found) < 1000
    assert space.encoding.canonical([[30] * 12])[0].tolist() in [list(c.vector) for c in found]


def test_the_best_come_first(small: Analysis) -> None:
    candidates = [
        Candidate(0, (1,), 0.5, {"loss": 1.0}), Candidate(1, (2,), 0.7, {"loss": 2.0}),
        Candidate(2, (3,), 0.7, {"loss": 1.0}), Candidate(3, (4,), 0.7, {"loss": 1.0}),
    ]  # fmt: skip
    assert [c.index for c in ranked(candidates)] == [1, 2, 3, 0]
    assert [c.index for c in spread(candidates, 2)] == [1, 0]


def test_a_search_that_is_repeated_evaluates_nothing(small: Analysis) -> None:
    space = Space(small.coupling, "resnet20", [0.2, 0.25], "macs")
    method = MetaPruning({"population": 50, "generations": 6, "mutations": 25, "crossovers": 20})
    asked: list[Request] = []

    def search(study: Study) -> list[Candidate]:
        executor = LocalExecutor()
        executor.prepare(
            lambda: lambda request: asked.append(request) or {"score": float(np.sin(request.vector).sum())}
        )
        with Ledger(study, executor, space.encoding.decode, show=False) as ledger:

            def score(vectors: np.ndarray, generation: int) -> list[Candidate]:
                return ledger.score([Proposal(tuple(v), None, generation) for v in vectors.tolist()])

            return evolve(space, score, method.settings, 0, lambda generation, figures: None)

    with Study() as study:
        first = search(study)
        assert len(asked) == len(first) == 300
        assert search(study) == first
    assert len(asked) == 300

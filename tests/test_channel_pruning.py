"""Channel pruning of whole networks, the same in both frameworks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _channels import BACKENDS, CASES, LONG, MOSTLY_TORCH, SETTINGS, error, logits, pruned, state_of, task_of, uneven

from prunekit.algorithms.channel_pruning import ChannelPruning
from prunekit.algorithms.channel_pruning.measuring import Sampler, alive
from prunekit.algorithms.channel_pruning.pruner import prune_by_widths, rank_channels, tuning_recipe
from prunekit.algorithms.channel_pruning.readers import find_readers, probe
from prunekit.algorithms.channel_pruning.selection import Contributions, Part, entry_scores
from prunekit.algorithms.channel_pruning.settings import ChannelPruningSettings, asked_ratios, rounded
from prunekit.core.analysis import analyse
from prunekit.core.cost import Cost
from prunekit.core.encoding import PreserveRatioEncoding
from prunekit.core.method import Outcome
from prunekit.core.recipe import Recipe
from prunekit.core.registry import get_algorithm, get_backend
from prunekit.core.testing import relative_error

GOLDEN = Path(__file__).parent / "golden" / "pocketflow_resnet20_ratio_list.json"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["resnet20", "lenet5"])
def test_one_layer_is_fitted_as_by_lstsq_on_its_rows(backend: str, name: str) -> None:
    task = task_of(backend, name)
    coupling = task.analysis.coupling
    widths = coupling.widths.copy()
    position = coupling.index["layer1.0.conv1" if name == "resnet20" else coupling.groups[0].name]
    widths[position] //= 2
    outcome = prune_by_widths(task, SETTINGS, widths)
    group = coupling.groups[position]
    [reader] = [r for r in find_readers(coupling) if group.name in r.groups]
    state = outcome.analysis.backend.get_state(outcome.analysis.model)
    left = alive(coupling, outcome.plan, [reader])[reader.layer]
    xs, ys = [], []
    for number, batch in enumerate(list(task.loaders.calibration)[: SETTINGS.cp_nb_batches]):
        maps = outcome.analysis.backend.feature_maps(task.analysis.model, batch, [(reader.layer, "output")])
        seen = outcome.analysis.backend.feature_maps(outcome.analysis.model, batch, [(reader.layer, "input")])
        y = maps[reader.layer, "output"]
        at = reader.window.positions(y, 10, np.random.default_rng([0, reader.position, number]))
        xs.append(reader.window.rows(seen[reader.layer, "input"][:, left.inputs], at))
        ys.append(reader.window.answers(y, at))
    x, y = (np.concatenate(part).astype(np.float64) for part in (xs, ys))
    explicit = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    weight = reader.window.matrix(state[reader.weight][:, left.inputs]).astype(np.float64)
    # all but the least squares error, with the means in the bias or the norm
    fitted = x @ weight.T
    rest = (y - y.mean(0)) - (fitted - fitted.mean(0))
    best = y - np.c_[x, np.ones(len(x))] @ explicit
    assert np.linalg.norm(rest) <= 1.01 * np.linalg.norm(best) + 1e-6
    if reader.bias is not None and reader.norm is None:
        np.testing.assert_allclose(state[reader.bias], y.mean(0) - fitted.mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_counts_are_exact_and_the_cut_computes_what_the_zeroed_network_does(name: str, backend: str) -> None:
    task, outcome = task_of(backend, name), pruned(backend, name)
    coupling = task.analysis.coupling
    assert outcome.plan.widths(coupling).tolist() == uneven(task.analysis).tolist()
    small = task.analysis.backend.apply(outcome.analysis, outcome.plan)
    whole = logits(outcome.analysis, task.loaders)
    assert relative_error(logits(task.analysis, task.loaders, small), whole) < 1e-4
    flops = Cost(coupling, "pocketflow").of(uneven(task.analysis), ("flops",))["flops"]
    assert outcome.figures["flops"][1] == flops[0]
    assert outcome.figures["notes"] == {}


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_reconstruction_beats_recalibration_alone(name: str, backend: str) -> None:
    task = task_of(backend, name)
    bare = pruned(backend, name, cp_reconstruct=False)
    fitted = pruned(backend, name)
    assert error(fitted, task) < 0.7 * error(bare, task, recalibrate=True)
    # and statistics taken anew do not undo it
    assert error(fitted, task, recalibrate=True) < 1.2 * error(fitted, task)


@pytest.mark.parametrize("backend", LONG)
def test_shortcuts_errors_are_made_up_for(backend: str) -> None:
    task = task_of(backend)
    taps = [(f"layer{stage}.{block}.conv1", "input") for stage, block in [(1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]]

    def at_sums(outcome: Outcome) -> float:
        total = 0.0
        for batch in list(task.loaders.calibration)[:4]:
            base = task.analysis.backend.feature_maps(task.analysis.model, batch, taps)
            mine = task.analysis.backend.feature_maps(outcome.analysis.model, batch, taps)
            for tap in taps:
                kept = np.flatnonzero(np.abs(mine[tap]).max(axis=(0, 2, 3)) > 0)
                total += float(((base[tap] - mine[tap])[:, kept] ** 2).sum() / (base[tap][:, kept] ** 2).sum())
        return total

    assert at_sums(pruned(backend)) < 0.95 * at_sums(pruned(backend, correct=False))


@pytest.mark.parametrize("backend", BACKENDS)
def test_shortcuts_are_seen_where_they_are(backend: str) -> None:
    readers = {r.layer: r for r in find_readers(task_of(backend).analysis.coupling)}
    taps = {name: r.shortcut and r.shortcut.tap for name, r in readers.items()}
    assert {name for name, tap in taps.items() if tap} == {
        f"layer{s}.{b}.conv2" for s in (1, 2, 3) for b in (0, 1, 2)
    }  # the convs of shortcuts come before
    assert taps["layer2.0.conv2"] == ("layer2.0.downsample.1", "output")
    assert taps["layer2.2.conv2"] == ("layer2.2.conv1", "input")


def test_a_shortcut_behind_a_norm_without_gain_is_left_alone() -> None:
    """What such a norm multiplies by is not known, so neither is what its conv would have to give."""
    torch = pytest.importorskip("torch")

    class Residual(torch.nn.Module):
        def __init__(self, affine: bool) -> None:
            super().__init__()
            self.stem, self.a, self.b = (torch.nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 8), (8, 6), (6, 8)))
            self.norm = torch.nn.BatchNorm2d(8, affine=affine)
            self.fc = torch.nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.stem(x))
            x = torch.relu(x + self.norm(self.b(torch.relu(self.a(x)))))
            return self.fc(x.mean((2, 3)))

    taps = {}
    for affine in (True, False):
        analysis = analyse(get_backend("torch"), Residual(affine).eval(), torch.randn(2, 1, 8, 8))
        reader = next(r for r in find_readers(analysis.coupling) if r.layer == "b")
        taps[affine] = reader.shortcut and reader.shortcut.tap
    assert taps == {True: ("a", "input"), False: None}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_batch_shows_what_norms_do(backend: str) -> None:
    task = task_of(backend)
    bench, state = task.analysis.backend, state_of("resnet20")
    [reader] = [r for r in find_readers(task.analysis.coupling) if r.layer == "layer2.0.conv2"]
    batch = next(iter(task.loaders.calibration))
    [found] = probe(bench, task.analysis.model, state, batch, [reader])
    assert found.eps == pytest.approx(1e-5, rel=0.5, abs=1e-5)
    scale = state["layer2.0.bn2.weight"] / np.sqrt(state["layer2.0.bn2.running_var"] + 1e-5)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-3)
    wrong = {**state, reader.weight: 1.1 * state[reader.weight]}  # as where a layer changes its weight before use
    [refused] = probe(bench, task.analysis.model, wrong, batch, [reader])
    assert refused.window is None and "not those of its weight" in refused.reason


@pytest.mark.parametrize("backend", BACKENDS)
def test_ratio_one_changes_nothing(backend: str) -> None:
    task = task_of(backend)
    outcome = ChannelPruning({"cp_uniform_preserve_ratio": 1.0, "cp_nb_batches": 2}).run(task)
    assert outcome.plan.widths(task.analysis.coupling).tolist() == task.analysis.coupling.widths.tolist()
    state = task.analysis.backend.get_state(outcome.analysis.model)
    for name, value in task.analysis.backend.get_state(task.analysis.model).items():
        np.testing.assert_array_equal(state[name], value)
    assert outcome.figures["preserved"] == 1.0


@pytest.mark.parametrize("backend", LONG)
def test_siblings_share_one_choice_found_from_both(backend: str) -> None:
    task = task_of(backend)
    coupling = task.analysis.coupling
    group = coupling.group("conv1")
    readers = [r for r in find_readers(coupling) if "conv1" in r.groups]
    assert len(readers) == 5
    scores = rank_channels(task, SETTINGS)
    assert {n: len(s) for n, s in scores.items()} == {g.name: g.size for g in coupling.groups}
    # the same from rows stacked by hand
    state, parts = state_of("resnet20"), []
    batches = list(task.loaders.calibration)[:4]
    found = probe(task.analysis.backend, task.analysis.model, state, batches[0], readers)
    left = alive(coupling, pruned(backend, cp_reconstruct=False).plan.full(coupling), readers)
    moments = Sampler(task.analysis, batches, 10, 0)(found, left, None, pruned(backend).plan)
    for reader in found:
        means = moments[reader.layer].whole.means(reader.centred)
        weight = reader.window.matrix(state[reader.weight]).astype(np.float64)
        parts.append(Part(means, weight, reader.window.columns(reader.groups["conv1"].ravel()).reshape(group.size, -1)))
    np.testing.assert_array_equal(scores["conv1"], entry_scores(Contributions.of(parts)))
    one = entry_scores(Contributions.of(parts[:1]))
    assert (scores["conv1"] != one).any()  # the first reader alone would have chosen otherwise


@pytest.mark.parametrize("backend", BACKENDS)
def test_group_tuning_keeps_what_is_gone_at_zero_and_learns_from_the_base(backend: str) -> None:
    task = replace(task_of(backend, "lenet5"), finetune=Recipe(epochs=5, lr=0.01, schedule="cosine", warmup_epochs=1))
    said: list[str] = []
    settings = SETTINGS.model_copy(update={"cp_finetune": True, "cp_list_group": 2, "enbl_dst": True})
    outcome = prune_by_widths(replace(task, say=said.append), settings, uneven(task.analysis))
    steps = len(find_readers(task.analysis.coupling))
    assert sum("group tuning" in line for line in said) == -(-steps // 2)
    recipe = tuning_recipe(task.finetune, settings)
    assert (recipe.epochs, recipe.optimizer, recipe.weight_decay, recipe.schedule) == (1.0, "adamw", 0.0, "constant")
    assert (recipe.lr, recipe.distill_weight, recipe.distill_temperature) == (1e-4, 4.0, 4.0)
    assert outcome.finetune == replace(task.finetune, distill_weight=4.0, distill_temperature=4.0)
    before = task.analysis.backend.get_state(pruned(backend, "lenet5").analysis.model)
    after = task.analysis.backend.get_state(outcome.analysis.model)
    assert any(np.abs(after[n] - before[n]).max() > 1e-5 for n in after)
    for group in task.analysis.groups:
        gone = np.setdiff1d(np.arange(group.size), outcome.plan.kept[group.name])
        for member in group.producers:
            assert not np.take(after[member.name], member.indices[gone].ravel(), axis=member.axis).any()
    small = task.analysis.backend.apply(outcome.analysis, outcome.plan)
    whole = logits(outcome.analysis, task.loaders)
    assert relative_error(logits(task.analysis, task.loaders, small), whole) < 1e-4


@pytest.mark.parametrize("backend", LONG)
def test_uniform_and_list_give_their_widths_and_say_what_is_kept(backend: str, tmp_path: Path) -> None:
    task = task_of(backend)
    encoding = PreserveRatioEncoding(task.analysis.coupling)
    said: list[str] = []
    method = get_algorithm("channel_pruning")({"cp_uniform_preserve_ratio": 0.4, "cp_nb_batches": 1})
    outcome = method.run(replace(task, say=said.append))
    widths = encoding.widths(np.full((1, encoding.length), 0.4))[0]
    assert outcome.plan.widths(task.analysis.coupling).tolist() == widths.tolist()
    share = outcome.figures["preserved"]
    assert "0.4 of each conv's inputs asked for" in said[-1] and f"{share:.2%} of the conv FLOPs" in said[-1]
    rows = {row["layer"]: row for row in outcome.figures["layers"]}
    assert rows["layer1.0.conv2"]["inputs"] == [16, 6] and rows["layer1.0.conv2"]["asked"] == 0.4
    assert sum(row["flops"][1] for row in rows.values()) == outcome.figures["flops"][1]
    assert outcome.figures["groups"]["layer1.0.conv1"] == 6 / 16
    assert sum(line.startswith("  ") for line in said) == len(rows) == encoding.length
    ratios = np.linspace(0.3, 1, encoding.length).round(3)
    file = tmp_path / "ratio.list"
    file.write_text(", ".join(f"{r:g}" for r in ratios) + "\n")
    keys = {"prune_option": "list", "cp_prune_list_file": str(file), "cp_nb_batches": 1, "cp_quadruple": True}
    outcome = ChannelPruning(keys).run(task)
    widths = rounded(task.analysis.coupling, encoding.widths(ratios[None])[0])
    assert outcome.plan.widths(task.analysis.coupling).tolist() == widths.tolist()
    assert (widths % 4 == 0).all()


@pytest.mark.parametrize("backend", MOSTLY_TORCH)
def test_the_files_shrink_and_load_again(backend: str, tmp_path: Path) -> None:
    task, outcome = task_of(backend), pruned(backend)
    bench = task.analysis.backend
    small = bench.apply(outcome.analysis, outcome.plan)
    bench.save(task.analysis.model, tmp_path / "base")
    bench.save(small, tmp_path / "small")
    sizes = [(tmp_path / part / "weights.safetensors").stat().st_size for part in ("base", "small")]
    assert sizes[1] < 0.6 * sizes[0]
    again = bench.load(bench.build_model("resnet20", seed=5, in_channels=1), tmp_path / "small", task.analysis.example)
    np.testing.assert_array_equal(
        logits(task.analysis, task.loaders, again), logits(task.analysis, task.loaders, small)
    )


@pytest.mark.parametrize("name", ["lenet5", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_both_frameworks_find_the_same(name: str) -> None:
    pytest.importorskip("mindspore")
    left, right = (pruned(backend, name) for backend in ("torch", "mindspore"))
    assert left.plan == right.plan
    states = [o.analysis.backend.get_state(o.analysis.model) for o in (left, right)]
    assert states[0].keys() >= states[1].keys()  # PyTorch counts batches besides
    for key in states[1]:
        assert relative_error(states[1][key], states[0][key]) < 1e-3, key


def test_ratios_belong_to_the_same_convs_in_both_frameworks() -> None:
    pytest.importorskip("mindspore")
    orders = [PreserveRatioEncoding(task_of(backend).analysis.coupling).layers for backend in ("torch", "mindspore")]
    assert orders[0] == orders[1]
    assert orders[0][7:9] == ("layer2.0.downsample.0", "layer2.0.conv1")


def test_the_documented_list() -> None:
    data = json.loads(GOLDEN.read_text())
    backend = get_backend("torch")
    model = backend.build_model("resnet20", seed=0, first_projection=True)
    coupling = analyse(backend, model, backend.example((1, 3, 32, 32)), probe=False).coupling
    encoding = PreserveRatioEncoding(coupling)
    settings = ChannelPruningSettings(prune_option="list", cp_prune_list=data["ratios"])
    ratios = asked_ratios(settings, encoding)
    assert encoding.strategy_macs(encoding.strategy(ratios)) == data["flops"]
    # what is private to one conv is kept as PocketFlow does; what several read follows the largest ratio
    widths = encoding.widths(ratios[None])[0]
    readers = {g.name: [m.layer for m in g.consumers if m.kind == "conv"] for g in coupling.groups}
    private = {name: layers[0] for name, layers in readers.items() if len(layers) == 1}
    assert len(private) == 9
    for name, layer_name in private.items():
        assert widths[coupling.index[name]] == data["kept_c_in"][encoding.layers.index(layer_name)]

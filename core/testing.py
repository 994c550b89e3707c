"""The laws of a backend, as a test case that every backend inherits — also a third party's.

    class TestMyBackend(BackendTestCase):
        backend = MyBackend()

        def build(self):
            return network_with_residual_and_norms(), example_input

Pytest collects the inherited tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from prunekit.core.analysis import Analysis, analyse, dry_run
from prunekit.core.backend import Backend
from prunekit.core.errors import CheckpointError, InputError, PlanError
from prunekit.core.patches import LayerWindow
from prunekit.core.plan import PruningPlan
from prunekit.core.pruning_net import PruningNetSpec
from prunekit.core.recipe import Recipe
from prunekit.core.verification import random_plan, relative_error

__all__ = ["BackendTestCase", "RandomWidths", "random_plan", "random_widths", "relative_error"]


def random_widths(spec: PruningNetSpec, rng: np.random.Generator) -> NDArray[np.int64]:
    """Random widths of the groups that may vary, at least one channel each."""
    widths = spec.widths.copy()
    free = list(spec.free)
    widths[free] = rng.integers(1, widths[free] + 1)
    return widths


class RandomWidths:
    """A callback that gives a PruningNet new widths before every step.

    Attributes:
        steps: The steps it was told of.
    """

    def __init__(self, net: Any, seed: int = 0) -> None:
        self.net, self.rng = net, np.random.default_rng(seed)
        self.steps: list[int] = []

    def epoch_begin(self, epoch: int) -> None:
        """Nothing."""

    def epoch_end(self, epoch: int) -> None:
        """Nothing."""

    def step_begin(self, step: int) -> None:
        """New widths."""
        self.steps.append(step)
        self.net.set_widths(random_widths(self.net.spec, self.rng))


class BackendTestCase(ABC):
    """Laws that hold for every backend.

    Attributes:
        backend: The backend under test.
        classes: Number of outputs of the network that :meth:`build` gives.
        formats: Export formats to try, with a file name each.
    """

    backend: Backend
    classes: int = 10
    formats: tuple[tuple[str, str], ...] = ()

    @abstractmethod
    def build(self) -> tuple[Any, Any]:
        """A fresh, equally initialised classifier with norms, and an example input."""

    @abstractmethod
    def loader(self) -> Any:
        """At least two batches of ``(inputs, targets)`` that fit the network."""

    def analysis(self) -> Analysis:
        """A fresh network, analysed."""
        model, example = self.build()
        return analyse(self.backend, model, example)

    def test_accepts_its_own_models_only(self) -> None:
        model, _ = self.build()
        assert self.backend.accepts(model)
        assert not self.backend.accepts("a model")

    def test_outputs_are_those_that_are_predicted(self) -> None:
        model, example = self.build()
        predicted = self.backend.predict(model, example)
        assert relative_error(self.backend.outputs(model, example)[0], predicted) < 1e-6
        copy, precise = self.backend.precise(model, example)
        assert copy is not model and self.backend.outputs(copy, precise)[0].shape == predicted.shape
        assert relative_error(self.backend.predict(model, example), predicted) == 0.0

    def test_pruned_equals_masked(self) -> None:
        analysis = self.analysis()
        full = self.backend.predict(analysis.model, analysis.example)
        for seed in range(3):
            plan = random_plan(analysis, seed=seed)
            with self.backend.masked(analysis, plan):
                expected = self.backend.predict(analysis.model, analysis.example)
            found = self.backend.predict(self.backend.apply(analysis, plan), analysis.example)
            assert relative_error(found, expected) < 1e-5
            assert relative_error(found, full) > 1e-3, "pruning changed nothing: the test is blind"

    def test_trace_of_the_cut_model_is_the_graph_cut_by_the_plan(self) -> None:
        analysis = self.analysis()
        plan = random_plan(analysis)
        assert dry_run(analysis, plan) is None
        small = self.backend.trace(self.backend.apply(analysis, plan), analysis.example)
        lengths = analysis.coupling.forms.lengths(plan.widths(analysis.coupling)[None])[0]
        forms = analysis.coupling.forms
        for name, tensor in analysis.graph.parameters().items():
            assert small.parameters()[name].shape == forms.shape(tensor.id, lengths)

    def test_the_given_model_is_untouched(self) -> None:
        analysis = self.analysis()
        before = self.backend.get_state(analysis.model)
        with self.backend.masked(analysis, random_plan(analysis)):
            pass
        self.backend.apply(analysis, random_plan(analysis))
        after = self.backend.get_state(analysis.model)
        assert list(before) == list(after)
        assert all(np.array_equal(before[name], after[name]) for name in before)

    def test_keeping_everything_changes_nothing(self) -> None:
        analysis = self.analysis()
        same = self.backend.apply(analysis, PruningPlan.full(analysis.coupling))
        expected = self.backend.predict(analysis.model, analysis.example)
        assert np.array_equal(self.backend.predict(same, analysis.example), expected)

    def test_zero_is_masked_for_good(self) -> None:
        analysis = self.analysis()
        plan = random_plan(analysis)
        expected = self.backend.predict(self.backend.apply(analysis, plan), analysis.example)
        self.backend.zero(analysis, plan)
        assert relative_error(self.backend.predict(analysis.model, analysis.example), expected) < 1e-5

    def test_state_goes_out_and_in_unchanged(self) -> None:
        model, example = self.build()
        state = self.backend.get_state(model)
        expected = self.backend.predict(model, example)
        self.backend.set_state(model, {name: value * 0 + 1 for name, value in state.items()})
        assert relative_error(self.backend.predict(model, example), expected) > 1e-3
        self.backend.set_state(model, state)
        assert np.array_equal(self.backend.predict(model, example), expected)

    def test_a_foreign_state_is_refused_whole(self) -> None:
        model, _ = self.build()
        state = self.backend.get_state(model)
        name = next(n for n, v in state.items() if v.ndim > 1)
        for wrong in ({**state, name: state[name][:1]}, {**state, "extra": state[name]}, {name: state[name]}):
            with pytest.raises(CheckpointError):
                self.backend.set_state(model, wrong)
        now = self.backend.get_state(model)
        assert all(np.array_equal(state[n], now[n]) for n in state)

    def test_a_clone_is_independent(self) -> None:
        model, example = self.build()
        expected = self.backend.predict(model, example)
        other = self.backend.clone(model)
        self.backend.set_state(other, {n: v * 0 + 1 for n, v in self.backend.get_state(other).items()})
        assert np.array_equal(self.backend.predict(model, example), expected)

    def test_a_plan_of_another_model_is_refused(self) -> None:
        analysis = self.analysis()
        plan = random_plan(analysis)
        small = analyse(self.backend, self.backend.apply(analysis, plan), analysis.example)
        with pytest.raises(PlanError, match="fingerprint"):
            self.backend.apply(small, plan)

    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        analysis = self.analysis()
        small = self.backend.apply(analysis, random_plan(analysis))
        self.backend.save(small, tmp_path)
        fresh, _ = self.build()
        again = self.backend.load(fresh, tmp_path)
        expected = self.backend.predict(small, analysis.example)
        assert np.array_equal(self.backend.predict(again, analysis.example), expected)
        assert self.backend.plan_of(again).kept == self.backend.plan_of(small).kept

    def test_fit_learns_and_keeps_shapes(self) -> None:
        analysis = self.analysis()
        small = self.backend.apply(analysis, random_plan(analysis))
        before = self.backend.evaluate(small, self.loader())["loss"]
        shapes = {n: v.shape for n, v in self.backend.get_state(small).items()}
        self.backend.fit(small, self.loader(), Recipe(epochs=5, lr=0.02, schedule="constant", seed=0))
        assert {n: v.shape for n, v in self.backend.get_state(small).items()} == shapes
        self.backend.recalibrate(small, self.loader(), 2)
        assert self.backend.evaluate(small, self.loader())["loss"] < before

    def test_fit_with_a_plan_keeps_the_mask(self) -> None:
        analysis = self.analysis()
        plan = random_plan(analysis)
        self.backend.zero(analysis, plan)
        recipe = Recipe(epochs=1, lr=0.02, schedule="constant", seed=0)
        self.backend.fit(analysis.model, self.loader(), recipe, analysis=analysis, plan=plan)
        state = self.backend.get_state(analysis.model)
        for name, axes in analysis.coupling.cuts(plan).items():
            if "running" in name:
                continue
            for axis, kept in axes.items():
                gone = np.setdiff1d(np.arange(state[name].shape[axis]), kept)
                assert not np.take(state[name], gone, axis=axis).any(), name

    def test_a_pruning_net_computes_what_the_network_cut_to_its_widths_does(self) -> None:
        analysis = self.analysis()
        net = self.backend.pruning_net(analysis, hidden=8, seed=1)
        whole = replace(analysis, model=self.backend.clone(analysis.model))
        rng, seen = np.random.default_rng(0), []
        for _ in range(2):
            widths = random_widths(net.spec, rng)
            net.set_widths(widths)
            seen.append(net.weights())
            self.backend.set_state(whole.model, seen[-1])
            small = self.backend.apply(whole, net.spec.plan(analysis.coupling, widths), check=False)
            expected = self.backend.predict(small, analysis.example)
            assert relative_error(self.backend.predict(net, analysis.example), expected) < 1e-5
            full = self.backend.predict(whole.model, analysis.example)
            assert relative_error(full, expected) > 1e-3, "the widths changed nothing: the test is blind"
        made = [w.name for w in net.spec.weights]
        assert made and not any(np.array_equal(seen[0][n], seen[1][n]) for n in made), "weights must follow the widths"
        again, other = (self.backend.pruning_net(analysis, hidden=8, seed=seed) for seed in (1, 2))
        for each in (again, other):
            each.set_widths(widths)
        assert all(np.array_equal(again.weights()[n], value) for n, value in seen[-1].items())
        assert not any(np.array_equal(other.weights()[n], seen[-1][n]) for n in made)
        self.backend.set_state(other, self.backend.get_state(net))
        assert all(np.array_equal(other.weights()[n], value) for n, value in seen[-1].items())

    def test_a_pruning_net_learns_at_random_widths(self) -> None:
        analysis = self.analysis()
        untouched = self.backend.get_state(analysis.model)
        net = self.backend.pruning_net(analysis, hidden=8)
        before = self.backend.get_state(net)
        callback = RandomWidths(net)
        recipe = Recipe(epochs=8, lr=0.05, schedule="constant", seed=0)
        history = self.backend.fit(net, self.loader(), recipe, callbacks=[callback]).history
        assert callback.steps == list(range(16)), "step_begin counts the steps of the whole training"
        losses = [line["loss"] for line in history]
        assert np.mean(losses[-3:]) < np.mean(losses[:3])
        after = self.backend.get_state(net)
        still = [n for n in before if n.startswith("generators.") and np.array_equal(before[n], after[n])]
        assert not still, "every generator must be trained"
        now = self.backend.get_state(analysis.model)
        assert all(np.array_equal(untouched[n], now[n]) for n in untouched)

    def test_recalibrated_statistics_do_not_depend_on_where_they_began(self) -> None:
        model, example = self.build()
        self.backend.recalibrate(model, self.loader(), 2)
        expected = self.backend.predict(model, example)
        state = self.backend.get_state(model)
        self.backend.set_state(model, {n: v * 3 if "running" in n else v for n, v in state.items()})
        assert self.backend.recalibrate(model, self.loader(), 2) == 2
        assert relative_error(self.backend.predict(model, example), expected) < 1e-5

    def test_gradients_and_activations_fit_the_parameters(self) -> None:
        model, _ = self.build()
        state = self.backend.get_state(model)
        gradients = self.backend.gradients(model, self.loader())
        assert gradients and all(gradients[n].shape == state[n].shape for n in gradients)
        assert any(g.any() for g in gradients.values())
        after = self.backend.get_state(model)
        assert all(np.array_equal(state[n], after[n]) for n in state), "observing must not train"
        layer = next(n for n, v in state.items() if v.ndim == 4).rpartition(".")[0]
        found = self.backend.activations(model, self.loader(), [layer])[layer]
        assert found.shape == state[f"{layer}.weight"].shape[:1]
        assert (found >= 0).all() and found.any()

    def test_feature_maps_are_what_layers_read_and_give(self) -> None:
        analysis = self.analysis()
        graph, rng = analysis.graph, np.random.default_rng(0)
        windows = [window for op in graph.ops if (window := LayerWindow.of(graph, op)) is not None]
        taps = [(window.layer, side) for window in windows for side in ("input", "output")]
        batch = next(iter(self.loader()))
        maps = self.backend.feature_maps(analysis.model, batch, taps)
        state = self.backend.get_state(analysis.model)
        assert windows and set(maps) == set(taps)
        for window in windows:
            x, y = (maps[window.layer, side] for side in ("input", "output"))
            places = window.positions(y, 5, rng)
            given = window.rows(x, places) @ window.matrix(state[f"{window.layer}.weight"]).T
            expected = window.answers(y, places) - state.get(f"{window.layer}.bias", 0)
            assert relative_error(given, expected) < 1e-4, window
        with pytest.raises(InputError, match="layers must be names"):
            self.backend.feature_maps(analysis.model, batch, [("nowhere", "input")])
        with pytest.raises(InputError, match="a tap must be"):
            self.backend.feature_maps(analysis.model, batch, [(windows[0].layer, "middle")])

    def test_latency_is_measured(self) -> None:
        model, example = self.build()
        found = self.backend.latency(model, example, runs=3, warmup=1)
        assert 0 < found.median <= found.p90
        assert found.runs == 3 and found.device

    def test_exports_are_written(self, tmp_path: Path) -> None:
        analysis = self.analysis()
        small = self.backend.apply(analysis, random_plan(analysis))
        for format_, name in self.formats:
            path = self.backend.export(small, analysis.example, tmp_path / name, format_)
            assert path.stat().st_size > 0

"""MindSpore's side of the contract: each method is one call into the room that does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from prunekit.backend_mindspore import _batches, cut, mask, state
from prunekit.backend_mindspore._running import located
from prunekit.backend_mindspore.trace import trace
from prunekit.core._examples import check_shape
from prunekit.core.analysis import Analysis
from prunekit.core.backend import Backend, ExportFormat, Latency, State, Tap
from prunekit.core.constants import Integers
from prunekit.core.graph import Graph
from prunekit.core.plan import PruningPlan
from prunekit.core.processes import Processes

if TYPE_CHECKING:
    from prunekit.core.recipe import FitResult, Recipe

__all__ = ["MindSporeBackend"]


class MindSporeBackend(Backend):
    """MindSpore, in PYNATIVE and GRAPH mode, on any device it supports."""

    name = "mindspore"
    modes = ("pynative", "graph")

    def in_mode(self, mode: str) -> AbstractContextManager[None]:
        return _batches.running(mode)

    def accepts(self, model: Any) -> bool:
        return isinstance(model, nn.Cell)

    def trace(self, model: Any, example: Any) -> Graph:
        return located(trace(model, example), model, example)

    def trace_cut(self, analysis: Analysis, plan: PruningPlan) -> Graph:
        return cut.trace_cut(analysis, plan)

    def integers(self, model: Any) -> Integers:
        return cut.integers(model)

    def clone(self, model: Any) -> nn.Cell:
        return cut.clone(model)

    def get_state(self, model: Any, *, copy: bool = True) -> State:
        return state.get_state(model, copy=copy)

    def set_state(self, model: Any, values: Mapping[str, NDArray[Any]]) -> None:
        state.set_state(model, values)

    def apply(self, analysis: Analysis, plan: PruningPlan, *, check: bool = True) -> nn.Cell:
        return cut.apply(analysis, plan, check=check)

    def masked(self, analysis: Analysis, plan: PruningPlan) -> AbstractContextManager[Any]:
        return mask.masked(analysis, plan)

    def zero(self, analysis: Analysis, plan: PruningPlan) -> None:
        mask.zero(analysis, plan)

    def processes(self) -> Processes:
        from prunekit.backend_mindspore import _distributed

        return _distributed.processes()

    def predict(self, model: Any, inputs: Iterable[Any] | Any) -> NDArray[Any]:
        from prunekit.backend_mindspore import observe

        return observe.predict(model, inputs)

    def outputs(self, model: Any, example: Any) -> list[NDArray[Any]]:
        from prunekit.backend_mindspore import observe

        return observe.outputs(model, example)

    def precise(self, model: Any, example: Any) -> tuple[Any, Any]:
        from prunekit.backend_mindspore import observe

        return observe.precise(model, example)

    def evaluate(self, model: Any, loader: Iterable[Any]) -> dict[str, float]:
        from prunekit.backend_mindspore import observe

        return observe.evaluate(model, loader)

    def activations(self, model: Any, loader: Iterable[Any], layers: Sequence[str]) -> dict[str, NDArray[Any]]:
        from prunekit.backend_mindspore import observe

        return observe.activations(model, loader, layers)

    def feature_maps(self, model: Any, inputs: Any, taps: Sequence[Tap]) -> dict[Tap, NDArray[Any]]:
        from prunekit.backend_mindspore import observe

        return observe.feature_maps(model, inputs, taps)

    def gradients(self, model: Any, loader: Iterable[Any]) -> State:
        from prunekit.backend_mindspore import observe

        return observe.gradients(model, loader)

    def fit(self, model: Any, loader: Iterable[Any], recipe: Recipe, **options: Any) -> FitResult:
        from prunekit.backend_mindspore import train

        return train.fit(model, loader, recipe, **options)

    def pruning_net(self, analysis: Analysis, *, hidden: int = 32, seed: int = 0) -> nn.Cell:
        from prunekit.backend_mindspore.pruning_net import pruning_net

        return pruning_net(analysis, hidden=hidden, seed=seed)

    def recalibrate(self, model: Any, loader: Iterable[Any], batches: int = 100) -> int:
        from prunekit.backend_mindspore import statistics

        return statistics.recalibrate(model, loader, batches)

    def latency(self, model: Any, example: Any, *, runs: int = 50, warmup: int = 10) -> Latency:
        from prunekit.backend_mindspore.latency import latency

        return latency(model, example, runs=runs, warmup=warmup)

    def export(self, model: Any, example: Any, path: str | Path, format: str) -> Path:
        from prunekit.backend_mindspore.exporting import export

        return export(model, example, path, format)

    def export_formats(self) -> Mapping[str, ExportFormat]:
        from prunekit.backend_mindspore.exporting import FORMATS

        return FORMATS

    def default_formats(self) -> tuple[str, ...]:
        return ("mindir", "air") if ms.get_context("device_target") == "Ascend" else ("mindir",)

    def build_model(self, name: str, *, seed: int | None = None, **options: Any) -> nn.Cell:
        from prunekit.backend_mindspore._random import seeded
        from prunekit.backend_mindspore.zoo import build_model

        if seed is None:
            return build_model(name, **options)
        with seeded(seed):
            return build_model(name, **options)

    def default_input(self, name: str, **options: Any) -> tuple[int, ...]:
        from prunekit.backend_mindspore.zoo import default_input

        return default_input(name, **options)

    def list_models(self) -> Sequence[Any]:
        from prunekit.backend_mindspore.zoo import list_models

        return list_models()

    def loaders(self, data: Any, batch_size: int = 128, **options: Any) -> Any:
        from prunekit.backend_mindspore.data import loaders

        return loaders(data, batch_size, **options)

    def example(self, shape: Sequence[int], seed: int = 0, *, like: Any = None) -> Tensor:
        check_shape(shape)
        drawn = Tensor(np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32))
        found = None if like is None else next((p for p in like.get_parameters() if p.is_floating_point()), None)
        return drawn if found is None else drawn.astype(found.dtype)

"""PyTorch's side of the contract: each method is one call into the room that does it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import nn

from prunekit.backend_torch import cut, mask, state
from prunekit.backend_torch._copying import deep_copy
from prunekit.backend_torch._random import seeded
from prunekit.backend_torch.trace import trace
from prunekit.core._examples import check_shape
from prunekit.core.analysis import Analysis
from prunekit.core.backend import Backend, ExportFormat, Latency, State, Tap
from prunekit.core.constants import Integers
from prunekit.core.graph import Graph
from prunekit.core.plan import PruningPlan
from prunekit.core.processes import Processes

if TYPE_CHECKING:
    from prunekit.core.recipe import FitResult, Recipe

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """PyTorch, on any device it supports."""

    name = "torch"

    def accepts(self, model: Any) -> bool:
        return isinstance(model, nn.Module)

    def trace(self, model: Any, example: Any) -> Graph:
        return trace(model, example)

    def trace_cut(self, analysis: Analysis, plan: PruningPlan) -> Graph:
        return cut.trace_cut(analysis, plan)

    def integers(self, model: Any) -> Integers:
        return cut.integers(model)

    def clone(self, model: Any) -> nn.Module:
        return deep_copy(model)

    def get_state(self, model: Any, *, copy: bool = True) -> State:
        return state.get_state(model, copy=copy)

    def set_state(self, model: Any, values: Mapping[str, NDArray[Any]]) -> None:
        state.set_state(model, values)

    def apply(self, analysis: Analysis, plan: PruningPlan, *, check: bool = True) -> nn.Module:
        return cut.apply(analysis, plan, check=check)

    def masked(self, analysis: Analysis, plan: PruningPlan) -> AbstractContextManager[Any]:
        return mask.masked(analysis, plan)

    def zero(self, analysis: Analysis, plan: PruningPlan) -> None:
        mask.zero(analysis, plan)

    def processes(self) -> Processes:
        from prunekit.backend_torch import distributed

        return distributed.processes()

    def predict(self, model: Any, inputs: Iterable[Any] | Any) -> NDArray[Any]:
        from prunekit.backend_torch import observe

        return observe.predict(model, inputs)

    def outputs(self, model: Any, example: Any) -> list[NDArray[Any]]:
        from prunekit.backend_torch import observe

        return observe.outputs(model, example)

    def precise(self, model: Any, example: Any) -> tuple[Any, Any]:
        from prunekit.backend_torch import observe

        return observe.precise(model, example)

    def evaluate(self, model: Any, loader: Iterable[Any]) -> dict[str, float]:
        from prunekit.backend_torch import observe

        return observe.evaluate(model, loader)

    def activations(self, model: Any, loader: Iterable[Any], layers: Sequence[str]) -> dict[str, NDArray[Any]]:
        from prunekit.backend_torch import observe

        return observe.activations(model, loader, layers)

    def feature_maps(self, model: Any, inputs: Any, taps: Sequence[Tap]) -> dict[Tap, NDArray[Any]]:
        from prunekit.backend_torch import observe

        return observe.feature_maps(model, inputs, taps)

    def gradients(self, model: Any, loader: Iterable[Any]) -> State:
        from prunekit.backend_torch import observe

        return observe.gradients(model, loader)

    def fit(self, model: Any, loader: Iterable[Any], recipe: Recipe, **options: Any) -> FitResult:
        from prunekit.backend_torch import train

        return train.fit(model, loader, recipe, **options)

    def pruning_net(self, analysis: Analysis, *, hidden: int = 32, seed: int = 0) -> nn.Module:
        from prunekit.backend_torch.pruning_net import pruning_net

        return pruning_net(analysis, hidden=hidden, seed=seed)

    def recalibrate(self, model: Any, loader: Iterable[Any], batches: int = 100) -> int:
        from prunekit.backend_torch import statistics

        return statistics.recalibrate(model, loader, batches)

    def latency(self, model: Any, example: Any, *, runs: int = 50, warmup: int = 10) -> Latency:
        from prunekit.backend_torch.latency import latency

        return latency(model, example, runs=runs, warmup=warmup)

    def export(self, model: Any, example: Any, path: str | Path, format: str) -> Path:
        from prunekit.backend_torch.exporting import export

        return export(model, example, path, format)

    def build_model(self, name: str, *, seed: int | None = None, **options: Any) -> nn.Module:
        from prunekit.backend_torch.zoo import build_model

        if seed is None:
            return build_model(name, **options)
        with seeded(seed):
            return build_model(name, **options)

    def default_input(self, name: str, **options: Any) -> tuple[int, ...]:
        from prunekit.backend_torch.zoo import default_input

        return default_input(name, **options)

    def export_formats(self) -> Mapping[str, ExportFormat]:
        from prunekit.backend_torch.exporting import FORMATS

        return FORMATS

    def default_formats(self) -> tuple[str, ...]:
        complete = all(importlib.util.find_spec(m) for m in ("onnx", "onnxscript", "onnxruntime"))
        return ("torchscript", "onnx") if complete else ("torchscript",)

    def default_example(self, name: str, seed: int = 0, **options: Any) -> Any:
        from prunekit.backend_torch.zoo import default_example

        found = default_example(name, seed, **options)
        return super().default_example(name, seed, **options) if found is None else found

    def list_models(self) -> Sequence[Any]:
        from prunekit.backend_torch.zoo import list_models

        return list_models()

    def loaders(self, data: Any, batch_size: int = 128, **options: Any) -> Any:
        from prunekit.backend_torch.data import loaders

        return loaders(data, batch_size, **options)

    def example(self, shape: Sequence[int], seed: int = 0, *, like: Any = None) -> torch.Tensor:
        check_shape(shape)
        drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        found = None if like is None else next((p for p in like.parameters() if p.is_floating_point()), None)
        return drawn if found is None else drawn.to(found)

"""What users of a framework call: the same functions for every backend, bound to one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from prunekit.core.analysis import analyse
from prunekit.core.backend import Backend
from prunekit.core.budget import Budget
from prunekit.core.errors import InputError
from prunekit.core.export_files import format_of
from prunekit.core.importance.score import Importance
from prunekit.core.inspection import Inspection
from prunekit.core.plan import PruningPlan
from prunekit.core.prune import prune as _prune

__all__ = ["Face"]


class Face:
    """The user's functions for one backend.

    A backend's package publishes them by name: ``prune = Face(TorchBackend()).prune``.

    Args:
        backend: The backend that does the work.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def inspect(
        self,
        model: Any,
        example: Any,
        *,
        ignore: Sequence[str] = (),
        attention: str = "heads",
        grouped: str = "within",
    ) -> Inspection:
        """What could be cut: groups, widths, what is frozen and why, what each budget would leave.

        Args:
            model: A network; it is not changed.
            example: One input such as ``(N, C, H, W)``, a tuple of inputs, or a dict of keyword inputs.
            ignore: Name patterns of layers whose outputs must stay.
            attention: ``"heads"`` or ``"head_dim"``: which axis is cut where channels are split into heads.
            grouped: ``"within"`` or ``"whole"``: whether grouped convolutions lose channels of every group, or groups;
                transposed ones always lose channels.

        Returns:
            An object that prints as text and gives plain data by ``to_dict()``.

        Raises:
            TraceError: The model does not run on the example.
        """
        self._own(model)
        _check_example(example)
        found = analyse(self.backend, model, example, attention=attention, grouped=grouped, ignore=ignore)
        return Inspection.of(found)

    def prune(
        self,
        model: Any,
        example: Any,
        *,
        macs: float | None = None,
        flops: float | None = None,
        params: float | None = None,
        latency: float | None = None,
        ratio: float | None = None,
        importance: Importance = "l2",
        scope: str = "global",
        align: str | int | None = None,
        min_channels: int = 1,
        ignore: Sequence[str] = (),
        attention: str = "heads",
        grouped: str = "within",
        data: Any = None,
        seed: int = 0,
        tolerance: float = 0.0,
    ) -> Any:
        """A new, smaller model within a budget; the given one is untouched.

        Under ``torchrun`` or ``msrun`` every process calls this: the first one decides for all.

        Exactly one budget is given. Each says what is **kept**: a share in (0, 1] of the unpruned
        network's figure, or, above 1, an absolute number (``macs=2e9``).

        Args:
            model: A network.
            example: One input such as ``(N, C, H, W)``, a tuple of inputs, or a dict of keyword inputs.
            macs: Multiply-accumulates to keep.
            flops: Floating-point operations to keep.
            params: Parameters to keep.
            latency: Run time to keep, measured on this machine: a share, or milliseconds above 1.
            ratio: Share of the channels to keep.
            importance: Name of a criterion (``prunekit list criteria``) or ``f(group, state) -> scores``.
            scope: ``"global"`` ranks channels network-wide; ``"layer"`` keeps the same share of every group.
            align: A device profile (``"cuda-fp16"``) or a number that widths shall be multiples of.
            min_channels: Least width of a group.
            ignore: Name patterns of layers whose outputs must stay.
            attention: ``"heads"`` or ``"head_dim"``.
            grouped: ``"within"`` or ``"whole"``: how grouped convolutions are cut.
            data: Loader of ``(inputs, targets)``, for criteria that need data.
            seed: For criteria that draw.
            tolerance: By how much the budget may be exceeded, as a share of the unpruned figure.

        Returns:
            The smaller model; ``plan_of`` gives its plan.

        Raises:
            BudgetError: The budget is malformed or cannot be reached.
            NothingToPruneError: Every channel is frozen; the message says why.
            TraceError: The model does not run on the example.
        """
        self._own(model)
        _check_example(example)
        budget = Budget.of(macs=macs, flops=flops, params=params, latency=latency, ratio=ratio, tolerance=tolerance)
        small, _ = _prune(
            self.backend, model, example, budget,
            importance=importance, scope=scope, align=align, min_channels=min_channels,
            ignore=ignore, attention=attention, grouped=grouped, data=data, seed=seed,
        )  # fmt: skip
        return small

    def plan_of(self, model: Any) -> PruningPlan:
        """The plan that made a pruned model.

        Raises:
            PlanError: The model was not pruned by prunekit.
        """
        return self.backend.plan_of(model)

    def save(self, model: Any, folder: str | PathLike[str]) -> Path:
        """Write a pruned model: ``weights.safetensors`` and ``plan.json``.

        Raises:
            OutputError: The folder cannot be written; nothing is left behind.
        """
        return self.backend.save(model, Path(folder))

    def load(self, model: Any, folder: str | PathLike[str], example: Any = None) -> Any:
        """The pruned model that was saved in a folder.

        Args:
            model: The unpruned network, freshly built with the same arguments.
            folder: What ``save`` wrote.
            example: An example input, where the model needs another than one tensor of the saved shape.

        Raises:
            PlanError: The plan is of another model or damaged.
            CheckpointError: The weights are damaged or do not belong to the plan.
        """
        return self.backend.load(model, Path(folder), example)

    def export(self, model: Any, example: Any, path: str | PathLike[str], format: str | None = None) -> Path:
        """Write a model for a runtime; the file is loaded again and compared before it appears.

        Args:
            model: A model, pruned or not.
            example: An example input.
            path: File to write.
            format: ``"torchscript"``, ``"pt2"``, ``"onnx"``, ``"mindir"``, …, as the backend has them;
                by default the one that the suffix of ``path`` stands for.

        Raises:
            ExportError: The format is unknown, or the file does not compute what the model does.
        """
        return self.backend.export(model, example, Path(path), format or format_of(path, self.backend.export_formats()))

    def _own(self, model: Any) -> None:
        if self.backend.accepts(model):
            return
        got, advice = type(model).__name__, "import prune from the backend of your framework"
        if isinstance(model, Mapping):
            advice = "give the network itself, not its weights"
        elif isinstance(model, type) or inspect.isroutine(model):
            got = f"{'the class' if isinstance(model, type) else 'the function'} {model.__name__}"
            advice = f"build the network first, as in {model.__name__}()"
        raise InputError(f"the {self.backend.name} backend takes networks of its framework, got {got}; {advice}")


def _check_example(example: Any) -> None:
    """Make sure that an example is not what one is easily mistaken for.

    Raises:
        InputError: It is nothing, or a shape.
    """
    numbers = isinstance(example, tuple | list) and example and all(isinstance(n, int) for n in example)
    if example is None or numbers:
        advice = "a tensor of that shape" if numbers else "one, for example a batch of one image"
        raise InputError(f"an example must be an input of the network, got {example!r}; give {advice}")

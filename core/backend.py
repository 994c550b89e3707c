"""The contract: what a framework must do for prunekit, and nothing else.

Models, examples and loaders are the framework's own objects and pass through untouched. A
*loader* is any iterable of ``(inputs, targets)`` batches that can be iterated more than once.
State crosses the border as NumPy arrays under canonical names: those of the layers, with
``weight``, ``bias``, ``running_mean`` and ``running_var``, in the layout of ``core.graph``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from prunekit.core.analysis import Analysis
from prunekit.core.carried import plan_of
from prunekit.core.constants import Integers
from prunekit.core.errors import InputError
from prunekit.core.graph import Graph
from prunekit.core.plan import PruningPlan
from prunekit.core.processes import Processes

if TYPE_CHECKING:
    from prunekit.core.recipe import FitResult, Recipe

__all__ = ["Backend", "ExportFormat", "Latency", "State", "Tap"]

State = dict[str, NDArray[Any]]
Tap = tuple[str, str]
"""A layer's dotted name, and ``"input"`` or ``"output"``."""


@dataclass(frozen=True)
class ExportFormat:
    """A file format.

    Attributes:
        name: As passed to :meth:`Backend.export`.
        suffixes: How its files may end; the first is added to a path without suffix.
        runtime: What loads its files, to check them.
    """

    name: str
    suffixes: tuple[str, ...]
    runtime: str


@dataclass(frozen=True)
class Latency:
    """A measured run time of one forward pass.

    Attributes:
        median: Seconds.
        p90: Seconds, 90th percentile.
        runs: Number of timed passes, after warm-up.
        device: Name of the device, e.g. ``"cpu: AMD EPYC, 2 threads"``.
        shape: Input shape.
    """

    median: float
    p90: float
    runs: int
    device: str
    shape: tuple[int, ...]


class Backend(ABC):
    """What every framework offers. Stateless: every method is handed the model."""

    name: str = ""
    """Short name: ``"torch"``, ``"mindspore"``."""

    modes: tuple[str, ...] = ()
    """Ways in which a network can be run (op by op first, then compiled), where a framework has several."""

    def in_mode(self, mode: str) -> AbstractContextManager[None]:
        """Within the context networks run in one of :attr:`modes`; then as before.

        Raises:
            InputError: There is no such mode.
        """
        raise InputError(f"{self.name} runs networks in one way alone, got the mode {mode!r}; leave it out")

    @abstractmethod
    def accepts(self, model: Any) -> bool:
        """Whether ``model`` is one of this framework's networks."""

    @abstractmethod
    def trace(self, model: Any, example: Any) -> Graph:
        """Run the model once and write down what it computes. The model is not changed.

        Args:
            model: A network.
            example: One input, or a tuple of positional inputs, or a dict of keyword inputs.

        Raises:
            TraceError: The model does not run on the example.
        """

    @abstractmethod
    def trace_cut(self, analysis: Analysis, plan: PruningPlan) -> Graph:
        """Trace of the model as the plan would cut it, without touching its weights.

        Where the cut model does not run, the graph ends before the op that failed, or, if the framework
        cannot tell, an error names it.

        Raises:
            CutError: The cut model does not run; ``position`` is the op that stands in the way.
        """

    def integers(self, model: Any) -> Integers:
        """Whole numbers that the modules of the user's own keep as attributes; a cut may have to set them anew.

        A backend that keeps this method leaves them alone: where they stand in the way, channels are frozen.
        """
        return {}

    @abstractmethod
    def clone(self, model: Any) -> Any:
        """An independent copy."""

    @abstractmethod
    def get_state(self, model: Any, *, copy: bool = True) -> State:
        """Parameters and buffers under canonical names.

        Args:
            model: A network.
            copy: Without, arrays may be read-only windows on the model's own memory.
        """

    @abstractmethod
    def set_state(self, model: Any, state: Mapping[str, NDArray[Any]]) -> None:
        """Overwrite parameters and buffers in place.

        Raises:
            CheckpointError: A name is missing or unknown, or a shape differs; nothing is changed.
        """

    @abstractmethod
    def apply(self, analysis: Analysis, plan: PruningPlan, *, check: bool = True) -> Any:
        """A new, smaller model: ``analysis.model`` without the channels that the plan drops.

        Args:
            analysis: The model and its groups.
            plan: What stays.
            check: Trace the result and compare it with the graph cut by the plan; a configuration that the
                network is built from, if it keeps one, follows. Searches do without, for their many candidates.

        Raises:
            PlanError: The plan is for another model.
            CutError: The cut model does not compute the shapes the plan implies.
        """

    @abstractmethod
    def masked(self, analysis: Analysis, plan: PruningPlan) -> AbstractContextManager[Any]:
        """Within the context, ``analysis.model`` computes as if the dropped channels were gone."""

    @abstractmethod
    def zero(self, analysis: Analysis, plan: PruningPlan) -> None:
        """Set everything the plan drops to zero, in place (soft pruning)."""

    @abstractmethod
    def predict(self, model: Any, inputs: Iterable[Any] | Any) -> NDArray[Any]:
        """Outputs in inference mode, concatenated over batches: ``(N, classes)`` for a classifier.

        Args:
            model: A network.
            inputs: One array or tensor ``(N, …)``, or an iterable of batches; of batches that
                are ``(inputs, targets)`` pairs the first is taken.
        """

    @abstractmethod
    def outputs(self, model: Any, example: Any) -> list[NDArray[Any]]:
        """All floating-point tensors that a network returns in inference mode for one example, in order.

        Args:
            model: A network, whatever it returns: nested containers, mappings, dataclasses.
            example: One input, a tuple of positional inputs, or a dict of keyword inputs.
        """

    def precise(self, model: Any, example: Any) -> tuple[Any, Any]:
        """A copy of a network and an example in which rounding errors are as small as the framework allows."""
        return self.clone(model), example

    @abstractmethod
    def evaluate(self, model: Any, loader: Iterable[Any]) -> dict[str, float]:
        """Share of right answers: ``{"top1": …, "top5": …, "loss": …}``, each in one pass."""

    @abstractmethod
    def activations(self, model: Any, loader: Iterable[Any], layers: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Mean absolute output per channel of each named layer over the data: ``(C,)`` each."""

    @abstractmethod
    def feature_maps(self, model: Any, inputs: Any, taps: Sequence[Tap]) -> dict[Tap, NDArray[Any]]:
        """What flows into and out of layers for one batch, in inference mode.

        Args:
            model: A network.
            inputs: One batch, with or without targets.
            taps: ``(layer, "input")`` for its first input, ``(layer, "output")`` for its output. Of a
                layer that runs more than once the last run counts.

        Raises:
            InputError: A layer is unknown, did not run, or has no tensor there.
        """

    @abstractmethod
    def gradients(self, model: Any, loader: Iterable[Any]) -> State:
        """Gradient of the mean loss over the data for each parameter, by canonical name."""

    @abstractmethod
    def fit(self, model: Any, loader: Iterable[Any], recipe: Recipe, **options: Any) -> FitResult:
        """Train in place; see ``core.recipe``.

        Options: ``validation`` (loader), ``teacher`` (model), ``analysis`` and ``plan`` (soft mask
        kept at zero after every step), ``callbacks`` (objects with ``epoch_begin(epoch)`` and
        ``epoch_end(epoch)``, and maybe ``step_begin(step)``), ``log`` (``core.logs.RunLog``).
        """

    @abstractmethod
    def pruning_net(self, analysis: Analysis, *, hidden: int = 32, seed: int = 0) -> Any:
        """The PruningNet of MetaPruning (Liu et al., ICCV 2019): a network that makes its own weights.

        It takes the inputs and gives the outputs of ``analysis.model``, of which it holds a copy. Each conv
        and linear weight that lies on a channel group comes from two fully-connected layers of its own,
        Linear(k, hidden) → ReLU → Linear(hidden, full size), that are told the widths of the groups on its axes
        divided by the full ones; all else is shared by all widths. What lies beyond the leading channels of
        a group is masked, so that the full-size network computes what the cut one does.

        It is trained by :meth:`fit`, generators and shared parameters together, and works with
        :meth:`evaluate`, :meth:`predict`, :meth:`recalibrate`, :meth:`get_state` and :meth:`set_state`. Besides it has
        ``spec`` (``core.pruning_net.PruningNetSpec``) and two methods: ``set_widths(widths)`` chooses the channels
        kept of each group, ``(G,)``, and ``weights()`` gives the full-size, unmasked state of
        ``analysis.model`` generated for them, for :meth:`set_state` of a clone that is then cut by
        ``spec.plan(coupling, widths)``.

        The generators hold ``hidden + 1`` numbers for each weight: 0.04 GB for a ResNet-20, 0.5 GB for a
        MobileNetV2, 3.4 GB for a ResNet-50, and three times that in training. A warning tells of more than 4 GB.

        Args:
            analysis: The model and its groups.
            hidden: Width of the generators' hidden layer.
            seed: Of the generators' parameters, which depend on it and the model's weights alone.

        Raises:
            InputError: ``hidden`` is below 1, or no group may vary.
        """

    @abstractmethod
    def recalibrate(self, model: Any, loader: Iterable[Any], batches: int = 100) -> int:
        """Replace BN statistics by the exact average over batches; returns how many were seen."""

    @abstractmethod
    def latency(self, model: Any, example: Any, *, runs: int = 50, warmup: int = 10) -> Latency:
        """Time forward passes in inference mode."""

    @abstractmethod
    def export(self, model: Any, example: Any, path: str | Path, format: str) -> Path:
        """Write the model for a runtime, load the file again with it, and compare.

        Raises:
            ExportError: The format is unknown, or the file does not compute what the model does.
        """

    @abstractmethod
    def export_formats(self) -> Mapping[str, ExportFormat]:
        """The formats of :meth:`export` by name."""

    @abstractmethod
    def default_formats(self) -> tuple[str, ...]:
        """The formats that are written where none are named, as far as what they need is installed."""

    @abstractmethod
    def build_model(self, name: str, *, seed: int | None = None, **options: Any) -> Any:
        """A network by name: of the zoo, of a library (``library:NAME``), or the user's own.

        With a seed its weights depend on that alone, and the process's generator goes on as it was.

        Raises:
            InputError: The name is unknown.
        """

    @abstractmethod
    def list_models(self) -> Sequence[Any]:
        """Records with ``name`` and ``description`` of the networks of the zoo."""

    @abstractmethod
    def default_input(self, name: str, **options: Any) -> tuple[int, ...]:
        """The input shape that a named network expects, e.g. ``(1, 3, 32, 32)``."""

    def default_example(self, name: str, seed: int = 0, **options: Any) -> Any:
        """What a named network can be called with: a tensor, a tuple of arguments, or a dict of keywords."""
        return self.example(self.default_input(name, **options), seed)

    @abstractmethod
    def example(self, shape: Sequence[int], seed: int = 0, *, like: Any = None) -> Any:
        """A random normal input of that shape, of the type and on the device of the model ``like``."""

    @abstractmethod
    def loaders(self, data: Any, batch_size: int = 128, **options: Any) -> Any:
        """An object with the loaders ``train``, ``validation``, ``test`` and ``calibration``.

        ``calibration`` gives training images without augmentation; ``validation`` is held out of
        the training set. ``classes``, ``shape`` (of one input) and ``name`` describe the data.

        Args:
            data: Name of a data set, ``core.data.Splits``, or a function of the user's own.
            batch_size: Images a batch.
            options: ``seed``, ``augment``, ``size``, ``limit``, ``root`` and what else the data take.

        Raises:
            DataError: The data cannot be read.
        """

    def processes(self) -> Processes:
        """The processes that the framework's own launcher started for one job; by default this one alone."""
        return Processes()

    def plan_of(self, model: Any) -> PruningPlan:
        """The plan that made a pruned model.

        Raises:
            PlanError: The model was not pruned by prunekit.
        """
        return plan_of(model)

    def save(self, model: Any, folder: str | Path) -> Path:
        """Write ``weights.safetensors`` and ``plan.json`` into a folder."""
        from prunekit.core.store import save_network  # which needs this module itself

        return save_network(self, model, folder)

    def load(self, model: Any, folder: str | Path, example: Any = None) -> Any:
        """The saved network, from its freshly built, unpruned original."""
        from prunekit.core.store import load_network

        return load_network(self, model, folder, example)

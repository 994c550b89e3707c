"""UniPruning for MindSpore's ``Model.train``, under the names of its documentation.

    algo = UniPruner({"frequency": 2, "target_sparsity": 0.5, "input_size": (16, 3, 32, 32)})
    algo.apply(net)
    ...  # load weights, make the optimizer
    ms.Model(net, loss, optimizer).train(epochs, data, callbacks=[*algo.callbacks(), LossMonitor()])
    small = algo.convert(net)

The network keeps its cells and the names of its parameters; what is pruned is zeroed in place until
``convert`` makes a smaller network.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Parameter, nn
from mindspore.train import Callback, RunContext
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from prunekit.algorithms.uni_pruner import UniPrunerBase
from prunekit.algorithms.uni_schedule import UniSchedule
from prunekit.backend_mindspore._names import canonical, parameters
from prunekit.backend_mindspore.backend import MindSporeBackend
from prunekit.backend_mindspore.cut import adopt
from prunekit.backend_mindspore.state import to_array
from prunekit.core._files import check_seal, produce_atomic, read_bytes
from prunekit.core.errors import CheckpointError, InputError

__all__ = ["UniPruner", "UniPruningCallback"]

_MASK_SUFFIXES = (".in_mask", ".out_mask")


class UniPruningCallback(UniSchedule, Callback):
    """The schedule as a callback of ``Model.train`` and ``Model.fit``; loops of one's own call
    ``epoch_begin``, ``epoch_end`` and ``train_end``.
    """

    def on_train_begin(self, run_context: RunContext) -> None:
        """Make sure that the training moves the network of ``apply``.

        Raises:
            InputError: It moves other parameters, or its optimizer was made before a cut in place.
        """
        if not self.enabled:
            return
        arguments = run_context.original_args()
        trained = {id(p) for p in arguments.train_network.get_parameters()}
        own = {p.name: p for p in parameters(self.analysis.model).values()}
        missing = [name for name, p in own.items() if p.requires_grad and id(p) not in trained]
        held = getattr(arguments.get("optimizer"), "parameters", ())
        missing += [p.name for p in held if own.get(p.name, p) is not p]
        if missing:
            raise InputError(
                f"the Model must train the network that was given to apply, got others ({len(missing)} "
                f"parameters, e.g. {missing[0]}); make it, and its optimizer, with that network as it is now"
            )

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        """Before an epoch."""
        self.epoch_begin(int(run_context.original_args().cur_epoch_num))

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        """After an epoch."""
        arguments = run_context.original_args()
        self.epoch_end(int(arguments.cur_epoch_num), int(arguments.epoch_num))

    def on_train_end(self, run_context: RunContext) -> None:
        """After the training, also one that was stopped before its last epoch."""
        self.train_end()

    def on_eval_epoch_begin(self, run_context: RunContext) -> None:
        """Nothing: an evaluation has no steps."""

    def on_eval_epoch_end(self, run_context: RunContext) -> None:
        """Nothing: an evaluation has no steps."""


class UniPruner(UniPrunerBase):
    """UniPruning bound to MindSpore, in place of the class of MindSpore Golden Stick.

    Weights files are MindSpore's own (``.ckpt``), with the network's own parameter names. By default a
    converted network is exported to MINDIR, and on Ascend also to AIR.
    """

    schedule = UniPruningCallback
    suffix = ".ckpt"

    def backend(self) -> MindSporeBackend:
        return MindSporeBackend()

    def prune_by_mask(
        self, net: Any, mask: Mapping[str, Sequence[int]] | None, config: Any = None, tag: str | None = None
    ) -> Any:
        """Cut ``net`` itself, in place, and write it to files, as evaluation scripts expect it.

        Make optimizers and ``Model`` objects after this call: those made before hold parameters that the
        network no longer has. Everything else is as in :meth:`convert`, which leaves the network as it is.

        Args:
            net: The unpruned network.
            mask: Layer → output channels that go; None cuts nothing.
            config: Anything with the attributes or keys ``exp_name`` and ``epoch_size``, for file names.
            tag: Part of the file names; by default ``"pruned"``, or ``"original"`` without a mask.

        Returns:
            ``net``.

        Raises:
            PlanError: The mask is malformed or for another model.
            OutputError: The output folder cannot be written.
            ExportError: An exported file does not compute what the model does.
        """
        if not self._backend.accepts(net):
            raise InputError(f"prune_by_mask needs a {self._backend.name} network, got {type(net).__name__}")
        small = super().prune_by_mask(net, mask, config, tag)
        if mask is not None:
            adopt(net, small)
        return net

    def structure(self, model: nn.Cell) -> object:
        # a Model with an amp_level puts casts between the cells, and a network may have been cut in place
        casts = [(id(c), c.get_flags().get("fp16"), c.get_flags().get("bf16")) for _, c in model.cells_and_names()]
        return super().structure(model), casts

    def save_pruned(self, model: nn.Cell, stem: Path) -> None:
        """The folder for ``load``, and a ``.ckpt`` file for ``mindspore.load_checkpoint``."""
        super().save_pruned(model, stem)
        self.save_weights(model, stem.with_name(stem.name + self.suffix))

    def save_weights(self, model: nn.Cell, path: Path) -> None:
        """A checkpoint of the network's parameters, under their own names."""
        entries = [{"name": p.name, "data": p} for p in parameters(model).values()]
        produce_atomic(path, lambda temporary: ms.save_checkpoint(entries, str(temporary)))

    def read_weights(self, model: nn.Cell, path: Path) -> dict[str, Any]:
        """A state from a checkpoint of MindSpore, or of its ``ModelCheckpoint``, or a safetensors file.

        Raises:
            CheckpointError: The file is missing, truncated, or of another network.
        """
        tables = [canonical(model), {name: name for name in parameters(model)}]
        values = _read(path)
        table = max(tables, key=lambda t: len(t.keys() & values.keys()))
        found = {table[name]: value for name, value in values.items() if name in table}
        foreign = [n for n, value in values.items() if n not in table and not _of_training(n, value, table)]
        if foreign:
            raise CheckpointError(
                f"a checkpoint must be of this network, got {len(foreign)} other parameters ({foreign[:3]}) in {path}; "
                "build the network with the arguments that it was trained with"
            )
        return found


def _of_training(name: str, value: NDArray[Any], own: Mapping[str, str]) -> bool:
    """Whether an entry belongs to an optimizer, or to the mask layers of another program."""
    return value.size <= 1 or name.endswith(_MASK_SUFFIXES) or any(name.endswith(f".{n}") for n in own)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        data = read_bytes(path, sys.maxsize)
        check_seal(path, data)
        if path.suffix == ".safetensors":
            return load_tensors(data)
        del data  # MindSpore reads for itself, but also from what is no file
        return {name: to_array(p) for name, p in ms.load_checkpoint(str(path)).items() if isinstance(p, Parameter)}
    except (OSError, MemoryError) as error:
        raise CheckpointError(f"a checkpoint must be a readable file, got {path} ({error})") from error
    except Exception as error:  # each format has errors of its own
        raise CheckpointError(
            f"a checkpoint must be a whole file of mindspore.save_checkpoint, got {path} "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); is it complete?"
        ) from error

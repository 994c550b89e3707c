"""UniPruning for a PyTorch training loop, under the names of its documentation.

    algo = UniPruner({"frequency": 2, "target_sparsity": 0.5, "input_size": (16, 3, 32, 32)})
    algo.apply(net)
    schedule, = algo.callbacks()
    for epoch in range(1, epochs + 1):
        schedule.epoch_begin(epoch)
        ...  # train one epoch
        schedule.epoch_end(epoch, epochs)
    small = algo.convert(net)

``callbacks()`` may also be handed to the Trainer of Lightning. Weights files are safetensors in place of
``.ckpt``; TorchScript and ONNX files stand in place of ``.mindir`` and ``.air``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from prunekit.algorithms.uni_pruning import UniPruning, UniPruningConfig, check_mask
from prunekit.algorithms.uni_schedule import UniSchedule, prepare_folder, read_mask
from prunekit.backend_torch.backend import TorchBackend
from prunekit.backend_torch.export import FORMATS, export
from prunekit.backend_torch.store import save
from prunekit.core._files import write_atomic
from prunekit.core._names import nearest
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.errors import CheckpointError, ConfigError, InputError
from prunekit.core.plan import PruningPlan

__all__ = ["UniPruner", "UniPruningCallback"]

logger = logging.getLogger("prunekit.uni_pruning")


class UniPruningCallback(UniSchedule):
    """The schedule with the hooks of a plain loop (``epoch_begin``, ``epoch_end``, ``train_end``)
    and of a Lightning-style trainer (``on_train_epoch_start``, ``on_train_epoch_end``, ``on_train_end``).

    Such a trainer calls every hook that it knows: those that are not needed here do nothing.
    """

    state_key = "prunekit.uni_pruning"

    def on_train_epoch_start(self, trainer: Any, module: Any = None) -> None:
        """Before an epoch; ``trainer.current_epoch`` counts from 0."""
        self.epoch_begin(int(trainer.current_epoch) + 1)

    def on_train_epoch_end(self, trainer: Any, module: Any = None) -> None:
        """After an epoch; ``trainer.max_epochs`` tells the last one, if it is set."""
        most = getattr(trainer, "max_epochs", None)
        self.epoch_end(int(trainer.current_epoch) + 1, most if most is not None and most > 0 else None)

    def on_train_end(self, trainer: Any = None, module: Any = None) -> None:
        """After the training, however it ended."""
        self.train_end()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: every step is chosen from the weights alone."""
        return {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_") or name in ("setup", "teardown", "load_state_dict"):
            return lambda *_args, **_options: None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class UniPruner:
    """UniPruning bound to PyTorch.

    Args:
        config: A dict of the keys of :class:`~prunekit.algorithms.uni_pruning.UniPruningConfig`, or
            an object that has them as attributes.
        formats: Formats of the exported files; by default TorchScript, and ONNX where it is installed.

    Raises:
        ConfigError: A key is unknown, or a value is of a wrong type or out of range.
    """

    def __init__(self, config: Any = None, formats: Sequence[str] | None = None) -> None:
        self._method = UniPruning(config)
        self._backend = TorchBackend()
        self._schedule: UniPruningCallback | None = None
        self._formats = _formats(formats)

    @property
    def config(self) -> UniPruningConfig:
        """The settings."""
        return self._method.config

    def apply(self, model: nn.Module) -> nn.Module:
        """Analyse a model before its training; its weights are zeroed in place during it.

        Args:
            model: The model to train and prune, with or without trained weights.

        Returns:
            The same model.

        Raises:
            BudgetError: The target cannot be reached; the message says the least that can.
            NothingToPruneError: No channel of the model may be cut.
            OutputError: The output folder cannot be written.
            TraceError: The model does not run on an input of ``input_size``.
        """
        analysis = self._analyse(model)
        self._schedule = UniPruningCallback(
            self._method, analysis, lambda path: _save_weights(model, path), ".safetensors"
        )
        return model

    def callbacks(self) -> list[UniPruningCallback]:
        """What the training has to call; the first has ``output_path``.

        Raises:
            InputError: :meth:`apply` was not called before.
        """
        if self._schedule is None:
            raise InputError("callbacks() needs a model, got none yet; call apply(model) first")
        return [self._schedule]

    def convert(
        self,
        net_opt: nn.Module,
        mask: Mapping[str, Sequence[int]] | None = None,
        config: Any = None,
        tag: str | None = None,
        *,
        ckpt_path: str | os.PathLike[str] = "",
        mask_path: str | os.PathLike[str] = "",
    ) -> nn.Module:
        """The pruned model, also written to files.

        The mask is ``mask``, or that of ``mask_path``, or else, for the model of :meth:`apply` after
        its training, that of the last step (which is made now, and zeroes the model, if the training
        loop did not make it). With ``tag="original"`` and no mask nothing is cut.

        Args:
            net_opt: The unpruned model. It is left as it is.
            mask: Layer → output channels that go.
            config: Anything with the attributes or keys ``exp_name`` and ``epoch_size``, for file names.
            tag: Part of the file names; by default ``"pruned"``, or ``"original"`` without a mask.
            ckpt_path: Weights to load first: a safetensors file, or a state dict written by ``torch.save``.
            mask_path: A mask file; not together with ``mask``.

        Returns:
            A new, smaller model; ``plan_of`` gives its plan.

        Raises:
            PlanError: The mask is damaged or for another model.
            CheckpointError: The weights are damaged or for another model.
            OutputError: The output folder cannot be written.
            ExportError: An exported file does not compute what the model does.
        """
        if mask is not None and mask_path:
            raise InputError("convert takes one mask, got mask and mask_path; leave one out")
        if not self._backend.accepts(net_opt):
            raise InputError(f"convert needs a torch module, got {type(net_opt).__name__}")
        if mask_path:
            mask = read_mask(mask_path)
        own = self._schedule
        if mask is None and tag != "original" and own is not None and own.analysis.model is net_opt and own.enabled:
            own.train_end()
            mask = own.mask
        if ckpt_path:
            net_opt = self._backend.clone(net_opt)
            self._backend.set_state(net_opt, _read_state(net_opt, Path(ckpt_path)))
        return self.prune_by_mask(net_opt, mask, config, tag)

    def prune_by_mask(
        self,
        net: nn.Module,
        mask: Mapping[str, Sequence[int]] | None,
        config: Any = None,
        tag: str | None = None,
    ) -> nn.Module:
        """The model without the channels of a mask, also written to files.

        Files begin with ``<exp>_<tag>_<rank>_epoch<n>`` in ``output_path/exp_name``: a folder of that
        name with ``weights.safetensors`` and ``plan.json`` (for :func:`~prunekit.backend_torch.load`),
        and one file for each export format.

        Args:
            net: The unpruned model. It is left as it is.
            mask: Layer → output channels that go; None cuts nothing.
            config: Anything with the attributes or keys ``exp_name`` and ``epoch_size``, for file names.
            tag: Part of the file names; by default ``"pruned"``, or ``"original"`` without a mask.

        Returns:
            A new, smaller model.

        Raises:
            PlanError: The mask is malformed or for another model.
            OutputError: The output folder cannot be written.
            ExportError: An exported file does not compute what the model does.
        """
        stem = self._stem(config, tag if tag is not None else "original" if mask is None else "pruned")
        if mask is None:
            small = self._backend.clone(net)
        else:
            checked = check_mask(mask)
            analysis = self._analysis_of(net)
            plan = PruningPlan.from_mask(analysis.coupling, checked, model=type(net).__name__)
            small = self._backend.apply(analysis, plan)
        prepare_folder(stem.parent)
        save(small, stem)
        example = self._example(small)
        for name in self._formats:
            export(small, example, stem.with_name(stem.name + FORMATS[name].suffixes[0]), name)
        logger.info("UniPruning wrote %s and its exports (%s)", stem, ", ".join(self._formats))
        return small

    def _example(self, model: nn.Module) -> torch.Tensor:
        """An input of ``input_size``, of the type and on the device of the model."""
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        return self._backend.example(self.config.input_size).to(like)

    def _analyse(self, model: nn.Module) -> Analysis:
        return analyse(self._backend, model, self._example(model))

    def _analysis_of(self, model: nn.Module) -> Analysis:
        if self._schedule is not None and self._schedule.analysis.model is model:
            return self._schedule.analysis
        return self._analyse(model)

    def _stem(self, config: Any, tag: str) -> Path:
        """Folder and beginning of the names of a converted model's files."""
        values = config if isinstance(config, Mapping) else {k: getattr(config, k, None) for k in _NAMING}
        changes = {k: values[k] for k in _NAMING if values.get(k) is not None}
        known = UniPruning({**self.config.model_dump(), **changes}).config
        if not isinstance(tag, str) or not tag or Path(tag).name != tag or tag == "..":
            raise InputError(f"a tag is part of a file name, got {tag!r}; use e.g. 'pruned'")
        epoch = known.epoch_size or (self._schedule.epoch if self._schedule is not None else 0)
        return self.config.folder / f"{known.exp_name}_{tag}_{known.rank}_epoch{epoch}"


_NAMING = ("exp_name", "epoch_size")


def _formats(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        complete = all(importlib.util.find_spec(m) for m in ("onnx", "onnxscript", "onnxruntime"))
        return ("torchscript", "onnx") if complete else ("torchscript",)
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"a format must be a known one, got {name!r}; {nearest(str(name), FORMATS)}")
    return tuple(names)


def _save_weights(model: nn.Module, path: Path) -> None:
    """The state dict under the module's own names; tied tensors are written under each name."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):  # extra state is no weight
            continue
        plain = tensor.detach().cpu().contiguous()
        # the format refuses two names for one storage
        tensors[name] = plain.clone() if plain.untyped_storage().data_ptr() in seen else plain
        seen.add(plain.untyped_storage().data_ptr())
    write_atomic(path, save_tensors(tensors))


def _read_state(model: nn.Module, path: Path) -> dict[str, Any]:
    """A state dict from a safetensors file, or from one of ``torch.save`` without unpickling code.

    Raises:
        CheckpointError: The file is missing, truncated, or holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"a checkpoint must be a readable file, got {path} ({error})") from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True) if data[:2] == b"PK" else load_tensors(data)
    except Exception as error:  # each format has errors of its own
        raise CheckpointError(
            f"a checkpoint must be a safetensors file or a torch.save'd state dict, got {path} "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); is it complete?"
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise CheckpointError(f"a checkpoint must map names to tensors, got other data in {path}; is it a state dict?")
    return {n: (t.float() if t.dtype == torch.bfloat16 else t).detach().numpy() for n, t in tensors.items()}

"""UniPruning under the names of its documentation; each framework adds its callbacks and its checkpoints.

algo = UniPruner({"frequency": 2, "target_sparsity": 0.5, "input_size": (16, 3, 32, 32)})
algo.apply(net)
schedule, = algo.callbacks()
...  # train; the schedule acts before and after epochs
small = algo.convert(net)
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from prunekit.algorithms._uni_config import is_file_name
from prunekit.algorithms.uni_pruning import UniPruning, UniPruningConfig, check_mask
from prunekit.algorithms.uni_schedule import UniSchedule, prepare_folder, read_mask
from prunekit.core._names import nearest
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.backend import Backend
from prunekit.core.carried import find_plan
from prunekit.core.errors import ConfigError, InputError
from prunekit.core.plan import PruningPlan

__all__ = ["UniPrunerBase"]

logger = logging.getLogger("prunekit.uni_pruning")
_NAMING = ("exp_name", "epoch_size")


class UniPrunerBase(ABC):
    """UniPruning bound to a framework.

    Args:
        config: A dict of the keys of :class:`~prunekit.algorithms.uni_pruning.UniPruningConfig`, or
            an object that has them as attributes.
        formats: Formats of the exported files; by default those of the backend.

    Raises:
        ConfigError: A key is unknown, or a value is of a wrong type or out of range.
    """

    schedule: ClassVar[type[UniSchedule]] = UniSchedule
    """What the training calls."""

    suffix: ClassVar[str] = ".safetensors"
    """How the names of weights files end."""

    def __init__(self, config: Any = None, formats: Sequence[str] | None = None) -> None:
        self._method = UniPruning(config)
        self._backend = self.backend()
        self._schedule = self.schedule(self._method, self.suffix)
        self._structure: object = None
        self._formats = self._known(self._backend.default_formats() if formats is None else formats)

    @abstractmethod
    def backend(self) -> Backend:
        """The backend of the framework."""

    @abstractmethod
    def save_weights(self, model: Any, path: Path) -> None:
        """Write the weights of the model in training, under the framework's own names."""

    @abstractmethod
    def read_weights(self, model: Any, path: Path) -> Mapping[str, Any]:
        """A state for ``backend.set_state`` from a checkpoint of the framework.

        Raises:
            CheckpointError: The file is missing, truncated, or holds something else.
        """

    @property
    def config(self) -> UniPruningConfig:
        """The settings."""
        return self._method.config

    def apply(self, model: Any) -> Any:
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
        # a callback that was taken before the first model is the one that acts on it
        schedule = self.schedule(self._method, self.suffix) if self._schedule.bound else self._schedule
        schedule.bind(analysis, lambda path: self.save_weights(model, path))
        self._schedule, self._structure = schedule, self.structure(model)
        return model

    def callbacks(self) -> list[Any]:
        """What the training has to call; the first has ``output_path``, also before :meth:`apply`."""
        return [self._schedule]

    def convert(
        self,
        net_opt: Any,
        mask: Mapping[str, Sequence[int]] | None = None,
        config: Any = None,
        tag: str | None = None,
        *,
        ckpt_path: str | os.PathLike[str] = "",
        mask_path: str | os.PathLike[str] = "",
    ) -> Any:
        """The pruned model, also written to files.

        The mask is ``mask``, or that of ``mask_path``, or else, for the model of :meth:`apply` after
        its training, that of the last step (which is made now, and zeroes the model, if the training
        loop did not make it). With ``tag="original"`` and no mask nothing is cut.

        Args:
            net_opt: The unpruned model. It is left as it is.
            mask: Layer → output channels that go.
            config: Anything with the attributes or keys ``exp_name`` and ``epoch_size``, for file names.
            tag: Part of the file names; by default ``"pruned"``, or ``"original"`` without a mask.
            ckpt_path: Weights to load first, as a step of the training wrote them.
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
            raise InputError(f"convert needs a {self._backend.name} network, got {type(net_opt).__name__}")
        if mask_path:
            mask = read_mask(mask_path)
        own = self._schedule
        if mask is None and tag != "original" and own.bound and own.analysis.model is net_opt and own.enabled:
            own.train_end()
            mask = own.mask
        if ckpt_path:
            net_opt = self._backend.clone(net_opt)
            self._backend.set_state(net_opt, self.read_weights(net_opt, Path(ckpt_path)))
        return self._pruned(net_opt, mask, config, tag)

    def prune_by_mask(
        self,
        net: Any,
        mask: Mapping[str, Sequence[int]] | None,
        config: Any = None,
        tag: str | None = None,
    ) -> Any:
        """The model without the channels of a mask, also written to files.

        Files begin with ``<exp>_<tag>_<rank>_epoch<n>`` in ``output_path/exp_name``: a folder of that
        name with ``weights.safetensors`` and ``plan.json`` (for ``load``),
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
        return self._pruned(net, mask, config, tag)

    def structure(self, model: Any) -> object:
        """Something that compares unequal once a model computes otherwise than at :meth:`apply`."""
        return find_plan(model)

    def save_pruned(self, model: Any, stem: Path) -> None:
        """Write a converted model, besides its exports, to files whose names begin with ``stem``."""
        self._backend.save(model, stem)

    def _pruned(self, net: Any, mask: Mapping[str, Sequence[int]] | None, config: Any, tag: str | None) -> Any:
        stem = self._stem(config, tag if tag is not None else "original" if mask is None else "pruned")
        if mask is None:
            small = self._backend.clone(net)
        else:
            checked = check_mask(mask)
            analysis = self._analysis_of(net)
            plan = PruningPlan.from_mask(analysis.coupling, checked, model=type(net).__name__)
            _warn_of_gaps(analysis, checked)
            small = self._backend.apply(analysis, plan)
        prepare_folder(stem.parent)
        self.save_pruned(small, stem)
        example = self._backend.example(self.config.input_size, like=small)
        for name in self._formats:
            suffix = self._backend.export_formats()[name].suffixes[0]
            self._backend.export(small, example, stem.with_name(stem.name + suffix), name)
        logger.info("UniPruning wrote %s and its exports (%s)", stem, ", ".join(self._formats))
        return small

    def _analyse(self, model: Any) -> Analysis:
        return analyse(self._backend, model, self._backend.example(self.config.input_size, like=model))

    def _analysis_of(self, model: Any) -> Analysis:
        own = self._schedule
        if own.bound and own.analysis.model is model and self.structure(model) == self._structure:
            return own.analysis
        return self._analyse(model)

    def _stem(self, config: Any, tag: str) -> Path:
        """Folder and beginning of the names of a converted model's files."""
        values = config if isinstance(config, Mapping) else {k: getattr(config, k, None) for k in _NAMING}
        changes = {k: values[k] for k in _NAMING if values.get(k) is not None}
        known = UniPruning({**self.config.model_dump(), **changes}).config
        if not isinstance(tag, str) or not is_file_name(tag):
            raise InputError(f"a tag is part of a file name, got {tag!r}; use e.g. 'pruned'")
        epoch = known.epoch_size or self._schedule.epoch
        return self.config.folder / f"{known.exp_name}_{tag}_{known.rank}_epoch{epoch}"

    def _known(self, names: Sequence[str]) -> tuple[str, ...]:
        formats = self._backend.export_formats()
        for name in names:
            if name not in formats:
                raise ConfigError(f"a format must be a known one, got {name!r}; {nearest(str(name), formats)}")
        return tuple(names)


def _warn_of_gaps(analysis: Analysis, mask: Mapping[str, Sequence[int]]) -> None:
    """Masks of a training name every layer that may be cut, also those that lose nothing."""
    layers = {m.name.rpartition(".")[0] for g in analysis.groups for m in g.producers}
    absent = sorted(layers - set(mask))
    if absent:
        logger.warning(
            "the mask names %d of %d layers that may be cut and not, for instance, %s; is it of another model?",
            len(layers) - len(absent), len(layers), absent[0],
        )  # fmt: skip

"""When UniPruning acts during training, and what it leaves on disk; the same in every framework."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from prunekit.algorithms.uni_pruning import Selection, UniPruning, ZeroingStep, check_mask, zero_makers
from prunekit.core._files import MOST_JSON, check_seal, read_bytes, seal, unseal, write_atomic
from prunekit.core._json import parse_json
from prunekit.core.analysis import Analysis
from prunekit.core.errors import InputError, OutputError, PlanError
from prunekit.core.plan import PruningPlan

__all__ = ["UniSchedule", "prepare_folder", "read_mask"]

logger = logging.getLogger("prunekit.uni_pruning")


class UniSchedule:
    """Zeroing steps before every ``frequency``-th epoch, and one after the last.

    Epochs are counted from 1. A step before epoch ``e`` happens when ``(e - 1) % frequency == 0``;
    the channels that it sets to zero may grow again. The last step decides what is cut. Each
    step writes ``<exp>_zeroed_rank<r>_epoch<n><suffix>`` and ``…_mask.json``, and beside each its checksum.

    It knows its ``output_path`` from the beginning, and its network from :meth:`bind` on.

    Args:
        method: The selection rule.
        suffix: How the names of weights files end (``".ckpt"``).
    """

    def __init__(self, method: UniPruning, suffix: str) -> None:
        self.config = method.config
        self.output_path = str(self.config.folder)
        self.selection: Selection | None = None
        self.weights_path: Path | None = None
        self.mask_path: Path | None = None
        self.epoch = 0
        self._method = method
        self._analysis: Analysis | None = None
        self._save_weights: Callable[[Path], object] = lambda path: None
        self._suffix = suffix
        self._finished = False

    def bind(self, analysis: Analysis, save_weights: Callable[[Path], object]) -> None:
        """Take a network to act on.

        Args:
            analysis: The network in training, and its groups. Its weights are zeroed in place.
            save_weights: Writes the network's weights to a path, or leaves nothing there.

        Raises:
            BudgetError: The target cannot be reached.
            NothingToPruneError: No group of the network may be cut.
            OutputError: The output folder cannot be written.
        """
        if self.enabled:
            self._method.check_reachable(analysis.coupling)
            prepare_folder(self.config.folder)
        self._analysis, self._save_weights = analysis, save_weights

    @property
    def bound(self) -> bool:
        """Whether it has a network."""
        return self._analysis is not None

    @property
    def analysis(self) -> Analysis:
        """The network in training, and its groups.

        Raises:
            InputError: :meth:`bind` was not called before.
        """
        if self._analysis is None:
            raise InputError("a UniPruning step needs a model, got none yet; call apply(model) before the training")
        return self._analysis

    @property
    def enabled(self) -> bool:
        """Whether ``prune_flag`` is set."""
        return self.config.prune_flag == 1

    @property
    def mask(self) -> dict[str, list[int]]:
        """Layer → output channels that the last step took; empty before the first."""
        return self.selection.plan.mask(self.analysis.coupling) if self.selection else {}

    def epoch_begin(self, epoch: int | None = None) -> None:
        """Before an epoch; without a number, the one after the last."""
        self.epoch = self.epoch + 1 if epoch is None else _counted_from_one(epoch)
        self._finished = False
        if self.enabled and (self.epoch - 1) % self.config.frequency == 0:
            self._step(f"before epoch {self.epoch}", soft=self.config.regrow)

    def epoch_end(self, epoch: int | None = None, epochs: int | None = None) -> None:
        """After an epoch.

        Args:
            epoch: Its number; without one, that of the last :meth:`epoch_begin`.
            epochs: Number of epochs in all; ``config.epoch_size`` where it is not given.
        """
        self.epoch = self.epoch if epoch is None else _counted_from_one(epoch)
        if self.epoch == (epochs or self.config.epoch_size):
            self.train_end()

    def train_end(self) -> None:
        """After the last epoch: the final step. A second call does nothing."""
        if self.enabled and not self._finished:
            self._step(f"after epoch {self.epoch}, the last", soft=False)
            self._finished = True

    def agreed(self, selection: Selection) -> Selection:
        """The selection of the first process, in every process of a distributed training.

        Raises:
            TrainingError: The processes have other channels, or still different plans.
        """
        processes = self.analysis.backend.processes()
        if processes.size == 1:
            return selection
        advice = "give every process the same model, and the same config but for the rank"
        coupling = self.analysis.coupling
        processes.require_same(repr([(g.name, g.size) for g in coupling.groups]), "have the same channels", advice)
        steps = [astuple(step) for step in selection.steps]
        own = json.dumps({"kept": selection.plan.kept, "size": selection.size, "steps": steps})
        first = processes.of_first(own)
        if own != first:
            logger.warning("UniPruning: this process has other weights than the first one, whose plan is taken")
            data = json.loads(first)
            plan = PruningPlan.of(coupling, data["kept"], achieved={"size": [selection.full, data["size"]]})
            taken = tuple(ZeroingStep(g, i, tuple(units), ratio, n) for g, i, units, ratio, n in data["steps"])
            selection = replace(selection, plan=plan, steps=taken, size=data["size"])
        mask = sorted(selection.plan.mask(coupling).items())
        processes.require_same(repr(mask), "zero the same channels", advice)
        return selection

    def _step(self, when: str, soft: bool) -> None:
        analysis = self.analysis
        state = analysis.backend.get_state(analysis.model, copy=soft)
        selection = self.agreed(self._method.choose(analysis.coupling, state))
        if soft:
            zero_makers(analysis.coupling, selection.plan, state)
            analysis.backend.set_state(analysis.model, state)
        else:
            analysis.backend.zero(analysis, selection.plan)
        self.selection = selection
        stem = f"{self.config.exp_name}_zeroed_rank{self.config.rank}_epoch{self.epoch}"
        weights, mask = self.config.folder / f"{stem}{self._suffix}", self.config.folder / f"{stem}_mask.json"
        for path in (weights, mask):
            unseal(path)
        self._save_weights(weights)
        write_atomic(mask, json.dumps(self.mask, indent=1))
        for path in filter(Path.exists, (weights, mask)):  # within a run no weights are written
            seal(path)
        self.weights_path, self.mask_path = weights, mask
        logger.info("UniPruning %s %s", when, selection)


def read_mask(path: str | os.PathLike[str]) -> dict[str, list[int]]:
    """The mask that a step wrote.

    Raises:
        PlanError: There is no such file, it is not a mask, or it was changed since its checksum was written.
    """
    try:
        content = read_bytes(path, MOST_JSON)
        check_seal(path, content)
        data: Any = parse_json(content.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"a mask must be a readable JSON file, got {os.fspath(path)} ({error})") from error
    return check_mask(data)


def prepare_folder(folder: Path) -> None:
    """Make a folder and try to write in it.

    Raises:
        OutputError: That fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"an output folder must be writable, got {folder} ({error}); choose another") from error


def _counted_from_one(epoch: int) -> int:
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
        raise InputError(f"epochs are counted from 1, got {epoch!r}; pass epoch + 1 from a loop over range(n)")
    return epoch

"""Channel pruning layer by layer: select, cut, fit the weights, go on with the network as it then is.

He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, with the group tuning of
PocketFlow. What is coupled is cut together, so a decision is one for a whole channel group, made when the first layer
that reads it is reached, from the outputs of all layers that read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prunekit.algorithms.channel_pruning._report import report
from prunekit.algorithms.channel_pruning.measuring import Alive, Sampler, alive
from prunekit.algorithms.channel_pruning.moments import FloatArray, IntArray, Sample
from prunekit.algorithms.channel_pruning.readers import Reader, find_readers, probe
from prunekit.algorithms.channel_pruning.reconstruction import reconstructed
from prunekit.algorithms.channel_pruning.selection import Contributions, Part, entry_scores, select_channels
from prunekit.algorithms.channel_pruning.settings import ChannelPruningSettings, rounded
from prunekit.algorithms.evaluation import held_batches
from prunekit.core.analysis import Analysis
from prunekit.core.backend import State
from prunekit.core.encoding import PreserveRatioEncoding
from prunekit.core.errors import PlanError
from prunekit.core.importance.score import score
from prunekit.core.method import Outcome, Task
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe

__all__ = ["DISTILL", "prune_by_ratios", "prune_by_widths", "rank_channels"]

DISTILL: Mapping[str, Any] = {"distill_weight": 4.0, "distill_temperature": 4.0}
"""PocketFlow's distillation, as keys of a recipe."""


def rank_channels(task: Task, settings: ChannelPruningSettings) -> dict[str, FloatArray]:
    """How early each channel enters the LASSO path of its group, measured once on the unpruned network.

    Args:
        task: The base network and its data.
        settings: ``cp_nb_batches`` and ``cp_nb_points_per_layer`` say how much is sampled.

    Returns:
        Scores by group name, ``(size,)`` each, the first to enter with the largest: the rank of a
        :class:`~prunekit.core.encoding.base.WidthEncoding`. Groups whose readers cannot be sampled are ranked by
        the L1 norm.

    Raises:
        DataError: There are fewer batches than ``cp_nb_batches``.
        InputError: Activations are not finite.
    """
    pruner = _Pruner(task, settings, {})
    scores: dict[str, FloatArray] = {}
    for group in task.analysis.groups:
        contributions, _ = pruner.contributions(group.name, None)
        scores[group.name] = pruner.norms[group.name] if contributions is None else entry_scores(contributions)
    return scores


def prune_by_ratios(task: Task, settings: ChannelPruningSettings, ratios: ArrayLike) -> Outcome:
    """Select channels and fit weights for one preserve ratio per conv.

    Args:
        task: The base network and its data.
        settings: How.
        ratios: One per entry of :class:`~prunekit.core.encoding.PreserveRatioEncoding`. Of a group that several
            convs read the largest ratio counts.

    Returns:
        As :func:`prune_by_widths`.

    Raises:
        PlanError: The ratios do not fit the network.
        DataError: There are fewer batches than ``cp_nb_batches``.
        InputError: Activations are not finite.
    """
    encoding = PreserveRatioEncoding(task.analysis.coupling)
    widths = encoding.widths(np.asarray(ratios, dtype=np.float64)[None])[0]
    if settings.cp_quadruple:
        widths = rounded(task.analysis.coupling, widths)
    asked = dict(zip(encoding.layers, np.asarray(ratios, dtype=np.float64).tolist(), strict=True))
    return prune_by_widths(task, settings, widths, asked=asked)


def prune_by_widths(
    task: Task,
    settings: ChannelPruningSettings,
    widths: ArrayLike,
    figures: Mapping[str, Any] | None = None,
    *,
    asked: Mapping[str, float] | None = None,
    correct: bool = True,
) -> Outcome:
    """Select channels and fit weights for given group widths, layer by layer.

    Args:
        task: The base network, which is not changed, and its data.
        settings: How.
        widths: Channels that each group keeps, ``(G,)``; the counts are kept exactly.
        figures: What else the outcome's figures shall hold.
        asked: The ratio that was asked for, by layer, to be reported beside what is kept.
        correct: Whether targets make up for the errors of shortcuts.

    Returns:
        The plan, and the network whose weights were fitted: everything that the plan drops is zero in it.

    Raises:
        PlanError: The widths do not fit the network.
        DataError: There are fewer batches than ``cp_nb_batches``.
        InputError: Activations are not finite.
    """
    coupling = task.analysis.coupling
    wanted = np.asarray(widths)
    full = coupling.widths
    if wanted.shape != full.shape or not np.issubdtype(wanted.dtype, np.integer):
        raise PlanError(f"widths must be {len(full)} whole numbers for this network, got shape {wanted.shape}")
    if (wanted < 1).any() or (wanted > full).any():
        worst = int(np.flatnonzero((wanted < 1) | (wanted > full))[0])
        raise PlanError(
            f"a group keeps from one to all of its channels, got {wanted[worst]} of {full[worst]} for "
            f"{coupling.groups[worst].name!r}"
        )
    cut = {g.name: int(w) for g, w in zip(coupling.groups, wanted, strict=True) if w < g.size}
    pruner = _Pruner(task, settings, cut, correct)
    pruner.run()
    found = report(task, coupling, pruner.plan(), settings, asked, pruner.notes)
    recipe = taught(task.finetune) if settings.enbl_dst else None
    return Outcome(pruner.plan(), pruner.current, {**found, **(figures or {})}, recipe)


class _Pruner:
    """One run: the base network, the network that is being pruned, and what was decided so far."""

    def __init__(
        self, task: Task, settings: ChannelPruningSettings, wanted: Mapping[str, int], correct: bool = True
    ) -> None:
        self.task, self.settings, self.wanted = task, settings, wanted
        base = task.analysis
        self.backend, self.coupling = base.backend, base.coupling
        self.base_state: State = self.backend.get_state(base.model)
        self.norms = score(self.coupling, "l1", self.base_state, normalize="none")
        self.notes: dict[str, str] = {}
        self.kept: dict[str, IntArray] = {}
        self.current = Analysis(self.backend, self.backend.clone(base.model), base.example, self.coupling)
        self.readers = find_readers(self.coupling)
        if not correct:
            self.readers = tuple(replace(r, shortcut=None) for r in self.readers)
        self._probed: dict[str, Reader] = {}
        self._batches = held_batches(task.loaders.calibration, settings.cp_nb_batches, "cp_nb_batches")
        self._sampler = Sampler(base, self._batches, settings.cp_nb_points_per_layer, task.seed)

    def plan(self) -> PruningPlan:
        """What is kept so far."""
        kept = {g.name: self.kept.get(g.name, np.arange(g.size)).tolist() for g in self.coupling.groups}
        return PruningPlan.of(self.coupling, kept, model=self.task.model)

    def run(self) -> None:
        """Prune every group that is to be cut."""
        steps = [r for r in self.readers if any(name in self.wanted for name in r.groups)]
        read = {name for reader in steps for name in reader.groups}
        for name in self.wanted:
            if name not in read:  # nothing that multiplies reads it
                self._cut(name, self._by_norm(name))
        for number, reader in enumerate(steps, start=1):
            sample: Sample | None = None
            for name in reader.groups:
                if name in self.wanted and name not in self.kept:
                    sample = self._decide(name, reader)
            if self.settings.cp_reconstruct:
                self._reconstruct(reader, sample)
            due = number % self.settings.cp_list_group == 0 or number == len(steps)
            if self.settings.cp_finetune and due:
                self._tune(number)

    def contributions(
        self, name: str, current: Analysis | None
    ) -> tuple[Contributions | None, dict[str, tuple[Sample, Alive]]]:
        """What a group's channels contribute to its readers, and what it was found from; None where no reader
        can be sampled."""
        readers = [r for r in self._probe([r for r in self.readers if name in r.groups]) if r.window is not None]
        if not readers:
            return None, {}
        plan = self.plan()
        left = alive(self.coupling, plan, readers)
        samples = self._sampler(readers, left, current, plan)
        state = self.base_state if current is None else self.backend.get_state(current.model)
        parts = [_part(r, name, samples[r.layer], left[r.layer], state) for r in readers]
        return Contributions.of(parts), {r.layer: (samples[r.layer], left[r.layer]) for r in readers}

    def _decide(self, name: str, reader: Reader) -> Sample | None:
        """Choose a group's channels and drop the others; what ``reader`` reads of what is left, if that still holds."""
        found, measured = self.contributions(name, self.current)
        self._cut(name, self._by_norm(name) if found is None else select_channels(found, self.wanted[name]))
        # dropping channels changes nothing before their first reader, but for statistics over channels
        if reader.layer not in measured or not self.coupling.group(name).neutral:
            return None
        sample, before = measured[reader.layer]
        after = alive(self.coupling, self.plan(), [reader])[reader.layer]
        window = self._probe([reader])[0].window
        if window is None:
            return None
        columns = window.columns(np.searchsorted(before.inputs, after.inputs)).ravel()
        return sample.part(columns, np.searchsorted(before.outputs, after.outputs))

    def _cut(self, name: str, kept: IntArray) -> None:
        self.kept[name] = kept
        self.backend.zero(self.current, self.plan())
        group = self.coupling.group(name)
        if self.task.log is not None:
            self.task.log.write("channels", group=name, kept=len(kept), size=group.size)

    def _by_norm(self, name: str) -> IntArray:
        self.notes.setdefault(name, "selected by the L1 norm: no layer that reads it can be sampled")
        best = np.argsort(-self.norms[name], kind="stable")[: self.wanted[name]]
        return np.sort(best).astype(np.int64)

    def _reconstruct(self, reader: Reader, sample: Sample | None) -> None:
        """Fit the weights of a layer, on what it reads now, to what it gave in the base network."""
        [reader] = self._probe([reader])
        if reader.window is None:
            return
        plan = self.plan()
        left = alive(self.coupling, plan, [reader])
        if sample is None:
            sample = self._sampler([reader], left, self.current, plan)[reader.layer]
        state = self.backend.get_state(self.current.model)
        here = left[reader.layer]
        state.update(reconstructed(reader, sample, here.inputs, here.outputs, self.base_state, state))
        self.backend.set_state(self.current.model, state)

    def _probe(self, readers: Sequence[Reader]) -> list[Reader]:
        """The layers with what the first batch shows of them."""
        fresh = [r for r in readers if r.layer not in self._probed]
        if fresh:
            first = next(iter(self._batches))
            for found in probe(self.backend, self.task.analysis.model, self.base_state, first, fresh):
                self._probed[found.layer] = found
                if found.reason:
                    self._note(found.layer, f"its weights are not fitted: {found.reason}")
                elif found.shortcut is not None and found.shortcut.tap is None:
                    self._note(found.layer, "its target leaves the shortcut's error, which cannot be told from outside")
        return [self._probed[r.layer] for r in readers]

    def _note(self, layer: str, text: str) -> None:
        self.notes[layer] = text
        self.task.say(f"channel pruning, {layer}: {text}")

    def _tune(self, number: int) -> None:
        """Train the network as it is, with what is dropped kept at zero."""
        recipe = tuning_recipe(self.task.finetune, self.settings)
        if recipe.epochs == 0:
            return
        self.task.say(f"group tuning after {number} layers: {recipe.epochs:g} epochs")
        options: dict[str, Any] = {"teacher": self.task.analysis.model} if self.settings.enbl_dst else {}
        self.backend.fit(
            self.current.model, self.task.loaders.train, recipe, analysis=self.current, plan=self.plan(),
            log=self.task.log, **options,
        )  # fmt: skip


def taught(recipe: Recipe) -> Recipe:
    """A recipe with PocketFlow's distillation, unless it has one of its own."""
    return recipe if recipe.distill_weight > 0 else replace(recipe, **DISTILL)


def tuning_recipe(finetune: Recipe, settings: ChannelPruningSettings) -> Recipe:
    """How a group is tuned: Adam (AdamW without decay) at a constant rate, for a share of the fine-tuning."""
    finetune = taught(finetune) if settings.enbl_dst else replace(finetune, distill_weight=0.0)
    return replace(
        finetune, epochs=settings.cp_nb_iters_ft_ratio * finetune.epochs, optimizer="adamw", weight_decay=0.0,
        lr=settings.cp_lrn_rate_ft, schedule="constant", final_lr=0.0, warmup_epochs=0.0,
    )  # fmt: skip


def _part(reader: Reader, name: str, sample: Sample, left: Alive, state: State) -> Part:
    """A reader's part in the decision on a group."""
    weight: NDArray[Any] = np.asarray(state[reader.weight])[np.ix_(left.outputs, left.inputs)]
    places: Sequence[int] | IntArray = np.searchsorted(left.inputs, reader.groups[name].ravel())
    if reader.window is None:
        raise ValueError(f"{reader.layer} has no window")
    units = reader.window.columns(places).reshape(len(reader.groups[name]), -1)
    return Part(sample.whole.means(reader.centred), weight.reshape(len(weight), -1).astype(np.float64), units)

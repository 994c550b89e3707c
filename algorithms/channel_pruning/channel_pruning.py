"""Channel pruning: ratios uniform, listed or searched; channels by LASSO; weights fitted again.

He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, with the options of
PocketFlow (Wu et al. 2018) and, for ``auto``, the search of He et al., "AMC", ECCV 2018.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunekit.algorithms.channel_pruning.pruner import prune_by_ratios, prune_by_widths, rank_channels
from prunekit.algorithms.channel_pruning.settings import ChannelPruningSettings, asked_ratios
from prunekit.algorithms.evaluation import check_batches
from prunekit.core.batches import Loaders
from prunekit.core.candidates import Evaluation
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import PreserveRatioEncoding
from prunekit.core.errors import BudgetError
from prunekit.core.method import Outcome, SearchMethod, Task

__all__ = ["ChannelPruning"]


class ChannelPruning(SearchMethod):
    """Channel pruning; see :class:`~prunekit.algorithms.channel_pruning.settings.ChannelPruningSettings` for its keys.

    Example:
        >>> ChannelPruning({"cp_uniform_preserve_ratio": 1.5})
        Traceback (most recent call last):
        prunekit.core.errors.ConfigError: keys of channel_pruning: cp_uniform_preserve_ratio must be at most 1.0, \
got 1.5; change it
    """

    name = "channel_pruning"
    Settings = ChannelPruningSettings
    settings: ChannelPruningSettings

    def check(self, coupling: Coupling, *, model: str = "") -> None:
        """Make sure that the ratios fit the network, or that a search can reach its share of the FLOPs.

        Raises:
            BudgetError: ``cp_preserve_ratio`` is out of reach (``auto``), or the ratios cut nothing.
            MissingDependencyError: ``cp_auto_searcher: ddpg`` needs the extra ``rl`` (``auto``).
            ConfigError: The list cannot be read, or has another length.
            PlanError: The network has no conv that could have a ratio.
        """
        encoding = PreserveRatioEncoding(coupling)
        if self.settings.prune_option != "auto":
            _check_effect(encoding, asked_ratios(self.settings, encoding))
            return
        from prunekit.algorithms.channel_pruning._auto import check_reachable  # which needs further libraries

        check_reachable(coupling, self.settings)

    def check_data(self, loaders: Loaders) -> None:
        """Make sure that there are ``cp_nb_batches`` batches.

        Raises:
            DataError: There are fewer.
        """
        check_batches(loaders.calibration, self.settings.cp_nb_batches, "cp_nb_batches")

    def run(self, task: Task) -> Outcome:
        """Choose the ratios, then select channels and fit weights layer by layer.

        Raises:
            ConfigError: The list cannot be read, or has another length.
            DataError: There are fewer batches than ``cp_nb_batches``.
            InputError: Activations are not finite.
            MissingDependencyError: ``cp_auto_searcher: ddpg`` needs the extra ``rl``.
        """
        settings = self.settings
        if settings.prune_option != "auto":
            ratios = asked_ratios(settings, PreserveRatioEncoding(task.analysis.coupling))
            return prune_by_ratios(task, settings, ratios)
        from prunekit.algorithms.channel_pruning._auto import search_widths  # which needs further libraries

        widths, figures = search_widths(task, settings, rank_channels(task, settings))
        return prune_by_widths(task, settings, widths, figures)

    def evaluation(self, task: Task) -> Evaluation:
        """Accuracy of a roll-out's network (``auto``)."""
        from prunekit.algorithms.channel_pruning._auto import rollout_evaluation  # which needs further libraries

        return rollout_evaluation(task, self.settings)


def _check_effect(encoding: PreserveRatioEncoding, ratios: NDArray[np.float64]) -> None:
    """Make sure that ratios below one cut something, before anything is trained.

    Raises:
        BudgetError: They do not.
    """
    if ratios.min() < 1 and (encoding.widths(ratios[None])[0] == encoding.coupling.widths).all():
        raise BudgetError(
            f"ratios must cut inputs of a conv between the first and the last, which keep all of theirs, got "
            f"{', '.join(f'{r:g}' for r in ratios[:6])} for {', '.join(encoding.layers[:6])}, which cut nothing; use "
            "smaller ones, or a method such as prune"
        )

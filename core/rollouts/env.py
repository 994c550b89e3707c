"""Automatic channel pruning as an environment of gymnasium: one step for each decision, the accuracy at the end.

He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core.errors import MissingDependencyError
from prunekit.core.rollouts.decisions import Decisions

try:
    import gymnasium
except ImportError as error:
    raise MissingDependencyError(
        "roll-outs need gymnasium, which is not installed; run `pip install 'prunekit[rl]'`, or use "
        "cp_auto_searcher: evolution"
    ) from error

__all__ = ["PruningEnv"]

_STATE = 8


class PruningEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Decides the widths of a network's channel groups one after another.

    Observation, ``(8,)`` in [0, 1]: position of the decision; outputs, inputs, height, width and stride of the
    first conv that reads the group; FLOPs that can still be taken away; FLOPs of that conv. Each is divided by its
    greatest value.

    Action, ``(1,)``: the share of the group to keep. It is moved to within the action wall, then to the nearest
    whole number of channels. After the last decision, single channels are added until the budget is used up
    within 1%. Reward: the accuracy of the pruned network after the last step, 0 before.

    The last step's info has ``widths``, ``(G,)``, and every step's ``share``: what was really kept.

    Args:
        decisions: What is decided, and the budget.
        evaluate: The accuracy at group widths, ``(G,)``.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, decisions: Decisions, evaluate: Callable[[NDArray[np.int64]], float]) -> None:
        self.decisions = decisions
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (_STATE,), np.float32)
        self.action_space = gymnasium.spaces.Box(min(decisions.lbound, 0.999), 1.0, (1,), np.float32)
        self._evaluate = evaluate
        self._begin()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a roll-out; nothing in it is drawn."""
        super().reset(seed=seed, options=options)
        self._begin()
        return self._observe(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide one group's width."""
        decision = len(self._kept)
        limits = self._wall.limits(decision)
        wanted = limits.clip(float(np.asarray(action).ravel()[0]))
        width = self.decisions.choose(decision, wanted, limits.floor, limits.recommended_action)
        share = width / int(self.decisions.sizes[decision])
        self._wall.keep(decision, share)
        self._kept.append(width)
        info: dict[str, Any] = {"share": share}
        if len(self._kept) < len(self.decisions):
            return self._observe(), 0.0, False, False, info
        widths = self.decisions.widths(self.decisions.fit(self._kept))
        return self._observe(), float(self._evaluate(widths)), True, False, {**info, "widths": widths}

    def _begin(self) -> None:
        self._wall = self.decisions.wall()
        self._most = max(self._wall.reducible, 1.0)
        self._kept: list[int] = []

    def _observe(self) -> NDArray[np.float32]:
        known = self.decisions.features[min(len(self._kept), len(self.decisions) - 1)]
        reducible = np.clip(self._wall.reducible / self._most, 0.0, 1.0)
        return np.array([*known[:-1], reducible, known[-1]], dtype=np.float32)

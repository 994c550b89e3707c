"""The search for widths by DDPG: an agent of stable-baselines3, given the roll-outs of a pruning environment.

Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016; He et al., "AMC", ECCV 2018.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import truncnorm

from prunekit.core.errors import MissingDependencyError
from prunekit.core.rollouts import Decisions

if TYPE_CHECKING:
    from prunekit.core.rollouts.env import PruningEnv

__all__ = ["ddpg_search", "require_ddpg"]

_BASELINE = 0.95  # of the moving average of rewards
_NOISE = (1.0, 0.2)  # spread of an action's noise, actions lying in [-1, 1], at first and at last
_BATCH = 64


def require_ddpg() -> Any:
    """The agent's class.

    Raises:
        MissingDependencyError: gymnasium or stable-baselines3 is not installed.
    """
    try:
        import gymnasium  # noqa: F401
        from stable_baselines3 import DDPG
    except ImportError as error:
        raise MissingDependencyError(
            f"cp_auto_searcher: ddpg needs gymnasium and stable-baselines3, which are not both installed ({error}); "
            "run `pip install 'prunekit[rl]'`, or use cp_auto_searcher: evolution"
        ) from error
    return DDPG


def ddpg_search(
    decisions: Decisions,
    evaluate: Callable[[NDArray[np.int64]], float],
    *,
    rollouts: int,
    warmup: int,
    seed: int,
) -> None:
    """Let an agent try widths.

    As in PocketFlow the reward, less a moving average of earlier ones, is given to every step of a roll-out, and
    the agent learns once the first roll-outs are over, one step for each decision. Where PocketFlow disturbs the
    actor's weights, here noise is added to its actions: from a normal distribution cut off at the limits, whose
    spread falls from 1 to 0.2, actions being scaled to [-1, 1]. The critic sees state and action together from its
    first layer on.

    Args:
        decisions: What is decided, and the budget.
        evaluate: The accuracy at group widths, ``(G,)``; it remembers what it was asked.
        rollouts: How many are made.
        warmup: Roll-outs before the agent learns.
        seed: Of the agent and the noise; the same one gives the same roll-outs.

    Raises:
        MissingDependencyError: gymnasium or stable-baselines3 is not installed.
    """
    make = require_ddpg()
    from prunekit.core.rollouts.env import PruningEnv

    env, own = PruningEnv(decisions, evaluate), _OwnRandom()
    rng = np.random.default_rng(seed)
    with own:
        agent = _agent(make, env, rollouts * len(decisions), seed)
    baseline: float | None = None
    for number in range(rollouts):
        learning = max(number - warmup, 0) / max(rollouts - 1 - warmup, 1)
        steps, reward = _rollout(env, agent, _NOISE[0] * (_NOISE[1] / _NOISE[0]) ** learning, rng)
        baseline = reward if baseline is None else _BASELINE * baseline + (1 - _BASELINE) * reward
        for before, after, action, done in steps:
            agent.replay_buffer.add(before, after, action, np.float32(reward - baseline), np.float32(done), [{}])
        if number >= warmup:
            with own:
                agent.train(len(steps), _BATCH)


def _agent(make: Any, env: PruningEnv, size: int, seed: int) -> Any:
    from stable_baselines3.common.logger import configure

    agent = make(
        "MlpPolicy", env, learning_rate=1e-3, buffer_size=size, batch_size=_BATCH, tau=0.01, gamma=0.9,
        policy_kwargs={"net_arch": {"pi": [64, 64], "qf": [64, 64, 64]}}, seed=seed, device="cpu",
    )  # fmt: skip
    agent.set_logger(configure(None, []))
    return agent


def _rollout(
    env: PruningEnv, agent: Any, noise: float, rng: np.random.Generator
) -> tuple[list[tuple[Any, Any, NDArray[np.float32], bool]], float]:
    """Transitions of one roll-out, actions in [-1, 1], and its reward."""
    steps: list[tuple[Any, Any, NDArray[np.float32], bool]] = []
    before, _ = env.reset()
    reward, done = 0.0, False
    while not done:
        wanted = agent.policy.scale_action(agent.policy.predict(before, deterministic=True)[0])
        low, high = (-1 - wanted) / noise, (1 - wanted) / noise
        noisy = np.asarray(truncnorm.rvs(low, high, wanted, noise, size=1, random_state=rng), dtype=np.float32)
        after, reward, done, _, info = env.step(agent.policy.unscale_action(noisy))
        # what was done counts, not what was wished: the wall may have stood between
        taken = np.clip(agent.policy.scale_action(np.array([info["share"]], dtype=np.float32)), -1, 1)
        steps.append((before, after, taken, done))
        before = after
    return steps, reward


class _OwnRandom:
    """Random numbers of the agent's own: the global generators are as they were once the block is left.

    stable-baselines3 seeds and uses those of Python, NumPy and its framework.
    """

    def __init__(self) -> None:
        self._mine: tuple[Any, ...] | None = None
        self._theirs: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        self._theirs = _states()
        if self._mine is not None:
            _restore(self._mine)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mine = _states()
        _restore(self._theirs)


def _states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), sys.modules["torch"].get_rng_state()


def _restore(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    # stable-baselines3 brings its framework; algorithms do not import one
    sys.modules["torch"].set_rng_state(states[2])

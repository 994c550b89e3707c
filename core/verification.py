"""The law as a check that anybody can run on any network: cut at random and masked must agree."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from prunekit.core.analysis import Analysis, analyse
from prunekit.core.backend import Backend
from prunekit.core.constants import Solved, solved
from prunekit.core.coupling.groups import Coupling
from prunekit.core.errors import ConfigWarning, InputError, PrunekitError, TraceError
from prunekit.core.plan import PruningPlan

__all__ = ["TOLERANCE", "Verification", "random_plan", "randomised", "relative_error", "verify"]

TOLERANCE = 1e-5
"""Largest difference of cut and masked network, relative to the largest value expected."""

_BLIND = 1e-3
_EVEN = 1e-3  # spread below which a parameter is all but constant


@dataclass(frozen=True)
class Verification:
    """What came of a check.

    Attributes:
        model: Name of the network.
        backend: Name of the framework.
        status: ``"exact"``; ``"non-neutral exact"`` where some norm or softmax takes statistics over channels that
            were cut, and the masked network over those kept; ``"frozen"`` where nothing can be cut; ``"refused"``
            where the framework cannot run or compile the network as it is; ``"failed"``.
        error: Largest relative error over all seeds, None where it was not reached.
        groups: Number of channel groups.
        params: Parameters of the whole network.
        frozen_share: Share of the parameters that no cut makes smaller.
        lost: Share of the parameters that the cuts took, on average.
        constants: Numbers in the code that stood in the way.
        frozen: Reasons for channels to stay, other than being the network's outputs.
        analysis_seconds: Time for trace, coupling and dry run.
        cut_seconds: Time of a cut, on average.
        modes: Ways of running in which the cut network was compared, where the framework has several.
        message: What failed.
    """

    model: str
    backend: str
    status: str
    error: float | None = None
    groups: int = 0
    params: int = 0
    frozen_share: float = 1.0
    lost: float = 0.0
    constants: tuple[Solved, ...] = ()
    frozen: tuple[str, ...] = ()
    analysis_seconds: float = 0.0
    cut_seconds: float = 0.0
    modes: tuple[str, ...] = ()
    message: str = field(default="")

    @property
    def holds(self) -> bool:
        """Whether the law holds: a network in which nothing can be cut keeps it, too."""
        return self.status not in ("failed", "refused")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def verify(
    backend: Backend,
    model: Any,
    example: Any,
    *,
    name: str = "",
    ratio: float = 0.3,
    seeds: int = 3,
    attention: str = "heads",
    grouped: str = "within",
    ignore: Sequence[str] = (),
    modes: Sequence[str] | None = None,
    mode_seeds: int | None = None,
) -> Verification:
    """Cut a network at random, mask it alike, and compare all that both give.

    Norms and parameters that are all but constant are randomised first: gammas of one, betas of zero, and residual
    branches that begin at zero would hide mistakes.

    Args:
        backend: The backend of the model's framework.
        model: A network; it is not changed.
        example: One input, a tuple of positional inputs, or a dict of keyword inputs.
        name: What to call it; by default the name of its class.
        ratio: Share of every group's channels to remove, in (0, 1).
        seeds: Number of random cuts.
        attention: ``"heads"`` or ``"head_dim"``.
        grouped: ``"within"`` or ``"whole"``: how grouped convolutions are cut; transposed ones always within.
        ignore: Name patterns of layers whose outputs must stay.
        modes: Ways in which the cut network is run (:attr:`Backend.modes`); by default all.
        mode_seeds: How many of the cuts are run in all of these, the rest in the first alone; by default all.

    Returns:
        What was found. A network that the framework cannot run or compile is ``"refused"``, one that cannot be
        analysed or cut otherwise is ``"failed"``; both with the message.

    Raises:
        InputError: ``ratio`` or ``seeds`` is out of range, a policy is unknown, a pattern of ``ignore`` matches no
            layer, or the framework lacks a mode.
    """
    if not 0 < ratio < 1:
        raise InputError(f"ratio must lie in (0, 1), got {ratio:g}; use 0.3 to remove 30% of every group")
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}; 3 is usual")
    if mode_seeds is not None and mode_seeds < 1:
        raise InputError(f"mode_seeds must be at least 1, got {mode_seeds}; leave it out to run every cut in all modes")
    modes = tuple(backend.modes if modes is None else modes)
    for mode in set(modes) - set(backend.modes):
        known = ", ".join(backend.modes) or "no mode at all"
        raise InputError(f"a mode must be one that {backend.name} has, got {mode!r}; it has {known}")
    if backend.modes and not modes:
        raise InputError(f"a cut network must run in one mode at least, got none; {backend.name} has {backend.modes}")
    result = Verification(name or type(model).__name__, backend.name, "failed", modes=modes)
    begin = time.perf_counter()
    try:
        analysis = analyse(backend, model, example, attention=attention, grouped=grouped, ignore=ignore)
    except InputError:  # a mistake in what was asked for says nothing of the network
        raise
    except PrunekitError as error:
        return _failed(result, error)
    result = replace(_described(result, analysis.coupling), analysis_seconds=time.perf_counter() - begin)
    if not analysis.groups:
        return replace(result, status="frozen", error=0.0)
    try:
        return _compared(result, analysis, ratio, seeds, seeds if mode_seeds is None else mode_seeds)
    except PrunekitError as error:
        return _failed(result, error)


def _failed(result: Verification, error: PrunekitError) -> Verification:
    return replace(result, status="refused" if isinstance(error, TraceError) else "failed", message=str(error))


def _compared(result: Verification, analysis: Analysis, ratio: float, seeds: int, mode_seeds: int) -> Verification:
    backend = analysis.backend
    usual = backend.modes[0] if backend.modes else ""  # a mask may need ops that run one by one
    with _in_mode(backend, usual):
        model, example, whole = _precise(backend, randomised(analysis), analysis.example)
    analysis = replace(analysis, model=model, example=example)
    errors: dict[str, list[float]] = {mode: [] for mode in result.modes or ("",)}
    lost, seconds, changed = [], [], False
    for seed in range(seeds):
        plan = random_plan(analysis, 1 - ratio, seed)
        with _in_mode(backend, usual), backend.masked(analysis, plan):
            expected = backend.outputs(model, example)
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)  # cut at random it need not describe itself
            small = backend.apply(analysis, plan)
        seconds.append(time.perf_counter() - begin)
        for mode in result.modes[: None if seed < mode_seeds else 1] or ("",):
            with _in_mode(backend, mode):
                found = backend.outputs(small, example)
            if [a.shape for a in found] != [a.shape for a in expected]:
                return replace(result, message=f"outputs have other shapes once cut (seed {seed}){_named(mode)}")
            errors[mode].append(_largest_error(found, expected))
        # how many things a network finds may depend on its values
        changed |= [a.shape for a in expected] != [a.shape for a in whole] or _largest_error(expected, whole) > _BLIND
        left = sum(a.size for a in backend.get_state(small, copy=False).values())
        lost.append(1 - left / sum(a.size for a in backend.get_state(model, copy=False).values()))
        del small  # before the next one is made
    result = replace(result, lost=float(np.mean(lost)), cut_seconds=float(np.mean(seconds)))
    return _judged(result, analysis, {mode: float(np.max(found)) for mode, found in errors.items() if found}, changed)


def _precise(backend: Backend, model: Any, example: Any) -> tuple[Any, Any, list[Any]]:
    """A network and its example with as little rounding as they run with, and its outputs."""
    exact, doubled = backend.precise(model, example)
    try:
        return exact, doubled, backend.outputs(exact, doubled)
    except Exception:  # code that makes tensors of one precision itself
        return model, example, backend.outputs(model, example)


def _judged(result: Verification, analysis: Analysis, errors: Mapping[str, float], changed: bool) -> Verification:
    """The verdict on the largest error in each mode, and on whether the cuts changed the outputs at all."""
    result = replace(result, error=float(np.max(list(errors.values()))))
    wrong = [f"{error:.1e}{_named(mode)}" for mode, error in errors.items() if not error <= TOLERANCE]
    if wrong:
        return replace(result, message=f"cut and masked network differ by {' and '.join(wrong)}")
    if not changed:
        return replace(result, message="the outputs do not depend on what was cut: the check is blind")
    neutral = all(g.neutral for g in analysis.groups)
    return replace(result, status="exact" if neutral else "non-neutral exact")


def _in_mode(backend: Backend, mode: str) -> AbstractContextManager[None]:
    return backend.in_mode(mode) if mode else nullcontext()


def _named(mode: str) -> str:
    return f" in {mode} mode" if mode else ""


def random_plan(analysis: Analysis, keep: float = 0.7, seed: int = 0) -> PruningPlan:
    """A plan that keeps a random share of every group, at least one channel each."""
    rng = np.random.default_rng(seed)
    kept = {g.name: rng.permutation(g.size)[: max(1, round(g.size * keep))].tolist() for g in analysis.groups}
    return PruningPlan.of(analysis.coupling, kept)


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference between two arrays, relative to the largest value expected."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{found.shape} is not {expected.shape}"
    if not expected.size:
        return 0.0
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def _largest_error(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """Of all outputs; NaN where one of them has a NaN, which Python's own ``max`` may pass over."""
    return float(np.max([relative_error(a, b) for a, b in zip(found, expected, strict=True)], initial=0.0))


def randomised(analysis: Analysis, seed: int = 0) -> Any:
    """A copy of a network with random norms, and random values for parameters that are all but constant."""
    backend, model = analysis.backend, analysis.backend.clone(analysis.model)
    rng = np.random.default_rng(seed)
    learned = {t.name for t in analysis.graph.tensors if t.role == "parameter"}
    state = backend.get_state(model, copy=False)
    known: dict[tuple[int, tuple[int, ...]], Any] = {}  # tied parameters: two names, one place in memory
    for name, values in state.items():
        if values.dtype.kind != "f" or values.size < 2:
            continue
        place = values.ctypes.data, values.shape
        if place in known:
            state[name] = known[place]
            continue
        if name.endswith("running_var"):
            state[name] = rng.uniform(0.5, 1.5, values.shape).astype(values.dtype)
        elif name.endswith("running_mean"):
            state[name] = rng.normal(0, 0.3, values.shape).astype(values.dtype)
        elif name in learned and values.std() < _EVEN:
            gain = values.flat[0] > 0.5
            drawn = rng.uniform(0.5, 1.5, values.shape) if gain else rng.normal(0, 0.3, values.shape)
            state[name] = drawn.astype(values.dtype)
        known[place] = state[name]
    backend.set_state(model, state)
    return model


def _described(result: Verification, coupling: Coupling) -> Verification:
    graph = coupling.graph
    sizes = {t.name: int(np.prod(t.shape)) for t in graph.parameters().values()}
    cut = {m.name for g in coupling.groups for m in g.members}
    params = sum(sizes.values())
    still = sum(n for name, n in sizes.items() if name not in cut)
    usual = ("output of the network", "a single coupled set")
    reasons = dict.fromkeys(f"{f.reason}" for f in coupling.frozen if not f.reason.startswith(usual))
    return replace(
        result,
        groups=len(coupling.groups),
        params=params,
        frozen_share=still / max(1, params),
        constants=solved(coupling),
        frozen=tuple(reasons),
    )

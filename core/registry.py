"""Backends and algorithms by name: prunekit's own, and those that other packages register.

Another package adds its own through the entry-point groups ``prunekit.backends`` and
``prunekit.algorithms``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, cast

from prunekit.core._names import nearest
from prunekit.core._user_code import user_code_refused
from prunekit.core.backend import Backend
from prunekit.core.errors import ConfigError, InputError, MissingDependencyError

__all__ = ["backend_of", "default_backend", "get_algorithm", "get_backend", "list_algorithms", "list_backends"]

_BACKENDS: Mapping[str, str] = {
    "torch": "prunekit.backend_torch.backend:TorchBackend",
    "mindspore": "prunekit.backend_mindspore.backend:MindSporeBackend",
}
_ALGORITHMS: Mapping[str, str] = {
    "uni_pruning": "prunekit.algorithms.uni_pruning:UniPruning",
    "eagle_eye": "prunekit.algorithms.eagle_eye:EagleEye",
    "channel_pruning": "prunekit.algorithms.channel_pruning:ChannelPruning",
    "prune_ea": "prunekit.algorithms.prune_ea:PruneEA",
    "meta_pruning": "prunekit.algorithms.meta_pruning:MetaPruning",
}
_BACKEND_GROUP = "prunekit.backends"
_ALGORITHM_GROUP = "prunekit.algorithms"


def list_backends() -> tuple[str, ...]:
    """Names of all backends, whether their framework is installed or not."""
    return tuple(sorted(_table(_BACKENDS, _BACKEND_GROUP)))


def list_algorithms() -> tuple[str, ...]:
    """Names of all algorithms."""
    return tuple(sorted(_table(_ALGORITHMS, _ALGORITHM_GROUP)))


def default_backend() -> str:
    """The backend that is meant where none is named: ``torch``, unless MindSpore alone is installed."""
    return next((name for name in _BACKENDS if importlib.util.find_spec(name)), "torch")


def get_backend(name: str) -> Backend:
    """The backend of that name.

    Example:
        >>> get_backend("torhc")
        Traceback (most recent call last):
        prunekit.core.errors.ConfigError: backend must be a known name, got 'torhc'; did you mean 'torch'?

    Raises:
        ConfigError: No backend has that name.
        MissingDependencyError: Its framework is not installed.
    """
    factory = _find("backend", name, _BACKENDS, _BACKEND_GROUP)
    return cast(Backend, factory())


def get_algorithm(name: str) -> Any:
    """The class of the algorithm of that name.

    Raises:
        ConfigError: No algorithm has that name.
        MissingDependencyError: A library that it needs is not installed.
    """
    return _find("algorithm", name, _ALGORITHMS, _ALGORITHM_GROUP)


def backend_of(model: Any, names: Iterable[str] | None = None) -> Backend:
    """The backend whose framework a model belongs to; frameworks that are not installed are passed over.

    Raises:
        InputError: No backend accepts the model.
    """
    tried = tuple(names) if names is not None else list_backends()
    for name in tried:
        try:
            backend = get_backend(name)
        except MissingDependencyError:
            continue
        if backend.accepts(model):
            return backend
    raise InputError(
        f"a model must be a network of an installed framework ({', '.join(tried)}), got {type(model).__qualname__}"
    )


def _table(own: Mapping[str, str], group: str) -> dict[str, str]:
    """Name → ``"module:attribute"``; prunekit's own names cannot be taken over.

    Where no user code may be run, there are no others.
    """
    if user_code_refused():
        return dict(own)
    others = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=group)}
    return {**others, **own}


def _find(what: str, name: str, own: Mapping[str, str], group: str) -> Any:
    # all that is installed is looked through only for a name that is not our own
    table = own if isinstance(name, str) and name in own else _table(own, group)
    if not isinstance(name, str) or name not in table:
        raise ConfigError(f"{what} must be a known name, got {name!r}; {nearest(str(name), table)}")
    module, _, attribute = table[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, MissingDependencyError) as error:
        cause = error.__cause__ if isinstance(error, MissingDependencyError) else error
        missing = (getattr(cause, "name", None) or "").partition(".")[0]
        if not missing or missing == module.partition(".")[0]:
            raise  # not a missing library but a broken table or package
        framework = what == "backend" and name in _BACKENDS
        install = f"'prunekit[{name}]'" if framework else missing
        other = next((b for b in _BACKENDS if framework and b != name and importlib.util.find_spec(b)), None)
        raise MissingDependencyError(
            f"{what} {name!r} needs {missing}, which is not installed; run `pip install {install}`"
            + (f", or take {other!r}, which is installed (--backend {other})" if other else "")
        ) from error

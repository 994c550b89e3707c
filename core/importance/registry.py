"""The table of criteria."""

from __future__ import annotations

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError
from prunekit.core.importance import activation, bn_gamma, fpgm, l1, l2, l2_gamma, lamp, random, taylor
from prunekit.core.importance.inputs import Criterion

__all__ = ["criteria", "find_criterion"]

_TABLE: dict[str, Criterion] = {
    module.CRITERION.name: module.CRITERION
    for module in (l1, l2, bn_gamma, l2_gamma, fpgm, taylor, activation, lamp, random)
}


def criteria() -> dict[str, str]:
    """Every criterion with one line on what it measures.

    Example:
        >>> criteria()["l1"]
        "L1 norm of the channel's weights (Li et al. 2017)"
    """
    return {c.name: c.description for c in _TABLE.values()}


def find_criterion(name: str) -> Criterion:
    """The criterion of that name.

    Raises:
        ConfigError: No criterion has that name.
    """
    if name not in _TABLE:
        raise ConfigError(f"importance must be a known criterion, got {name!r}; {nearest(str(name), _TABLE)}")
    return _TABLE[name]

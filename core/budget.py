"""What a pruned network may cost, and which channel counts a device likes."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass

from prunekit.core._names import nearest
from prunekit.core.coupling.groups import ChannelGroup
from prunekit.core.errors import BudgetError, ConfigError

__all__ = ["METRICS", "PROFILES", "Budget", "alignment", "least_width", "profiles", "unit_step"]

METRICS = ("macs", "flops", "params", "latency", "ratio")

PROFILES: Mapping[str, int] = {
    "cuda-fp16": 8,
    "cuda-tf32": 4,
    "ascend-fp16": 16,
    "ascend-int8": 32,
    "quadruple": 4,
}
"""Channel counts are multiples of this. Ascend profiles take a number of cores: ``"ascend-fp16x2"``."""

_WHOLE = 1000.0  # a float from here on is an absolute figure (2e9), below it a slip (1.7, 50.0)


@dataclass(frozen=True)
class Budget:
    """What is kept: a share of one figure of the unpruned network, or an absolute figure.

    Attributes:
        metric: ``"macs"``, ``"flops"``, ``"params"``, ``"latency"`` or ``"ratio"`` (channels).
        value: Share to keep in (0, 1], or an absolute figure above 1: operations, parameters, or
            milliseconds of latency.
        tolerance: How far the figure may be off, as a share of the unpruned network's.
    """

    metric: str
    value: float
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BudgetError(f"budget must be a known figure, got {self.metric!r}; {nearest(self.metric, METRICS)}")
        if isinstance(self.value, bool) or not isinstance(self.value, numbers.Real) or not math.isfinite(self.value):
            raise BudgetError(
                f"{self.metric} must be a number, got {self.metric}={self.value!r}; use {self.metric}=0.5"
            )
        if not 0 < self.value <= 1 and not self._is_whole():
            raise BudgetError(
                f"{self.metric} must lie in (0, 1]{self._or_absolute()}, got {self.metric}={self.value}; "
                f"use {self.metric}=0.5 to keep half"
            )
        share = isinstance(self.tolerance, numbers.Real) and not isinstance(self.tolerance, bool)
        if not share or not 0 <= self.tolerance < 1:
            raise BudgetError(f"tolerance must lie in [0, 1), got {self.tolerance!r}; use 0.005 for half a percent")

    @classmethod
    def of(
        cls,
        *,
        macs: float | None = None,
        flops: float | None = None,
        params: float | None = None,
        latency: float | None = None,
        ratio: float | None = None,
        tolerance: float = 0.0,
    ) -> Budget:
        """The one budget that is given. Every budget says what is kept, not what is removed.

        Example:
            >>> Budget.of(macs=1.7)
            Traceback (most recent call last):
            prunekit.core.errors.BudgetError: macs must lie in (0, 1] or be a whole number above 1, got macs=1.7; \
use macs=0.5 to keep half

        Raises:
            BudgetError: None or several are given, or the value is out of range.
        """
        given = {"macs": macs, "flops": flops, "params": params, "latency": latency, "ratio": ratio}
        named = {name: value for name, value in given.items() if value is not None}
        if len(named) != 1:
            got = ", ".join(f"{name}={value}" for name, value in named.items()) or "none"
            raise BudgetError(
                f"exactly one of {', '.join(METRICS)} must be given, got {got}; "
                "give one, as macs=0.5 to keep half, and leave the others out"
            )
        [(metric, value)] = named.items()
        return cls(metric, value, tolerance)

    @property
    def absolute(self) -> bool:
        """Whether the value is a figure of its own and not a share."""
        return self.value > 1

    def target(self, full: float) -> float:
        """The figure to reach, for a network that costs ``full`` (latency in seconds)."""
        if not self.absolute:
            return self.value * full
        return self.value / 1000 if self.metric == "latency" else self.value

    def limit(self, full: float) -> float:
        """The most that counts as within budget."""
        return self.target(full) + self.tolerance * full

    def accepts(self, figure: float, full: float) -> bool:
        """Whether a figure lies within the tolerance of the target, on either side."""
        return abs(figure - self.target(full)) <= self.tolerance * full

    def unreachable(self, full: float, least: float) -> BudgetError:
        """The error for a budget that no network reaches.

        Args:
            full: Figure of the unpruned network (latency in seconds).
            least: The smallest figure that can be reached.
        """
        share = math.ceil(1e4 * least / full) / 1e4 if full else 1.0
        return BudgetError(
            f"{self.metric} must be reachable, got {self.metric}={self.value:g} ({self._show(self.target(full))} of "
            f"{self._show(full)}); the least that can be reached is {self._show(least)} ({self.metric}={share:g}); "
            f"use {self.metric}={share:g} or more, or a smaller align or min_channels"
        )

    def _show(self, figure: float) -> str:
        return f"{1000 * figure:.3g} ms" if self.metric == "latency" else f"{round(figure):,}"

    def _is_whole(self) -> bool:
        if self.metric == "ratio" or self.value <= 1:
            return False
        return (
            isinstance(self.value, numbers.Integral)
            or self.metric == "latency"
            or (self.value >= _WHOLE and float(self.value).is_integer())
        )

    def _or_absolute(self) -> str:
        if self.metric == "ratio":
            return ""
        return " or be milliseconds above 1" if self.metric == "latency" else " or be a whole number above 1"


def profiles() -> dict[str, str]:
    """Every alignment profile with one line on what it does."""
    cores = "; × cores, as in {}x2"
    return {
        name: f"channels in multiples of {step}" + (cores.format(name) if name.startswith("ascend") else "")
        for name, step in PROFILES.items()
    }


def alignment(align: str | int | None) -> int:
    """The number that channel counts shall be multiples of.

    Example:
        >>> alignment("cuda-fp16"), alignment("ascend-fp16x2"), alignment(None)
        (8, 32, 1)

    Args:
        align: A profile (see :data:`PROFILES`), a number, or None for any count.

    Raises:
        ConfigError: The profile is unknown, or the number is not positive.
    """
    if align is None:
        return 1
    if isinstance(align, str):
        match = re.fullmatch(r"(ascend-[a-z0-9]+?)x([1-9]\d*)", align)
        name, cores = (match[1], int(match[2])) if match else (align, 1)
        if name not in PROFILES:
            raise ConfigError(f"align must be a known profile or a number, got {align!r}; {nearest(name, PROFILES)}")
        return PROFILES[name] * cores
    if isinstance(align, bool) or not isinstance(align, int) or align < 1:
        raise ConfigError(f"align must be a profile or a number from 1, got {align!r}; use 8 or 'cuda-fp16'")
    return align


def unit_step(group: ChannelGroup, align: int) -> int:
    """How many units of a group make an aligned number of channels in every layer that produces them.

    A unit may stand for several channels: 64 of a layer for a whole attention head.
    """
    each = {m.indices.shape[1] for m in group.producers or group.members}
    return math.lcm(*(align // math.gcd(align, k) for k in each))


def least_width(group: ChannelGroup, step: int, min_channels: int) -> int:
    """The fewest units that a group may keep: an aligned number, or all where that is fewer.

    Raises:
        ConfigError: ``min_channels`` is not a positive number.
    """
    if isinstance(min_channels, bool) or not isinstance(min_channels, int) or min_channels < 1:
        raise ConfigError(f"min_channels must be a number from 1, got {min_channels!r}; use 1 to allow any width")
    return min(math.ceil(min_channels / step) * step, group.size)

"""The keys of the method ``prune``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prunekit.core._names import nearest
from prunekit.core.budget import METRICS, Budget, alignment
from prunekit.core.errors import ConfigError
from prunekit.core.importance import criteria
from prunekit.core.settings import Section

__all__ = ["Count", "PruneKeys"]

Count = Annotated[int, Field(ge=1)]


class PruneKeys(Section):
    """Keys of the method ``prune``; see :func:`prunekit.core.prune.prune`.

    Attributes:
        macs: Multiply-accumulates to keep: a share, or a number. Exactly one of the five is given.
        flops: Floating-point operations to keep.
        params: Parameters to keep.
        latency: Measured run time to keep: a share, or milliseconds above 1.
        ratio: Share of the channels to keep.
        importance: Name of a criterion (``prunekit list criteria``).
        scope: ``global`` ranks channels over the whole network, ``layer`` within each group.
        align: Device profile (``prunekit list profiles``) or number that widths are multiples of.
        min_channels: Fewest channels that a group keeps.
        ignore: Name patterns of layers whose outputs stay.
        attention: ``heads`` or ``head_dim``.
        grouped: ``within`` or ``whole``: how grouped convolutions are cut (transposed ones always within).
        tolerance: By how much the budget may be exceeded, as a share of the unpruned figure.
    """

    macs: int | float | None = None
    flops: int | float | None = None
    params: int | float | None = None
    latency: int | float | None = None
    ratio: int | float | None = None
    importance: str = "l2"
    scope: Literal["global", "layer"] = "global"
    align: str | int | None = None
    min_channels: Count = 1
    ignore: list[str] = []
    attention: Literal["heads", "head_dim"] = "heads"
    grouped: Literal["within", "whole"] = "within"
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def budget(self) -> Budget:
        """What is kept."""
        return Budget.of(**{name: getattr(self, name) for name in METRICS}, tolerance=self.tolerance)

    @model_validator(mode="after")
    def _known(self) -> PruneKeys:
        _ = self.budget
        if self.importance not in criteria():
            hint = nearest(self.importance, criteria())
            raise ConfigError(f"importance must be a known criterion, got {self.importance!r}; {hint}")
        alignment(self.align)
        return self

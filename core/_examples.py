"""How large what a file or a command asks for may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prunekit.core.errors import InputError

__all__ = ["check_shape"]

_MOST = 1 << 29  # numbers: two gigabytes of them


def check_shape(shape: Sequence[int]) -> None:
    """Make sure that an example of a shape can be drawn, before memory is asked for.

    Raises:
        InputError: An axis is empty, or they make too many numbers.
    """
    axes = [int(n) for n in shape]
    if any(n < 1 for n in axes) or math.prod(axes) > _MOST:
        raise InputError(
            f"an example must have axes of at least 1 and up to {_MOST:,} numbers in all, got shape {str(axes)[:80]}; "
            "give a smaller one"
        )

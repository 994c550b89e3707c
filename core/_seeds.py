"""Random numbers of Python and NumPy from a seed, without touching those of the process."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

__all__ = ["seeded"]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context, ``random`` and ``numpy.random`` draw from a seed; then they go on as they were.

    Data sets of users augment with either.
    """
    plain, numeric = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(numeric)

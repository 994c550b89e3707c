"""Parameters of tests that hold in both frameworks; MindSpore's are skipped where it is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import pytest

MINDSPORE = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="MindSpore is not installed")

BOTH = ["torch", pytest.param("mindspore", marks=MINDSPORE)]


def cases(torch: Sequence[str], mindspore: Sequence[str]) -> list[Any]:
    """(framework, name) for the names that each framework has."""
    known = [pytest.param("mindspore", name, marks=MINDSPORE) for name in mindspore]
    return [("torch", name) for name in torch] + known

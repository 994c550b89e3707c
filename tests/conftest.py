"""What holds for every test: few threads, no display, no downloads, the same random numbers each time."""

from __future__ import annotations

import os
from importlib.util import find_spec

# read when the libraries are loaded, so they are set before anything else is imported
# one thread where several processes share the tests among them: more only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
if find_spec("mindspore"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import random
import sys

import numpy as np
import pytest
from hypothesis import settings

# a busy machine is no reason to fail, and a failure must come again on the next run
settings.register_profile("prunekit", deadline=None, derandomize=True, database=None)
settings.load_profile("prunekit")


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed every generator that has been loaded; the seed itself is the value."""
    value = 0
    random.seed(value)
    np.random.seed(value)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(value)
    if "mindspore" in sys.modules:
        sys.modules["mindspore"].set_seed(value)
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A NumPy generator of the test's own."""
    return np.random.default_rng(seed)

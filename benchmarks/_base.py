"""The network that the benchmarks of accuracy share: ResNet-20, trained on Fashion-MNIST at 14 pixels."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from prunekit.cli.base import get_base
from prunekit.cli.config import load_config
from prunekit.cli.job import Job, prepare
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.logs import RunLog

__all__ = ["base_network"]


def base_network(*changes: str, config: str = "quickstart") -> tuple[Job, Analysis]:
    """A configuration's job, and the analysis of its trained network; kept in the cache of base weights.

    Args:
        changes: As ``--set`` takes them, e.g. ``"seed=1"``.
        config: Name of a ready configuration.
    """
    job = prepare(load_config(config, list(changes)))

    def say(text: Any) -> None:
        print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder, RunLog(folder) as log:
        model = get_base(job, Path(folder), log, say).model
    return job, analyse(job.backend, model, job.example())

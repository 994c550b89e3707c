"""What a benchmark ran on: machine, versions and commit; and what it printed, without this machine's folders."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prunekit.core._timing import cpu_name

__all__ = ["commit", "environment", "load", "machine", "portable", "versions"]

_PACKAGES = (
    "prunekit", "torch", "torchvision", "mindspore", "numpy", "torch-pruning", "onnx", "onnxruntime",
    "onnxruntime-gpu", "scikit-learn", "pymoo", "stable-baselines3",
)  # fmt: skip
_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_WRITTEN = ("benchmarks/results.json", "benchmarks/RESULTS.md", "README.md")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, and memory in GiB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, Any] = {"processor": cpu_name(), "cores": cores}
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return found


def load() -> float | None:
    """How many processes want a core, as a mean over the last minute."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """Of Python, and of what is installed of the packages that benchmarks use."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """The variables that are set and change how fast the libraries are."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def commit(root: Path) -> str | None:
    """The commit of the sources, ``"…, changed"`` where they are not those of it, None where git cannot tell."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        short = git("rev-parse", "--short=10", "HEAD")
        without = [f":(exclude){name}" for name in _WRITTEN]
        return short + (", changed" if git("status", "--porcelain", "-uno", "--", ".", *without) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def portable(text: str, root: Path) -> str:
    """Paths as they begin in any installation, and no colours."""
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), str(root)):
        text = text.replace(folder + os.sep, "")
    text = text.replace(str(Path.home()) + os.sep, "~/")
    return re.sub(r"\x1b\[[0-9;]*m", "", text)

"""A saved network on disk: weights and plan, two files that belong together.

A folder holds ``weights.safetensors`` (canonical names, see ``core.backend``) and ``plan.json``,
which carries the hash of the weights and one of itself. Files of two saves, or changed ones, are
recognised; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from prunekit.core._files import produce_atomic, read_text, write_atomic
from prunekit.core.backend import State
from prunekit.core.errors import CheckpointError, PlanError
from prunekit.core.plan import PruningPlan

__all__ = ["PLAN_FILE", "WEIGHTS_FILE", "read_plan", "read_store", "write_store"]

WEIGHTS_FILE = "weights.safetensors"
PLAN_FILE = "plan.json"


def write_store(folder: str | os.PathLike[str], state: Mapping[str, NDArray[Any]], plan: PruningPlan) -> Path:
    """Write a network's weights and plan.

    Both files are complete under temporary names before either is renamed.

    Args:
        folder: Where to; made if missing. A network saved there before is replaced.
        state: Weights by canonical name.
        plan: How the network was cut.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written.
        CheckpointError: A weight has a type that the format does not know.
    """
    try:
        weights = save_tensors({name: np.array(value, order="C") for name, value in state.items()})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"weights must be of a numeric type that safetensors knows, got {error}; convert the model with .float()"
        ) from error
    entry = {"file": WEIGHTS_FILE, "bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    data = {**plan.to_dict(), "weights": entry}
    data["checksum"] = _checksum(data)
    target = Path(folder)

    def write(temporary: Path) -> None:
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        write_atomic(target / WEIGHTS_FILE, weights)

    produce_atomic(target / PLAN_FILE, write)
    return target


def read_store(folder: str | os.PathLike[str]) -> tuple[State, PruningPlan]:
    """What :func:`write_store` wrote.

    Raises:
        PlanError: ``plan.json`` is missing, malformed or changed.
        CheckpointError: ``weights.safetensors`` is missing, truncated, changed, or of another save.
    """
    plan, entry = _read_plan(Path(folder))
    path = Path(folder) / WEIGHTS_FILE
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"a saved network must have a readable {WEIGHTS_FILE}, got {path} ({error})") from error
    if len(weights) != entry.get("bytes") or hashlib.sha256(weights).hexdigest() != entry.get("sha256"):
        raise CheckpointError(
            f"{WEIGHTS_FILE} must be the file that {PLAN_FILE} was saved with ({entry.get('bytes')} bytes), got "
            f"another or a damaged one ({len(weights)} bytes) in {os.fspath(folder)}; copy both files again"
        )
    try:
        return load_tensors(weights), plan
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} must be a safetensors file, got a malformed one ({error})") from error


def read_plan(folder: str | os.PathLike[str]) -> PruningPlan:
    """The plan of a saved network, checked against its own hash.

    Raises:
        PlanError: ``plan.json`` is missing, malformed or changed.
    """
    return _read_plan(Path(folder))[0]


def _read_plan(folder: Path) -> tuple[PruningPlan, dict[str, Any]]:
    path = folder / PLAN_FILE
    try:
        data = json.loads(read_text(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PlanError(f"a saved network must have a readable {PLAN_FILE}, got {path} ({error})") from error
    plan = PruningPlan.from_dict(data)
    entry = data.get("weights")
    if not isinstance(entry, dict):
        raise PlanError(f"the {PLAN_FILE} of a saved network must name its weights, got a plan alone in {path}")
    if data.get("checksum") != _checksum(data):
        raise PlanError(f"the {PLAN_FILE} of a saved network must not be edited, got a changed {path}; save again")
    return plan, entry


def _checksum(data: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in data.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()

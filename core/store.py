"""A saved network on disk: weights and plan, two files that belong together.

A folder holds ``weights.safetensors`` (canonical names, see ``core.backend``) and ``plan.json``,
which carries the hash of the weights and one of itself. Files of two saves, or changed ones, are
recognised; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from prunekit.core._files import MOST_JSON, read_bytes, read_text, write_atomic
from prunekit.core._json import parse_json
from prunekit.core.analysis import analyse
from prunekit.core.backend import Backend, State
from prunekit.core.carried import attach_plan, find_plan
from prunekit.core.errors import CheckpointError, InputError, OutputError, PlanError
from prunekit.core.plan import PruningPlan, plan_checksum

__all__ = [
    "PLAN_FILE", "WEIGHTS_FILE", "check_state", "load_network", "read_plan", "read_store", "save_network",
    "write_store",
]  # fmt: skip

WEIGHTS_FILE = "weights.safetensors"
PLAN_FILE = "plan.json"
_PENDING = f".next-{PLAN_FILE}"


def save_network(backend: Backend, model: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a network's weights and plan into a folder.

    A network that was never cut is saved as well, with a plan that keeps everything.

    Args:
        backend: The backend of its framework.
        model: A pruned network.
        folder: Where to; made if missing. A network saved there before is replaced.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    plan = find_plan(model) or PruningPlan(kept={}, sizes={}, model=type(model).__name__)
    return write_store(folder, backend.get_state(model), plan)


def load_network(backend: Backend, model: Any, folder: str | os.PathLike[str], example: Any = None) -> Any:
    """The network that :func:`save_network` wrote, with any framework.

    Args:
        backend: The backend of the framework to load it in.
        model: The unpruned original, freshly built (its weights do not matter), or a function
            that builds it. It is left untouched.
        folder: What was saved.
        example: An input to trace the original with; by default one of the shape in the plan.
            Needed where inputs are not floating-point tensors.

    Returns:
        The pruned network, in the mode (training or inference) of the given one.

    Raises:
        PlanError: The plan is damaged, or was made for another architecture.
        CheckpointError: The weights are damaged, of another save, or of another network.
    """
    state, plan = read_store(folder)
    original = model() if callable(model) and not backend.accepts(model) else model
    if not backend.accepts(original):
        raise InputError(
            f"load needs a {backend.name} network or a function that builds one, got {type(original).__name__}"
        )
    if any(len(kept) != plan.sizes[name] for name, kept in plan.kept.items()):
        policies = {key: plan.options[key] for key in ("attention", "grouped") if key in plan.options}
        analysis = analyse(backend, original, _example(backend, original, plan, example), **policies)
        small = backend.apply(analysis, plan)
    else:
        small = backend.clone(original)
    try:
        backend.set_state(small, state)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (while loading {os.fspath(folder)})") from error
    attach_plan(small, plan)
    return small


def _example(backend: Backend, model: Any, plan: PruningPlan, example: Any) -> Any:
    if example is not None:
        return example
    if not plan.inputs:
        raise InputError("a plan without input shapes needs an example, got None; pass load(…, example=x)")
    inputs = tuple(backend.example(shape, like=model) for shape in plan.inputs)
    return inputs[0] if len(inputs) == 1 else inputs


def check_state(
    own: Mapping[str, tuple[int, ...]], values: Mapping[str, NDArray[Any]], tied: Mapping[str, str] | None = None
) -> None:
    """Make sure that a state is that of a network.

    Counters of batches (``num_batches_tracked``), which some frameworks keep and others do not, may be
    missing or to spare, and so may second names of tied parameters.

    Args:
        own: Shape of every parameter and buffer of the network.
        values: The state.
        tied: First name of each parameter that has several, by the others.

    Raises:
        CheckpointError: A name is missing or unknown, a shape differs, or so do values under names of one parameter.
    """
    tied = tied or {}
    missing, unknown = (
        sorted(n for n in names if not n.endswith("num_batches_tracked") and n not in tied)
        for names in (set(own) - set(values), set(values) - set(own))
    )
    if missing or unknown:
        raise CheckpointError(
            f"a state must hold the model's own names, got {len(missing)} missing {missing[:3]} and "
            f"{len(unknown)} unknown {unknown[:3]}; build the model with the arguments it was saved with"
        )
    for name, shape in own.items():
        if name in values and tuple(values[name].shape) != shape:
            raise CheckpointError(
                f"{name} has shape {shape}, got {tuple(values[name].shape)}; "
                "is the state that of a pruned model? load it with prunekit's load()"
            )
    for other, first in tied.items():
        if other in values and first in values and not np.array_equal(values[other], values[first], equal_nan=True):
            raise CheckpointError(
                f"{other} and {first} are one parameter of this model and must have one value, got two; "
                "build the model as it was when the state was saved"
            )


def write_store(folder: str | os.PathLike[str], state: Mapping[str, NDArray[Any]], plan: PruningPlan) -> Path:
    """Write a network's weights and plan.

    The new plan is there in full, under another name, before the weights are replaced: whoever dies in between
    leaves a network that can be read, the old one or the new one.

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
    data["checksum"] = plan_checksum(data)
    target = Path(folder)

    pending = write_atomic(target / _PENDING, json.dumps(data, indent=1))
    try:
        write_atomic(target / WEIGHTS_FILE, weights)
    except OutputError:
        pending.unlink(missing_ok=True)
        raise
    try:
        os.replace(pending, target / PLAN_FILE)
    except OSError as error:
        raise OutputError(f"an output file must be writable, got {target} ({error}); choose another folder") from error
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
        size = path.stat().st_size
        weights = read_bytes(path, sys.maxsize) if size == entry.get("bytes") else b""
    except (OSError, MemoryError) as error:
        raise CheckpointError(
            f"a saved network must have a readable {WEIGHTS_FILE}, got {path} ({error}); "
            "give a folder that `save` or a run wrote"
        ) from error
    if len(weights) != entry.get("bytes") or hashlib.sha256(weights).hexdigest() != entry.get("sha256"):
        raise CheckpointError(
            f"{WEIGHTS_FILE} must be the file that {PLAN_FILE} was saved with ({entry.get('bytes')} bytes), got "
            f"another or a damaged one ({size} bytes) in {os.fspath(folder)}; copy both files again"
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
    path = folder / (_PENDING if _died_saving(folder) else PLAN_FILE)
    try:
        data = parse_json(read_text(path, MOST_JSON))
    except (OSError, ValueError) as error:
        raise PlanError(
            f"a saved network must have a readable {PLAN_FILE}, got {path} ({error}); "
            "give a folder that `save` or a run wrote"
        ) from error
    if isinstance(data, dict) and "weights" in data and data.get("checksum") != plan_checksum(data):
        raise PlanError(f"the {PLAN_FILE} of a saved network must not be edited, got a changed {path}; save again")
    plan = PruningPlan.from_dict(data)
    entry = data.get("weights")
    if not isinstance(entry, dict):
        raise PlanError(f"the {PLAN_FILE} of a saved network must name its weights, got a plan alone in {path}")
    return plan, entry


def _died_saving(folder: Path) -> bool:
    """Whether a process replaced the weights and died before it could replace the plan."""
    if not (folder / _PENDING).is_file():
        return False
    try:
        named = parse_json(read_text(folder / _PENDING, MOST_JSON))["weights"]["sha256"]
        return bool(named == hashlib.sha256(read_bytes(folder / WEIGHTS_FILE, sys.maxsize)).hexdigest())
    except (OSError, ValueError, KeyError, TypeError):
        return False

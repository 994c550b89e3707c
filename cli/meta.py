"""MetaPruning's first and last step as commands: the training of the PruningNet, and that of a vector's network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunekit.cli._folders import find_folder
from prunekit.cli.config import RunConfig
from prunekit.cli.job import read_config
from prunekit.cli.methods import prepare_training
from prunekit.cli.results import (
    SEARCH_FILE,
    TRAINING_FILE,
    read_results,
    read_search,
    read_training,
    write_training,
)
from prunekit.cli.work import Say, at_work, find_done
from prunekit.core.errors import InputError
from prunekit.core.settings import check

__all__ = ["TRAINING_FILE", "parse_vector", "train", "vector_config"]

_METHOD = "meta_pruning"


def train(
    config: RunConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    command: Sequence[str] = (),
    say: Say,
) -> dict[str, Any]:
    """Train what a search needs beside the network itself; no base network is trained.

    The output folder holds ``config.yml``, ``pruning_net/``, which a search takes as ``method.pruning_net``, and
    ``training.json``.

    Args:
        config: What to do.
        overwrite: Whether a finished training in the output folder, or what a stopped one left, may be replaced.
        resume: Whether to go on with a stopped one; see :func:`prunekit.cli.run.run`.
        command: Command line, for the record.
        say: Tells the user what happens.

    Returns:
        What ``training.json`` holds: how it was trained, and where that comes from.

    Raises:
        PrunekitError: Something in the configuration, the data or the network does not work.
    """
    done = find_done(config, TRAINING_FILE, resume, say)
    if done is not None:
        return read_training(done)
    with at_work(config, TRAINING_FILE, overwrite=overwrite, resume=resume, command=command, say=say) as work:
        analysis, training = prepare_training(work.job, work.folder)
        work.headline(analysis)
        found = {
            "model": work.job.config.model.name, **training(work.log, say), "provenance": work.provenance(),
        }  # fmt: skip
        write_training(work.folder, found)
        (work.folder / "report.html").unlink(missing_ok=True)  # one of a training at work
    return found


def vector_config(
    folder: Path, *, top: int | None = None, vector: str | None = None, out: Path | None = None
) -> RunConfig:
    """The run that trains the network of a vector from scratch.

    Args:
        folder: Folder of a search or a run by MetaPruning.
        top: Which of its best vectors, from 1; by default the first, unless ``vector`` is given.
        vector: Another one, as text: ``"18, 23, …"``.
        out: Output folder; by default beside ``folder``.

    Raises:
        InputError: The folder is of no such search, it has no such vector, or the text is none.
        ConfigError: An id is out of range.
    """
    if top is not None and vector is not None:
        raise InputError("--top takes a vector of the search and --vector another, got both; leave one out")
    folder = find_folder(folder)
    config = read_config(folder)
    if config.method.name != _METHOD:
        raise InputError(f"--top and --vector need a folder of {_METHOD}, got one of {config.method.name} in {folder}")
    chosen = parse_vector(vector) if vector is not None else _top(folder, 1 if top is None else top)
    ids = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:6]
    which = f"vector-{ids}" if vector is not None else f"top-{top or 1}"
    name = f"{folder.resolve().name.removesuffix('.partial')}-{which}"
    data = {
        **config.to_mapping(),
        "out": str(out or folder.resolve().with_name(name)),
        "method": {"name": _METHOD, **config.method.keys, "vector": chosen},
    }
    result: RunConfig = check(RunConfig, data, str(folder / "config.yml"))
    return result


def parse_vector(text: str) -> list[int]:
    """The ids of a vector, as a log or a file shows it.

    Example:
        >>> parse_vector("rngs = [18, 23, 2]")
        [18, 23, 2]

    Raises:
        InputError: It is none.
    """
    form = r"\s*(?:rngs\s*=\s*)?\[?\s*(\d{1,9}(?:\s*,\s*\d{1,9})*)\s*,?\s*\]?\s*"
    match = re.fullmatch(form, text, re.ASCII)
    if match is None:
        raise InputError(f"a vector must be ids with commas between them, got {text[:200]!r}; for example '18, 23, 2'")
    return [int(part) for part in match[1].split(",")]


def _top(folder: Path, place: int) -> list[int]:
    found: Mapping[str, Any]
    found = read_search(folder) if (folder / SEARCH_FILE).is_file() else read_results(folder).get("search") or {}
    best = found.get("top") or []
    if not 1 <= place <= len(best):
        raise InputError(
            f"--top must be one of the {len(best)} vectors that {folder} holds, got {place}; give another, or the ids "
            "themselves by --vector"
        )
    return [int(i) for i in best[place - 1]["vector"]]

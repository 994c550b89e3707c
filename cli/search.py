"""A search on its own, the strategies it left, and the fine-tuning of one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunekit.cli._folders import find_folder
from prunekit.cli.base import get_base
from prunekit.cli.config import RunConfig
from prunekit.cli.job import read_config
from prunekit.cli.methods import Bench, prepare_search, trains_base
from prunekit.cli.results import SEARCH_FILE, read_search, write_search
from prunekit.cli.work import Say, at_work, find_done
from prunekit.core.errors import InputError
from prunekit.core.settings import check
from prunekit.core.strategies import best_first, find_strategy, read_strategies, strategy_line

__all__ = ["finetune_config", "search", "select_strategies"]

_FILE = "search_results/pruning_strategies.txt"


def search(
    config: RunConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    command: Sequence[str] = (),
    say: Say,
) -> dict[str, Any]:
    """Train the base network, where the method starts from it, and search; nothing is cut.

    The output folder holds ``config.yml``, that network in ``original/``, what the method writes, and ``search.json``.

    Args:
        config: What to do.
        overwrite: Whether a finished search in the output folder, or what a stopped one left, may be replaced.
        resume: Whether to go on with a stopped search; see :func:`prunekit.cli.run.run`.
        command: Command line, for the record.
        say: Tells the user what happens.

    Returns:
        What ``search.json`` holds: the figures of the search, and where they come from.

    Raises:
        PrunekitError: Something in the configuration, the data or the network does not work.
    """
    done = find_done(config, SEARCH_FILE, resume, say)
    if done is not None:
        return read_search(done)
    with at_work(config, SEARCH_FILE, overwrite=overwrite, resume=resume, command=command, say=say) as work:
        job, folder, log = work.job, work.folder, work.log
        analysis, find = prepare_search(job, folder)
        work.headline(analysis)
        base = get_base(job, folder, log, say).model if trains_base(job) else job.build()
        bench = Bench(job, log, say, base)
        if trains_base(job):
            bench.test("original", base)
        outcome = find(bench)
        found = {"model": job.config.model.name, **outcome.figures, "provenance": work.provenance()}
        write_search(folder, found)
        (folder / "report.html").unlink(missing_ok=True)  # one that was asked for meanwhile tells of a search at work
    return found


def select_strategies(place: Path, top: int | None = None) -> list[str]:
    """The strategies of a search, best first, in EagleEye's words.

    Args:
        place: A folder of a search or a run, or a file of strategies.
        top: How many; None for all.

    Raises:
        InputError: There is no file of strategies, or something else is in it.
    """
    if top is not None and top < 1:
        raise InputError(f"--top must be at least 1, got {top}; leave it out for all")
    place = find_folder(place)
    path = _strategies_of(place) if place.is_dir() else place
    ranked = best_first(read_strategies(path))
    return [f"########## {path.name} ##########", *(strategy_line(s) for s in ranked[:top])]


def finetune_config(
    folder: Path, strategy: int, *, file: Path | None = None, out: Path | None = None, **recipe: float | None
) -> RunConfig:
    """The run that cuts the original of a search by one of its strategies and fine-tunes it.

    Args:
        folder: Folder of a search or of a run.
        strategy: Index of the strategy.
        file: File of strategies; by default the folder's own.
        out: Output folder; by default beside ``folder``.
        **recipe: ``lr``, ``weight_decay`` and ``epochs`` of the fine-tuning; None leaves what the folder's
            configuration says.

    Raises:
        InputError: The folder is none of a search or a run, or there is no such strategy.
        ConfigError: A figure of the recipe is wrong.
    """
    folder = find_folder(folder)
    config = read_config(folder)
    name = folder.resolve().name.removesuffix(".partial")
    if not (folder / "original").is_dir():
        raise InputError(f"a search must have left its base network, got no {folder / 'original'}; search again")
    chosen = find_strategy(read_strategies(file or _strategies_of(folder)), strategy)
    changes = {key: value for key, value in recipe.items() if value is not None}
    keys = config.method.keys if config.method.name == "eagle_eye" else {}
    data = {
        **config.to_mapping(),
        "weights": str((folder / "original").resolve()),
        "out": str(out or folder.resolve().with_name(f"{name}-strategy-{strategy}")),
        "method": {"name": "eagle_eye", **keys, "strategy": list(chosen.vector)},
        "finetune": dataclasses.replace(config.finetune, **changes).to_mapping(),
    }
    result: RunConfig = check(RunConfig, data, str(folder / "config.yml"))
    return result


def _strategies_of(folder: Path) -> Path:
    if (folder / _FILE).is_file() or not (folder / "config.yml").is_file():
        return folder / _FILE
    return folder / str(read_config(folder).method.keys.get("output_file", _FILE))

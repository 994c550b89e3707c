"""What every long command has around its own work: its folder, its log, and whether it is done already."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunekit.cli._folders import partial_folder, work_folder
from prunekit.cli.config import RunConfig
from prunekit.cli.job import Job, refuse_distributed, settle
from prunekit.core.analysis import Analysis
from prunekit.core.inspection import Inspection
from prunekit.core.logs import RunLog

__all__ = ["Say", "Work", "at_work", "find_done"]

Say = Callable[[str], None]

_WORTH = ("original", "pruning_net")  # what of a folder is worth going on with


@dataclass(frozen=True)
class Work:
    """A command at work.

    Attributes:
        job: What it works on.
        folder: Where its files go.
        log: Its log.
        say: Tells the user what happens.
        command: Command line, for the record.
        begun: When it began, by the monotonic clock.
    """

    job: Job
    folder: Path
    log: RunLog
    say: Say
    command: Sequence[str] = ()
    begun: float = field(default_factory=time.monotonic)

    def provenance(self) -> dict[str, Any]:
        """Where figures come from: command, date, time, seed, system and versions."""
        versions = {"prunekit": importlib.metadata.version("prunekit"), "python": platform.python_version()}
        for name in (self.job.backend.name, "numpy"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        return {
            "command": " ".join(self.command),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self.begun, 1),
            "seed": self.job.config.seed,
            "system": platform.platform(),
            "versions": versions,
        }

    def headline(self, analysis: Analysis) -> None:
        """Say in one line what is about to be pruned."""
        seen = Inspection.of(analysis, model=self.job.config.model.name)
        half = next(row for row in seen.budgets if row.keep == 0.5) if seen.budgets else None
        text = (
            f"{seen.model} on {self.job.loaders.name or self.job.config.data.name}: {seen.params:,} parameters, "
            f"{seen.macs:,} MACs, {len(seen.groups)} groups of channels can be cut, {len(seen.frozen)} must stay"
        )
        if half is not None and half.reached:
            text += f"; half of the MACs, cut evenly, leaves {half.params:,} parameters"
        self.say(text)


def find_done(config: RunConfig, mark: str, resume: bool, say: Say) -> Path | None:
    """The output folder, if all that is to be resumed is done there already.

    Args:
        config: The configuration.
        mark: A file that only a finished folder has.
        resume: Whether the command may go on with what is there.
        say: Tells the user.

    Raises:
        ConfigError: It was done by another configuration.
    """
    target = _target(config)
    if not resume or not (target / mark).is_file() or partial_folder(target).exists():
        return None
    settle(config, target)
    say(f"what was asked for is done: {target}")
    return target


@contextlib.contextmanager
def at_work(
    config: RunConfig, mark: str, *, overwrite: bool, resume: bool, command: Sequence[str], say: Say
) -> Iterator[Work]:
    """Within the context everything goes to ``NAME.partial``; if all goes well it becomes the output folder.

    Args:
        config: The configuration.
        mark: A file that only a finished folder has.
        overwrite: Whether a finished folder, or what a stopped command left, may be replaced.
        resume: Whether to go on with what a stopped command left, if there is such.
        command: Command line, for the record.
        say: Tells the user what happens.

    Raises:
        PrunekitError: The folder may not be used, or something in the configuration or the data does not work.
    """
    refuse_distributed()
    with work_folder(_target(config), overwrite=overwrite, resume=resume, mark=mark, worth=_WORTH) as folder:
        job = settle(config, folder)
        with RunLog(folder) as log:
            log.write("start", command=list(command), config=job.config.to_mapping())
            work = Work(job, folder, log, say, command)
            yield work
            log.write("done", seconds=time.monotonic() - work.begun)


def _target(config: RunConfig) -> Path:
    return Path(str(config.out)).expanduser()

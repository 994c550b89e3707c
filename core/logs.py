"""What a run writes while it works: a JSON line per event, TensorBoard curves, and progress on the terminal."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prunekit.core._terminal import shown
from prunekit.core.errors import MissingDependencyError, OutputError

__all__ = ["Bar", "RunLog", "hush", "progress"]


class RunLog:
    """The log of one run: ``log.jsonl`` and, where asked for, TensorBoard event files.

    A line is a JSON object with ``time`` (seconds since 1970), ``event`` and the fields of the event.
    Lines are appended and flushed, so that a run that is killed leaves whole lines.

    Attributes:
        path: The file of JSON lines.
    """

    def __init__(self, folder: str | Path, tensorboard: bool = False) -> None:
        """Open the log.

        Args:
            folder: Where ``log.jsonl`` and the folder ``tensorboard`` go.
            tensorboard: Whether to write TensorBoard curves too.

        Raises:
            MissingDependencyError: TensorBoard is asked for and not installed.
            OutputError: The folder cannot be written.
        """
        self.path = Path(folder) / "log.jsonl"
        writer = _writer_class() if tensorboard else None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()
            if _is_torn(self.path):  # by a process that was killed: its last line is lost, and not the next one
                self._stream.write("\n")
            self._writer = writer(str(self.path.parent / "tensorboard")) if writer else None
        except OSError as error:
            raise OutputError(f"a log must be writable, got {self.path} ({error}); choose another folder") from error

    def write(self, event: str, **fields: Any) -> None:
        """Append one line.

        Args:
            event: What happened, e.g. ``"epoch"``.
            fields: Plain data or NumPy values; what JSON cannot say (nan, infinity) becomes null.
        """
        line = {"time": round(time.time(), 3), "event": event, **fields}
        try:
            self._stream.write(json.dumps(_plain(line), allow_nan=False) + "\n")
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"a log must be writable, got {self.path} ({error}); make room, then resume") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each named TensorBoard curve; without TensorBoard nothing happens."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def close(self) -> None:
        """Flush and close the files. May be called twice."""
        with contextlib.suppress(OSError):  # what cannot be written was told of before
            self._stream.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_torn(path: Path) -> bool:
    """Whether a file ends within a line."""
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - 1, 0))
        return size > 0 and stream.read() != b"\n"


def _writer_class() -> Any:
    try:
        # its own writer, not a framework's: the log must not load one
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise MissingDependencyError(
            "TensorBoard logs need tensorboard, which is not installed; run `pip install 'prunekit[log]'` "
            "or turn them off"
        ) from error
    return EventFileWriter


def _plain(value: Any) -> Any:
    """The same as plain JSON data."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


class Bar:
    """How far a long job is; made by :func:`progress`."""

    def __init__(self, label: str, total: int, every: float, bars: Progress | None) -> None:
        self._label, self._total, self._every = label, total, every
        self._bars = bars
        self._task = bars.add_task(label, total=total, figures="") if bars else None
        self._done = 0
        self._begin = self._said = time.monotonic()

    def advance(self, count: int = 1, **figures: float) -> None:
        """Count steps that are done, and show figures beside them.

        Args:
            count: Steps done since the last call.
            figures: Numbers to show, e.g. ``loss=0.31``.
        """
        self._done += count
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, count)
            if text:
                self._bars.update(self._task, figures=text)
            return
        now = time.monotonic()
        if now - self._said >= self._every:
            self._said = now
            left = (now - self._begin) * (self._total - self._done) / max(1, self._done)
            self.note(f"{self._label}: {self._done}/{self._total}, {left:.0f} s left" + (f"  {text}" if text else ""))

    def note(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if self._bars is not None:
            self._bars.console.print(shown(text), markup=False, highlight=False)
        else:
            print(shown(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)


class _SilentBar(Bar):
    def __init__(self) -> None:
        super().__init__("", 0, math.inf, None)

    def note(self, text: str) -> None:
        """Print nothing."""


_lock = threading.Lock()
_shared: list[Progress] = []  # one live display per terminal: jobs within jobs add their bars to it
_users = 0
_hushed = False


def hush() -> None:
    """Show no progress in this process from now on: it works for another one, which shows its own."""
    global _hushed
    _hushed = True


@contextlib.contextmanager
def progress(label: str, total: int, *, every: float = 10.0, show: bool = True) -> Iterator[Bar]:
    """A progress bar on a terminal, and now and then a plain line off it (both on standard error).

    Example:
        >>> with progress("pruning", 3, show=False) as bar:
        ...     for _ in range(3):
        ...         bar.advance(loss=0.5)

    Args:
        label: What is going on.
        total: Number of steps.
        every: Seconds between plain lines.
        show: False shows nothing.
    """
    if not show or _hushed:
        yield _SilentBar()
        return
    bars = _acquire() if sys.stderr.isatty() else None
    bar = Bar(label, total, every, bars)
    try:
        yield bar
    finally:
        bar.close()
        if bars is not None:
            _release()


def _acquire() -> Progress:
    global _users
    with _lock:
        if not _shared:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            display = Progress(*columns, TextColumn("{task.fields[figures]}"), console=Console(stderr=True))
            display.start()
            _shared.append(display)
        _users += 1
        return _shared[0]


def _release() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _shared.pop().stop()

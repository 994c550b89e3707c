"""Candidates evaluated in other processes of this machine."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from prunekit.core.errors import WorkerError
from prunekit.core.executor._remote import RemoteExecutor
from prunekit.core.executor._threads import changed_environment, count_cores, share_out, thread_variables
from prunekit.core.executor._wire import OUT_OF_MEMORY, Servant
from prunekit.core.logs import hush

__all__ = ["ProcessExecutor"]

_MOMENT = 1.0  # seconds for a process that hung up to end
_PATIENCE = 5.0  # seconds until a process that was killed must be gone
_WATCH = 0.5  # seconds between two looks at whether the search is still there


@dataclass(eq=False)
class _Hand:
    """A worker, and our end of the pipe to it."""

    process: BaseProcess
    pipe: Connection


class ProcessExecutor(RemoteExecutor[_Hand]):
    """Evaluates in spawned processes, which hold nothing of this one and are gone when it is, however it ends.

    A pipe to each, rather than a pool of the standard library: where one of a pool dies, nobody can tell over which
    request, all that it was doing is lost, and those that are busy cannot be ended.

    Example:
        >>> executor = ProcessExecutor("my_project.search:open_evaluation", {"folder": "outputs/run"}, workers=2)
        >>> executor.workers, executor.close()  # nothing was started yet
        (2, None)

    Args:
        factory: ``"module:function"``; called in each worker, it returns what evaluates there.
        arguments: Its keyword arguments: plain data.
        workers: How many processes; None takes one for every ``threads`` cores.
        threads: Threads of each; None shares the cores out evenly. Training is repeatable for equal counts only.
    """

    def __init__(
        self, factory: str, arguments: Mapping[str, Any], workers: int | None = None, threads: int | None = None
    ) -> None:
        count, self.threads = share_out(workers, threads, count_cores())
        super().__init__(count)
        self._factory, self._arguments = factory, dict(arguments)
        self._context = multiprocessing.get_context("spawn")

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of the workers there are now."""
        hands = [*self._starting, *self._idle, *self._busy]
        return tuple(hand.process.pid for hand in hands if hand.process.pid is not None)

    def _start(self) -> _Hand:
        atexit.register(self.close)  # runs before the standard library waits for processes that nobody ended
        ours, theirs = self._context.Pipe()
        arguments = (theirs, os.getpid(), self._factory, self._arguments)
        # not a daemon, which may have no processes of its own: data loaders want some
        process = self._context.Process(target=_serve, args=arguments, name="prunekit-worker")
        try:
            # libraries read these when they are loaded, which may be before any line of ours runs there
            with changed_environment(thread_variables(self.threads)), _uninterrupted():
                process.start()
        except OSError as error:
            ours.close()
            raise WorkerError(
                f"a worker must be able to start, got {error}; use fewer (executor.workers) or executor=local"
            ) from error
        finally:
            theirs.close()
        return _Hand(process, ours)

    def _send(self, hand: _Hand, text: str) -> None:
        with contextlib.suppress(OSError):
            hand.pipe.send_bytes(text.encode())

    def _wait(self, hands: Sequence[_Hand]) -> list[tuple[_Hand, str | None]]:
        by_pipe = {hand.pipe: hand for hand in hands}
        heard: list[tuple[_Hand, str | None]] = []
        for pipe in wait(list(by_pipe)):
            assert isinstance(pipe, Connection)
            try:
                heard.append((by_pipe[pipe], pipe.recv_bytes().decode()))
            except (EOFError, OSError):
                heard.append((by_pipe[pipe], None))
        return heard

    def _why(self, hand: _Hand) -> str:
        hand.process.join(_MOMENT)
        return _reason(hand.process.exitcode)

    def _stop(self, hand: _Hand) -> None:
        hand.pipe.close()
        hand.process.kill()
        hand.process.join(_PATIENCE)

    def close(self) -> None:
        """End the workers, whatever they do."""
        super().close()
        atexit.unregister(self.close)


def _reason(code: int | None) -> str:
    if code is None:
        return "it hung up"
    if code == OUT_OF_MEMORY:
        return "it ran out of memory"
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}, perhaps for want of memory" if -code == 9 else f"killed by {name}"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; it is for the search alone, also while a worker is starting."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, parent: int, factory: str, arguments: Mapping[str, Any]) -> None:
    """What a worker does until the search hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    hush()
    servant = Servant(factory, arguments)
    try:
        pipe.send_bytes(servant.open().encode())
        while True:
            pipe.send_bytes(servant.answer(pipe.recv_bytes().decode()).encode())
    except (EOFError, OSError):
        os._exit(0)  # at once: frameworks take their time to go, and some complain


def _watch(parent: int) -> None:
    """End this process, also in the middle of an evaluation, once the search is gone."""
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)

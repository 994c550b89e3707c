"""What all executors have in common whose workers are other processes: who works on what, and what if one is lost."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from prunekit.core.candidates import Evaluation, Request
from prunekit.core.errors import PrunekitError, WorkerError
from prunekit.core.executor._wire import failure_of, read_answer, write_request
from prunekit.core.executor.base import Executor, Result

__all__ = ["RETRIES", "RemoteExecutor"]

logger = logging.getLogger("prunekit.executor")

RETRIES = 2
"""How often a request whose worker died is evaluated again."""

Hand = TypeVar("Hand")
"""A handle of one worker."""


class RemoteExecutor(Executor, Generic[Hand]):
    """Hands requests to workers as they become free, and those of a lost worker to another.

    Workers are started when there is something to do for them. Each says once that it is ready, and then answers
    what it is asked, one request at a time.

    Args:
        workers: Most workers at a time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._starting: list[Hand] = []
        self._idle: list[Hand] = []
        self._busy: dict[Hand, int] = {}
        self._failed_starts = 0

    @abstractmethod
    def _start(self) -> Hand:
        """Begin to start a worker."""

    @abstractmethod
    def _send(self, hand: Hand, text: str) -> None:
        """Ask a worker; that it is gone shows when its answer is waited for."""

    @abstractmethod
    def _wait(self, hands: Sequence[Hand]) -> list[tuple[Hand, str | None]]:
        """Wait for workers; returns those that said something, with None for one that is gone."""

    @abstractmethod
    def _why(self, hand: Hand) -> str:
        """What is known of why a worker is gone."""

    @abstractmethod
    def _stop(self, hand: Hand) -> None:
        """End a worker, whatever it does, or clear away one that is gone."""

    def prepare(self, evaluation: Callable[[], Evaluation]) -> None:
        """Nothing: the workers make their own evaluation."""

    def map(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Evaluate requests.

        Where an evaluation fails, those that were begun before are finished first, as in one process.

        Raises:
            PrunekitError: An evaluation failed.
            WorkerError: Workers cannot be started, or die again and again.
        """
        todo = _Requests(requests)
        try:
            while todo.queue or self._busy:
                self._hand_out(todo)
                heard = self._wait([*self._starting, *self._busy])
                answers = [(hand, text) for hand, text in heard if hand in self._busy]
                for hand, text in heard:  # before a result is handed on: nobody may come back for more
                    if hand not in self._busy:
                        self._started(hand, text)
                for hand, text in answers:
                    found = self._answered(todo, hand, text)
                    self._hand_out(todo)  # first, so that nobody is idle while the result is looked at
                    if found is not None:
                        yield found
        finally:  # answers that nobody waits for must not be taken for others
            for hand in list(self._busy):
                del self._busy[hand]
                self._stop(hand)
        if todo.failure is not None:
            raise todo.failure

    def close(self) -> None:
        """End the workers, whatever they do."""
        hands = [*self._starting, *self._idle, *self._busy]
        self._starting, self._idle, self._busy, self._failed_starts = [], [], {}, 0
        for hand in hands:
            self._stop(hand)

    def _hand_out(self, todo: _Requests) -> None:
        while todo.queue and self._idle:
            hand = self._idle.pop(0)
            self._busy[hand] = todo.queue.popleft()
            self._send(hand, write_request(todo.requests[self._busy[hand]]))
        while len(self._starting) < len(todo.queue) and len(self._starting) + len(self._busy) < self.workers:
            self._starting.append(self._start())

    def _started(self, hand: Hand, text: str | None) -> None:
        self._starting.remove(hand)
        if text is None:
            self._failed_starts += 1
            reason = self._why(hand)
            self._stop(hand)
            if self._failed_starts > self.workers + RETRIES:
                raise WorkerError(
                    f"workers must come up, got {self._failed_starts} in a row that ended before ({reason}); "
                    "use fewer (executor.workers) if memory is short, or executor=local"
                )
            return
        failure = failure_of(text)
        if failure is not None:
            self._stop(hand)
            raise failure
        self._failed_starts = 0
        self._idle.append(hand)

    def _answered(self, todo: _Requests, hand: Hand, text: str | None) -> tuple[int, Result] | None:
        position = self._busy.pop(hand)
        if text is None:
            reason = self._why(hand)
            self._stop(hand)
            todo.again(position, reason)
            return None
        self._idle.append(hand)
        found = read_answer(text)
        if isinstance(found, Result):
            return position, found
        todo.fail(position, found)
        return None


class _Requests:
    """Requests that are still to be handed out, and how often each was lost."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.queue = deque(range(len(requests)))
        self.failure: PrunekitError | None = None
        self._failed = len(requests)
        self._lost: Counter[int] = Counter()

    def again(self, position: int, reason: str) -> None:
        """Put a request back whose worker was lost."""
        self._lost[position] += 1
        if self._lost[position] > RETRIES:
            raise WorkerError(
                f"a worker must live until it answers, got {self._lost[position]} that died over the same candidate "
                f"({reason}); use fewer workers if memory is short, or executor=local to see what happens"
            )
        logger.warning("a worker was lost (%s); its candidate is evaluated again", reason)
        if position < self._failed:
            self.queue.appendleft(position)

    def fail(self, position: int, failure: PrunekitError) -> None:
        """Remember the failure of the first request that failed; those after it are not begun any more."""
        if position < self._failed:
            self._failed, self.failure = position, failure
            self.queue = deque(k for k in self.queue if k < position)

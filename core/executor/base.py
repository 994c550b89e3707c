"""What an executor is, and the one that evaluates in this process."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from threadpoolctl import threadpool_limits

from prunekit.core.candidates import Evaluation, Request

__all__ = ["Executor", "LocalExecutor", "Result", "Worker"]


@dataclass(frozen=True)
class Result:
    """What came of a request.

    Attributes:
        figures: What the evaluation found, ``score`` among it.
        seconds: Time it took.
    """

    figures: Mapping[str, float]
    seconds: float


class Worker:
    """Evaluates requests, one after the other, and times them.

    Args:
        evaluation: What scores a request.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def __call__(self, request: Request) -> Result:
        """The result of a request."""
        begin = time.monotonic()
        figures = {name: float(value) for name, value in self._evaluation(request).items()}
        return Result(figures, time.monotonic() - begin)


class Executor(ABC):
    """Evaluates requests. It can be entered once, and closes what it opened when it is left.

    For the same requests every executor gives the same figures, as far as evaluations depend on their request alone.
    """

    workers: int = 1
    """How many requests are evaluated at a time."""

    @abstractmethod
    def prepare(self, evaluation: Callable[[], Evaluation]) -> None:
        """Say what evaluates, before the first requests.

        Args:
            evaluation: Makes what evaluates in this process; executors that work elsewhere make their own there.
        """

    @abstractmethod
    def map(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Evaluate requests.

        Args:
            requests: What to evaluate.

        Returns:
            Results as they come, each with the position of its request.

        Raises:
            PrunekitError: An evaluation failed, or no worker is left.
        """

    def close(self) -> None:  # noqa: B027  not all have something to close
        """End the workers. May be called twice."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalExecutor(Executor):
    """Evaluates in this process.

    Args:
        threads: Threads of an evaluation; None leaves what the process has. Training gives the same bits for equal
            counts only. It is obeyed by what runs on OpenMP or a BLAS, as PyTorch does; MindSpore, whose results do
            not depend on the count, keeps threads of its own.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self._make: Callable[[], Evaluation] | None = None
        self._worker: Worker | None = None

    def prepare(self, evaluation: Callable[[], Evaluation]) -> None:
        """Say what evaluates; it is made when the first request comes."""
        self._make, self._worker = evaluation, None

    def map(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Evaluate requests in their order."""
        for position, request in enumerate(requests):
            if self._worker is None:
                if self._make is None:
                    raise RuntimeError("prepare comes before map")
                self._worker = Worker(self._make())
            with contextlib.nullcontext() if self.threads is None else threadpool_limits(self.threads):
                result = self._worker(request)
            yield position, result

    def close(self) -> None:
        """Let go of what evaluates."""
        self._worker = None

"""What passes between a search and those who evaluate for it elsewhere: plain text, so that nothing is unpickled."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Mapping
from typing import Any

from prunekit.core import errors
from prunekit.core._user_code import load_object
from prunekit.core.candidates import Request
from prunekit.core.errors import PrunekitError, WorkerError
from prunekit.core.executor.base import Result, Worker
from prunekit.core.plan import PruningPlan

__all__ = ["OUT_OF_MEMORY", "Servant", "failure_of", "read_answer", "write_request"]

OUT_OF_MEMORY = 71
"""Exit code of a process that had not enough memory: what it was asked for is then asked of a fresh one."""


def write_request(request: Request) -> str:
    """A request as text."""
    return json.dumps(
        {
            "plan": request.plan.to_dict(),
            "vector": list(request.vector),
            "options": dict(request.options),
            "seed": request.seed,
        }
    )


def _read_request(text: str) -> Request:
    data = json.loads(text)
    return Request(PruningPlan.from_dict(data["plan"]), tuple(data["vector"]), data["options"], data["seed"])


def read_answer(text: str) -> Result | PrunekitError:
    """The result that an answer holds, or the error that came instead."""
    failure = failure_of(text)
    if failure is not None:
        return failure
    data = json.loads(text)
    return Result(data["figures"], data["seconds"])


def failure_of(text: str) -> PrunekitError | None:
    """The error that an answer tells of, with what was raised elsewhere as its cause."""
    told = json.loads(text).get("error")
    if told is None:
        return None
    kind = getattr(errors, told["kind"])
    error: PrunekitError = kind(told["message"])
    vars(error).update(told["fields"])
    error.__cause__ = _Elsewhere(told["trace"])
    return error


class _Elsewhere(Exception):
    """Where an error was raised in another process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Servant:
    """Evaluates for a search in another process.

    Args:
        factory: ``"module:function"`` of what makes the evaluation.
        arguments: Its keyword arguments.
    """

    def __init__(self, factory: str, arguments: Mapping[str, Any]) -> None:
        self._factory, self._arguments = factory, arguments
        self._worker: Worker | None = None

    def open(self) -> str:
        """Make the evaluation; returns whether that went well, as text."""
        try:
            self._worker = Worker(load_object(self._factory, "factory")(**self._arguments))
        except Exception as error:  # whatever it is, the search has to be told
            return _tell(error, "workers must be able to make their evaluation")
        return json.dumps({})

    def answer(self, text: str) -> str:
        """Evaluate a request; returns the result, or what was raised, as text."""
        begin = time.monotonic()
        try:
            if self._worker is None:
                raise RuntimeError("open comes before answer")
            result = self._worker(_read_request(text))
        except Exception as error:
            if _for_want_of_memory(error):  # others may have left none, and what is left here is in pieces
                os._exit(OUT_OF_MEMORY)
            return _tell(error, f"an evaluation must not fail, which one did after {time.monotonic() - begin:.1f} s")
        return json.dumps({"figures": dict(result.figures), "seconds": result.seconds})


def _for_want_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: frameworks have errors of their own for that."""
    if error is None or isinstance(error, MemoryError):
        return error is not None
    words = ("allocate memory", "out of memory", "bad_alloc")
    return any(w in str(error).lower() for w in words) or _for_want_of_memory(error.__cause__)


def _tell(error: Exception, rule: str) -> str:
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, PrunekitError):
        kind = next(k.__name__ for k in type(error).__mro__ if getattr(errors, k.__name__, None) is k)
        told = {"kind": kind, "message": str(error), "fields": {k: v for k, v in vars(error).items() if _plain(v)}}
    else:
        text = "".join(traceback.format_exception_only(error)).strip()
        message = f"{rule}, got {text}; run it with executor=local to look closer"
        told = {"kind": WorkerError.__name__, "message": message, "fields": {}}
    return json.dumps({"error": {**told, "trace": trace}})


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))

"""What all commands share: the application, how errors end it, and what it says."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from prunekit.core._terminal import shown
from prunekit.core._user_code import VARIABLE
from prunekit.core._user_errors import place_of_user
from prunekit.core.errors import PrunekitError

__all__ = ["Backend", "Folder", "app", "clear_errors", "say", "show", "show_tracebacks"]


NoUserCode = Annotated[
    bool, typer.Option("--no-user-code", help="Refuse package.module:function: run no code of the user's own.")
]


class _App(typer.Typer):
    """Commands, each of which also has ``--no-user-code``."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def guarded(no_user_code: bool = False, **given: Any) -> Any:
                with _no_user_code() if no_user_code else nullcontext():
                    return function(**given)

            signature = inspect.signature(function, eval_str=True)
            extra = inspect.Parameter(
                "no_user_code", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=NoUserCode
            )
            signature = signature.replace(parameters=[*signature.parameters.values(), extra])
            guarded.__signature__ = signature  # type: ignore[attr-defined]
            guarded.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
            super(_App, self).command(name, **options)(guarded)
            return function

        return add


@contextmanager
def _no_user_code() -> Iterator[None]:
    """Within the context the door is shut, for this process and those that it starts."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        os.environ.update({} if before is None else {VARIABLE: before})


app = _App(
    name="prunekit",
    help="Channel pruning: a network and a budget in, a smaller network out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_debug = False

Backend = Annotated[str | None, typer.Option("--backend", help="Framework, e.g. torch.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a finished run.")]


def show_tracebacks(wanted: bool) -> None:
    """Whether errors are to show where they come from."""
    global _debug
    _debug = wanted


@contextmanager
def clear_errors() -> Iterator[None]:
    """An error that prunekit raised on purpose is one message and exit code 2; others are mistakes of ours."""
    try:
        yield
    except PrunekitError as error:
        if _debug:
            raise
        Console(stderr=True, soft_wrap=True).print(shown(f"error: {error}"), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("stopped; the run is not done", file=sys.stderr)
        raise typer.Exit(130) from None
    except Exception as error:
        place = place_of_user(error)
        if _debug or place is None:
            raise
        said = "".join(traceback.format_exception_only(error)[-1:]).strip()
        text = (
            f"error: code of your own must run, got {said} ({place}); correct it, or see all of it by prunekit --debug"
        )
        Console(stderr=True, soft_wrap=True).print(shown(text), style="red", markup=False, highlight=False)
        raise typer.Exit(2) from None


def say(text: str) -> None:
    """Tell the user something on standard error."""
    # sys.stderr is looked up each time: while a progress bar is up, it is the bar's
    print(shown(text), file=sys.stderr, flush=True)


def show(text: object) -> None:
    """Print what the user asked for on standard output."""
    print(shown(text))

"""Commands that look at a network: `inspect` and `verify`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from prunekit.cli._app import Backend, app, clear_errors, show
from prunekit.core.errors import InputError

__all__ = ["inspect_command", "parse_shape", "verify_command"]

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a network; see `prunekit list models`.")]
Shape = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="N,C,H,W", help="Shape of an input; once for each where there are several."),
]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of the network's builder.")
]
Ignore = Annotated[
    list[str] | None, typer.Option("--ignore", metavar="PATTERN", help="Layers whose outputs must stay.")
]
Attention = Annotated[str, typer.Option("--attention", help="Cut heads or head_dim.")]
Grouped = Annotated[
    str, typer.Option("--grouped", help="Cut grouped convolutions within groups, or whole groups (no transposed ones).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("inspect")
def inspect_command(
    model: Name,
    shape: Shape = None,
    backend: Backend = None,
    options: Options = None,
    ignore: Ignore = None,
    attention: Attention = "heads",
    grouped: Grouped = "within",
    as_json: Json = False,
) -> None:
    """Show what of a network can be cut, what must stay and why, and what budgets would leave."""
    with clear_errors():
        from prunekit.cli.config import parse_options
        from prunekit.core.analysis import analyse
        from prunekit.core.inspection import Inspection
        from prunekit.core.registry import default_backend, get_backend

        chosen: Any = get_backend(backend or default_backend())
        given = parse_options(options or [])
        network, example = _network(chosen, model, shape, given)
        analysis = analyse(chosen, network, example, attention=attention, grouped=grouped, ignore=ignore or [])
        seen = Inspection.of(analysis, model=model)
        if as_json:
            print(json.dumps(seen.to_dict(), indent=1))
        else:
            _show_inspection(seen)


def parse_shape(text: str, example: str = "1,3,224,224") -> tuple[int, ...]:
    """A shape as it is written on the command line.

    Raises:
        InputError: It is no shape.
    """
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise InputError(f"--input must be whole numbers with commas between them, got {text!r}; e.g. {example}")
    return shape


def _show_inspection(seen: Any) -> None:
    console = Console()
    if not console.is_terminal:
        show(seen)
        return
    from prunekit.cli._tables import inspection_tables

    for part in inspection_tables(seen):
        console.print(part)


@app.command("verify")
def verify_command(
    model: Name,
    shape: Shape = None,
    backend: Backend = None,
    options: Options = None,
    ignore: Ignore = None,
    attention: Attention = "heads",
    grouped: Grouped = "within",
    ratio: Annotated[float, typer.Option("--ratio", help="Share of every group to remove.")] = 0.3,
    seeds: Annotated[int, typer.Option("--seeds", help="Number of random cuts.")] = 3,
    modes: Annotated[
        list[str] | None,
        typer.Option("--mode", help="How the cut network runs, where a framework has several ways; all by default."),
    ] = None,
    mode_seeds: Annotated[
        int | None,
        typer.Option("--mode-seeds", help="How many of the cuts run in all modes, the rest in the first alone."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a network at random and compare it with the masked original; exit code 1 where they differ."""
    with clear_errors():
        from prunekit.cli._tables import verification_text
        from prunekit.cli.config import parse_options
        from prunekit.core.registry import default_backend, get_backend
        from prunekit.core.verification import verify

        chosen: Any = get_backend(backend or default_backend())
        network, example = _network(chosen, model, shape, parse_options(options or []))
        found = verify(
            chosen, network, example, name=model, ratio=ratio, seeds=seeds, attention=attention, grouped=grouped,
            ignore=ignore or [], modes=modes or None, mode_seeds=mode_seeds,
        )  # fmt: skip
        show(json.dumps(found.to_dict(), indent=1) if as_json else verification_text(found))
        if not found.holds:
            raise typer.Exit(1)


def _network(backend: Any, model: str, shapes: list[str] | None, options: dict[str, Any]) -> tuple[Any, Any]:
    if not shapes:
        example = backend.default_example(model, **options)
    else:
        drawn = tuple(backend.example(parse_shape(shape), seed=seed) for seed, shape in enumerate(shapes))
        example = drawn if len(drawn) > 1 else drawn[0]
    return backend.build_model(model, seed=0, **options), example

"""The `prunekit` command."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prunekit.cli._app import Backend, Folder, app, clear_errors, say, show, show_tracebacks
from prunekit.cli.networks import inspect_command, verify_command
from prunekit.core._terminal import shown
from prunekit.core.errors import ConfigError, InputError

__all__ = ["app", "inspect_command", "main", "verify_command"]


def main() -> None:
    """Run the command line."""
    # what is started here finds no modules in the working folder, which may hold anything (from Python 3.11 on)
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    app(prog_name="prunekit")


def _version(asked: bool) -> None:
    if asked:
        print(importlib.metadata.version("prunekit"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    show_tracebacks(debug)


class _Notes(logging.Handler):
    """What the library logs, as lines beside the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output folder.")]
Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a ready one.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. data.size=14.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a finished run, or what a stopped one left.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped or killed.")]


@app.command("run")
def run_command(
    config: Config,
    backend: Backend = None,
    out: Out = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Train, prune, cut, export and measure, as a configuration says."""
    with clear_errors(), _notes(), _stoppable():
        _one_of(overwrite, resume)
        _run(_settings(config, backend, out, changes), overwrite, resume)


def _one_of(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise ConfigError("--overwrite begins anew and --resume goes on, got both; leave one out")


def _settings(config: str, backend: str | None, out: Path | None, changes: list[str] | None) -> Any:
    from prunekit.cli.config import load_config

    overrides = list(changes or [])
    overrides += [f"backend={json.dumps(backend)}"] if backend is not None else []
    overrides += [f"out={json.dumps(str(out))}"] if out is not None else []
    return load_config(config, overrides)


def _run(settings: Any, overwrite: bool, resume: bool = False) -> None:
    from prunekit.cli.run import run

    results = run(settings, overwrite=overwrite, resume=resume, command=["prunekit", *sys.argv[1:]], say=say)
    _show_results(results, str(settings.out))


@contextmanager
def _notes() -> Iterator[None]:
    """Within the context, what the library logs is shown."""
    notes = _Notes(logging.WARNING)
    logging.getLogger("prunekit").addHandler(notes)
    try:
        yield
    finally:
        logging.getLogger("prunekit").removeHandler(notes)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within the context, a request to end is Ctrl-C: MindSpore turns the one into the other while it computes."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command("train")
def train_command(
    config: Config,
    backend: Backend = None,
    out: Out = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Train MetaPruning's PruningNet alone: `prunekit search` takes it by --set method.pruning_net=DIR/pruning_net."""
    with clear_errors(), _notes(), _stoppable():
        from prunekit.cli.meta import train

        _one_of(overwrite, resume)
        settings = _settings(config, backend, out, changes)
        train(settings, overwrite=overwrite, resume=resume, command=["prunekit", *sys.argv[1:]], say=say)
        show(f"PruningNet: {settings.out}/pruning_net")


@app.command("search")
def search_command(
    config: Config,
    backend: Backend = None,
    out: Out = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Search without cutting. What it found goes to `select` and `finetune`, or to `evaluate --top` (MetaPruning)."""
    with clear_errors(), _notes(), _stoppable():
        from prunekit.cli.search import search

        _one_of(overwrite, resume)
        settings = _settings(config, backend, out, changes)
        search(settings, overwrite=overwrite, resume=resume, command=["prunekit", *sys.argv[1:]], say=say)
        show(f"search: {settings.out}")


@app.command("select")
def select_command(
    place: Annotated[Path, typer.Argument(metavar="DIR_OR_FILE", help="Folder of a search, or its strategies' file.")],
    top: Annotated[int | None, typer.Option("--top", metavar="N", help="How many; by default all.")] = None,
) -> None:
    """List the strategies of a search, best first."""
    with clear_errors(), _notes():
        from prunekit.cli.search import select_strategies

        for line in select_strategies(place, top):
            show(line)


@app.command("finetune")
def finetune_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a search or a run.")],
    strategy: Annotated[int, typer.Option("--strategy-id", metavar="N", help="Index, as `select` lists it.")],
    file: Annotated[Path | None, typer.Option("--search-result", metavar="FILE", help="File of strategies.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight-decay", help="Weight decay.")] = None,
    epochs: Annotated[float | None, typer.Option("--epoch", help="Epochs.")] = None,
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Cut the original of a search by one of its strategies, fine-tune, export and measure."""
    with clear_errors(), _notes(), _stoppable():
        from prunekit.cli.search import finetune_config

        changes = {"lr": lr, "weight_decay": weight_decay, "epochs": epochs}
        _one_of(overwrite, resume)
        _run(finetune_config(folder, strategy, file=file, out=out, **changes), overwrite, resume)


def _show_results(results: dict[str, Any], out: str) -> None:
    from prunekit.cli.results import rows

    console = Console()
    title = f"{results['model']} on {results['data']['name']}, pruned by {results['method']['name']}"
    table = Table(title=escape(shown(title)))
    table.add_column("")
    for head in ("before", "after", "change"):
        table.add_column(head, justify="right")
    for row in rows(results):
        table.add_row(row.name, row.before, row.after, row.change)
    console.print(table)
    console.print(shown(f"report: {out}/report.html"), markup=False, highlight=False, soft_wrap=True)
    if results["failures"]:
        raise ConfigError(
            f"some exports failed ({', '.join(results['failures'])}); all else is in {out}, "
            f"repeat them with `prunekit export {out} --format {next(iter(results['failures']))}`"
        )
    if not results["reload"]["same"]:
        raise InputError(
            f"the network in {out} must load in a new process and give the same answers, got others or none; see "
            "reload in results.json"
        )


@app.command("list")
def list_command(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="models, algorithms, criteria, profiles, backends or configs.")
    ],
    backend: Backend = None,
) -> None:
    """List the names that configurations and commands know."""
    with clear_errors():
        from prunekit.cli._tables import known_names
        from prunekit.core.registry import default_backend

        lines = known_names(what, backend or default_backend())
        width = max((len(name) for name, _ in lines), default=0)
        for name, description in lines:
            show(f"{name:<{width}}  {description}".rstrip())


@app.command("init")
def init_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("prunekit.yml"),
    method: Annotated[str, typer.Option("--method", help="One of `prunekit list algorithms`.")] = "uni_pruning",
    model: Annotated[str, typer.Option("--model", help="A name, or package.module:function.")] = "resnet20",
    shape: Annotated[
        str | None, typer.Option("--input", metavar="C,H,W", help="Images that a model of your own takes.")
    ] = None,
    backend: Backend = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")] = False,
) -> None:
    """Write a commented configuration for a method and a model; it asks nothing."""
    with clear_errors():
        from prunekit.cli.init import first_config
        from prunekit.cli.networks import parse_shape
        from prunekit.core._files import write_atomic
        from prunekit.core.registry import default_backend

        if file.exists() and not overwrite:
            raise InputError(f"init replaces no file of yours, got {file}; use another name or --overwrite")
        image = None if shape is None else parse_shape(shape, "3,224,224")
        image = image[1:] if image is not None and len(image) == 4 else image  # with the batch, as `inspect` has it
        if image is not None and len(image) != 3:
            raise InputError(f"--input must be channels, height and width of an image, got {shape!r}; e.g. 3,224,224")
        backend = backend or default_backend()
        command = f"prunekit init --method {method} --model {model} --backend {backend}"
        command += f" --input {shape}" if shape is not None else ""
        text = first_config(method, model, backend, image=image, file=str(file), command=command)
        show(write_atomic(file, text))


@app.command("export")
def export_command(
    folder: Folder,
    format: Annotated[str, typer.Option("--format", help="torchscript, onnx, pt2, … as the backend has them.")],
    output: Annotated[Path | None, typer.Option("--output", help="File; by default model.* in the folder.")] = None,
) -> None:
    """Export the pruned network of a run; the file is loaded again by its runtime and compared."""
    with clear_errors():
        from prunekit.cli.job import open_run

        job, small = open_run(folder)
        path = job.backend.export(small, job.example(), output or folder / "model", format)
        runtime = job.backend.export_formats()[format].runtime
        show(f"{path} ({path.stat().st_size:,} bytes); {runtime} gives the same outputs")


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run or a search, finished or at work.")],
    format: Annotated[str, typer.Option("--format", help="html, md, csv (candidates, or widths) or json.")] = "html",
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="File to write.")] = None,
) -> None:
    """Write report.html of a run or a search, also while it works; or print the report as text."""
    with clear_errors():
        from prunekit.cli.report import report_text, write_report
        from prunekit.core._files import write_atomic

        if format == "html":
            show(write_report(folder, output))
            return
        text = report_text(folder, format)
        if output is not None:
            show(write_atomic(output, text))
        else:  # bytes: the ends of lines are those of the format
            typer.echo(text.encode(), nl=False)


@app.command("evaluate")
def evaluate_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run, or of a search.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    top: Annotated[int | None, typer.Option("--top", metavar="N", help="The search's N-th best vector.")] = None,
    vector: Annotated[str | None, typer.Option("--vector", metavar="IDS", help="A vector: '18, 23, 2'.")] = None,
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Load the pruned network of a run and test it; or train the network of a vector of MetaPruning's from scratch."""
    with clear_errors(), _notes(), _stoppable():
        from prunekit.cli.evaluate import evaluate_run, inference_report
        from prunekit.cli.meta import vector_config

        if top is not None or vector is not None:
            _one_of(overwrite, resume)
            if as_json:
                raise InputError("--json prints the answers of a finished run, got it with a vector; leave one out")
            _run(vector_config(folder, top=top, vector=vector, out=out), overwrite, resume)
            return
        if out is not None:
            raise InputError("--out is where the network of a vector goes, got no vector; add --top 1 or --vector IDS")
        if as_json:
            print(json.dumps(evaluate_run(folder)))
            return
        found, lines = inference_report(folder)
        show("\n".join(lines))
        print(f"{found['right']:,} of {found['images']:,} right: {found['top1']:.2%}")

"""``report.html``: one file that needs no other, written from what a run left in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from prunekit.cli._pictures import curve_picture, widths_picture
from prunekit.cli.results import SEARCH_FILE, read_results, read_search, rows
from prunekit.core._files import read_text, write_atomic
from prunekit.core.errors import InputError

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a run or of a search.

    Args:
        folder: Output folder of a finished run, or of a finished search.

    Raises:
        InputError: The folder holds neither.
        MissingDependencyError: matplotlib is not installed.
        OutputError: The report cannot be written.
    """
    home = Path(folder)
    alone = not (home / "results.json").exists() and (home / SEARCH_FILE).exists()
    name = SEARCH_FILE if alone else "results.json"
    found = read_search(home) if alone else read_results(home)
    try:
        page = _page(home, *(_of_search(found) if alone else _of_run(found)), found["provenance"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{name} must hold what prunekit wrote, got a changed one in {home} ({error!r}); run again"
        ) from error
    return write_atomic(home / "report.html", page)


def _page(home: Path, title: str, body: str, provenance: Mapping[str, Any]) -> str:
    template = Template(resources.files("prunekit.cli").joinpath("report.html").read_text(encoding="utf-8"))
    subtitle = f"{provenance['date']}, {provenance['seconds']:.0f} s"
    subtitle += f" on {provenance['device']}" if "device" in provenance else ""
    return template.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        body=body,
        provenance=_table((), list(_flat(provenance))),
        config=escape(_config(home)),
    )


def _of_search(found: Mapping[str, Any]) -> tuple[str, str]:
    """Title and body for a search alone."""
    return f"{found['model']}: search", _search(found) + _layers(found)


def _of_run(results: Mapping[str, Any]) -> tuple[str, str]:
    """Title and body for a run."""
    groups, found = results["groups"], results.get("search") or {}
    figures = [(r.name, r.before, r.after, r.change) for r in rows(results)]
    widths = _table(("group", "before", "after"), [(g["name"], g["before"], g["after"]) for g in groups], right=1)
    stages = _table(("test accuracy", ""), [(s["stage"], f"{s['top1']:.2%}") for s in results["stages"]], right=1)
    files = _table(
        ("file", "bytes", "checked against"),
        [(f["path"], f"{f['bytes']:,}", f["checked"]) for f in results["files"]]
        + [(name, "-", f"failed: {error}") for name, error in results["failures"].items()],
    )
    body = (
        f"<h2>Before and after</h2>{_table(('', 'before', 'after', 'change'), figures, right=1)}"
        f'<p class="quiet">{escape(_notes(results))}</p>'
        f"<h2>Widths</h2><figure>{widths_picture(groups)}</figure>"
        f"<details><summary>As a table</summary>{widths}</details>"
        f"{_search(found)}{_layers(found)}"
        f"<h2>Training</h2><figure>{curve_picture(results['epochs'])}</figure>{stages}"
        f"<h2>Files</h2>{files}"
    )
    return f"{results['model']} on {results['data']['name']}: {results['method']['name']}", body


def _layers(found: Mapping[str, Any]) -> str:
    """A section on what channel pruning really kept, layer by layer; empty where it was not at work."""
    if not found.get("layers"):
        return ""
    lines = []
    for row in found["layers"]:
        inputs = "-" if row["inputs"] is None else f"{row['inputs'][1]} of {row['inputs'][0]}"
        asked = "-" if row["asked"] is None else f"{row['asked']:g}"
        lines.append((row["layer"], asked, inputs, f"{row['flops'][0]:,}", f"{row['flops'][1]:,}"))
    head = ("layer", "ratio asked for", "inputs kept", "FLOPs before", "FLOPs after")
    text = f"{found['asked']}; {found['preserved']:.2%} of the conv FLOPs are kept."
    return (
        f'<h2>FLOPs by layer</h2><p class="quiet">{escape(text)}</p>'
        f"<details><summary>As a table</summary>{_table(head, lines, right=1)}</details>"
    )


def _search(found: Mapping[str, Any]) -> str:
    """A section on what a search found; empty where there was none that scores strategies."""
    strategies = found.get("strategies")
    if not strategies:
        return ""
    part, cost = found["median_part"], found["cost"]
    of = "" if part == 1 else f", by scores that cost {part:.1%} of a whole one"
    lines = [
        ("strategy taken", str(found["index"])),
        ("its score (held-out images)", f"{found['score']:.2%}"),
        ("its share of the MACs", f"{found['ratio']:.4f}"),
        (f"median score of random strategies{of}", f"{found['median_of_random']:.2%}"),
        ("strategies drawn, scored", f"{found['drawn']:,}, {found['evaluated']:,}"),
        ("cost in whole evaluations, seconds", f"{cost:.1f}, {found['evaluation_seconds']:.1f}"),
    ]
    ranked = sorted(strategies, key=lambda s: (s.get("part", 1.0), s["score"], -s["index"]), reverse=True)
    scores = _table(
        ("strategy", "score", "MACs", "part"),
        [(s["index"], f"{s['score']:.3f}", f"{s['ratio']:.4f}", f"{s.get('part', 1.0):.3f}") for s in ranked],
        right=0,
    )
    study = _study(found["correlation"]) if "correlation" in found else ""
    return (
        f"<h2>Search</h2>{_table((), lines, right=1)}{study}"
        f"<details><summary>Scores of all strategies</summary>{scores}</details>"
    )


def _study(found: Mapping[str, Any]) -> str:
    """How well scores foretold the accuracy after fine-tuning."""

    def row(name: str, data: Mapping[str, Any]) -> tuple[str, ...]:
        return (name, *(_interval(data[key], data[f"{key}_interval"]) for key in ("kendall", "pearson")))

    summary = _table(
        ("score and accuracy after fine-tuning", "Kendall's τ (95 %)", "Pearson's r (95 %)"),
        [row("statistics adapted", found["adapted"]), row("statistics as they were", found["unadapted"])],
        right=1,
    )
    points = _table(
        ("strategy", "score", "without adapting", "fine-tuned, test images"),
        [
            (c["index"], f"{c['score']:.2%}", f"{c['unadapted']:.2%}", f"{c['fine_tuned']:.2%}")
            for c in found["candidates"]
        ],
        right=0,
    )
    count, epochs = found["adapted"]["points"], found["epochs"]
    text = f"{count} strategies from the best to the worst, each fine-tuned for {epochs:g} epochs."
    return f'<h3>Correlation</h3><p class="quiet">{text}</p>{summary}{points}'


def _interval(value: float, ends: Sequence[float]) -> str:
    return f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"


def _notes(results: Mapping[str, Any]) -> str:
    latency, reload = results["latency"], results["reload"]
    shape = " × ".join(str(n) for n in latency["shape"])
    return (
        f"Accuracy: {results['data']['test']:,} test images. "
        f"Latency: median of {latency['runs']} passes of {shape} on {latency['device']}. "
        f"File size: weights.safetensors. "
        f"Loaded again in a new process, the pruned network gives {reload['top1']:.2%}, "
        + ("the same for every image." if reload["same"] else "which differs.")
    )


def _config(folder: Path) -> str:
    try:
        return read_text(folder / "config.yml")
    except (OSError, UnicodeDecodeError):
        return "(config.yml is missing)"


def _table(head: Sequence[str], body: Iterable[Sequence[Any]], right: int = 99) -> str:
    """An HTML table; columns from ``right`` on hold numbers."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return "".join(_cell(tag, cell, column >= right) for column, cell in enumerate(cells))

    top = f"<thead><tr>{line(head, 'th')}</tr></thead>" if head else ""
    return f"<table>{top}<tbody>" + "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in body) + "</tbody></table>"


def _cell(tag: str, content: Any, number: bool) -> str:
    kind = ' class="n"' if number else ""
    return f"<{tag}{kind}>{escape(str(content))}</{tag}>"


def _flat(data: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield key, ", ".join(f"{k} {v}" for k, v in value.items())
        else:
            yield key, value if isinstance(value, str) else json.dumps(value)

"""The sections of a report, from what was collected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from prunekit.cli.report.parts import Figure, Picture, Section, Table, count, figure, label, percent, share
from prunekit.cli.report.pictures import curve_picture, widths_picture
from prunekit.cli.report.search_sections import search_sections
from prunekit.cli.results import rows

__all__ = ["sections", "subtitle", "title"]

_MAIN = {"run": "Before and after", "search": "Search", "training": "Training of the method", "unfinished": "So far"}
_NAMES = {
    "index": "candidate taken", "score": "its score (held-out images)", "ratio": "its share of the MACs",
    "drawn": "drawn", "evaluated": "different candidates scored", "cost": "cost in whole evaluations",
    "evaluation_seconds": "seconds of evaluation", "search_seconds": "seconds of the search",
    "median_of_random": "median score of random candidates", "median_part": "share of a whole evaluation that it cost",
    "resumed": "found in the study, not scored again",
    "fits": "within the budget", "trained": "trained in the search",
}  # fmt: skip


def title(data: Mapping[str, Any]) -> str:
    """What the report is about."""
    method = (data["method"] or {}).get("name", "")
    if data["kind"] == "run":
        return f"{data['model']} on {data['data']['name']}: {method}"
    what = {"search": "search", "training": "training"}.get(data["kind"], "not finished")
    return f"{data['model']}: {what}" + (f" ({method})" if method else "")


def subtitle(data: Mapping[str, Any]) -> str:
    """When and where the figures are from."""
    facts = data["provenance"]
    text = str(facts.get("date", ""))
    text += f", {facts['seconds']:.0f} s" if "seconds" in facts else ""
    return text + (f" on {facts['device']}" if "device" in facts else "")


def sections(data: Mapping[str, Any]) -> list[Section]:
    """All sections that there is something to say in."""
    before, after = search_sections(data["search"]) if data["search"] else ([], [])
    found = [_main(data), *before, _widths(data), _costs(data), *after, _layers(data), _training(data), _files(data)]
    return [section for section in [*found, _provenance(data)] if section.parts]


def _main(data: Mapping[str, Any]) -> Section:
    parts: list[str | Table | Picture] = []
    if data["progress"]:
        parts += _progress(data["progress"])
    if data["kind"] == "run":
        parts += [_compared(data, every=False), _notes(data)]
    if data["summary"]:
        lines = [(_NAMES.get(key, label(key)), figure(key, value)) for key, value in data["summary"].items()]
        fold = "Figures of the method" if data["kind"] == "run" else ""
        parts.append(Table(("of the method", "value"), lines, fold=fold))
    return Section(_MAIN[data["kind"]], parts)


def _progress(progress: Mapping[str, Any]) -> list[str | Table | Picture]:
    """What is known of a run that has not ended."""
    state = {True: "at work", False: "stopped", None: "killed, or at work on another machine"}[progress["working"]]
    rows: list[tuple[str, Any]] = [("state", state), ("last begun", progress["stage"])]
    rows += [("candidates scored", count(progress["candidates"]))]
    rows += [("at most", count(progress["total"]))] if progress["total"] else []
    rows += [("generation", count(progress["generation"]))] if progress["generation"] is not None else []
    rows += [("best score so far", percent(progress["best"]))] if progress["best"] is not None else []
    if progress["begun"]:
        rows += [("begun", progress["begun"]), ("since then", Figure(_span(progress["seconds"]), progress["seconds"]))]
        rows += [("last sign of life", Figure(f"{_span(progress['idle'])} ago", progress["idle"]))]
    text = (
        "This run has not ended. prunekit report shows at any time how far it is, and does not disturb it; a run that "
        "was stopped or killed goes on by the same command with --resume."
    )
    return [text, Table(("so far", "value"), rows)]


def _span(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _compared(data: Mapping[str, Any], *, every: bool) -> Table:
    lines = [
        (r.name, Figure(r.before, r.values[0]), Figure(r.after, r.values[1]), Figure(r.change, r.values[2]))
        for r in rows(data, every=every)
    ]
    return Table(("figure", "before", "after", "change"), lines)


def _notes(data: Mapping[str, Any]) -> str:
    latency, reload = data["latency"], data["reload"]
    shape = " × ".join(str(n) for n in latency["shape"])
    return (
        f"Accuracy: {data['data']['test']:,} test images. "
        f"Latency: median of {latency['runs']} passes of {shape} on {latency['device']}. "
        f"File size: weights.safetensors. "
        f"Loaded again in a new process, the pruned network gives {reload['top1']:.2%}, "
        + ("the same for every image." if reload["same"] else "which differs.")
    )


def _widths(data: Mapping[str, Any]) -> Section:
    groups = data["widths"]
    if not groups:
        return Section("Widths", ["No group of this network can be cut."] if data["kind"] == "run" else [])
    lines = [(g["name"], count(g["before"]), count(g["after"]), share(g["after"], g["before"])) for g in groups]
    note = (
        [] if data["kind"] == "run" else [f"Of candidate {data['taken']}; groups that keep all channels are left out."]
    )
    table = Table(("group", "before", "after", "kept"), lines, fold="Widths as a table")
    return Section("Widths", [*note, Picture(partial(widths_picture, groups)), table], brief=False)


def _costs(data: Mapping[str, Any]) -> Section:
    if not data["before"]:
        return Section("Cost and latency")
    text = (
        "MACs are multiply-accumulates of convs and dense layers, FLOPs two for each of them and the rest of the "
        "arithmetic; memory is that of all activations together, bandwidth what all operations read and write."
    )
    return Section("Cost and latency", [_compared(data, every=True), text])


def _layers(data: Mapping[str, Any]) -> Section:
    """What channel pruning really kept, layer by layer."""
    found = data["layers"]
    if not found:
        return Section("FLOPs by layer")
    lines = []
    for row in found["rows"]:
        all_inputs, kept = row["inputs"] or (None, None)
        inputs = Figure("-" if kept is None else f"{kept} of {all_inputs}", kept)
        before, after = row["flops"]
        lines.append((row["layer"], figure("asked", row["asked"]), inputs, count(before), count(after)))
    head = ("layer", "ratio asked for", "inputs kept", "FLOPs before", "FLOPs after")
    text = f"{found['asked']}; {found['preserved']:.2%} of the conv FLOPs are kept."
    return Section("FLOPs by layer", [text, Table(head, lines, fold="Layers as a table")], brief=False)


def _training(data: Mapping[str, Any]) -> Section:
    epochs, stages = data["epochs"], data["stages"]
    if not epochs and not stages:
        return Section("Training", ["Nothing was trained in this run."] if data["kind"] == "run" else [])
    parts: list[str | Table | Picture] = [Picture(partial(curve_picture, epochs or []))]
    if stages:
        parts.append(Table(("stage", "test accuracy"), [(s["stage"], percent(s["top1"])) for s in stages]))
    return Section("Training", parts)


def _files(data: Mapping[str, Any]) -> Section:
    lines = [(f["path"], count(f["bytes"]), f["checked"]) for f in data["files"] or []]
    lines += [(name, Figure("-", None), f"failed: {error}") for name, error in (data["failures"] or {}).items()]
    return Section("Files", [Table(("file", "bytes", "checked against"), lines)] if lines else [])


def _provenance(data: Mapping[str, Any]) -> Section:
    return Section("Provenance", [Table(("what", "value"), list(_flat(data["provenance"])))])


def _flat(data: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield key, ", ".join(f"{k} {v}" for k, v in value.items())
        else:
            yield key, value if isinstance(value, str) else json.dumps(value)

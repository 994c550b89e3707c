"""What the folder of a run or of a search tells, as one plain structure that every form of the report is made of."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prunekit.cli._folders import find_folder, is_working, partial_folder
from prunekit.cli._yaml import parse
from prunekit.cli.report.findings import collect_search
from prunekit.cli.results import SEARCH_FILE, TRAINING_FILE, read_results, read_search, read_training
from prunekit.core._files import read_text
from prunekit.core.errors import InputError, PrunekitError
from prunekit.core.study import STUDY_FILE, Study

__all__ = ["FORMAT", "FORMAT_VERSION", "as_wrote", "collect", "report_folder"]

FORMAT = "prunekit.report"
FORMAT_VERSION = 1

_UNFINISHED = partial_folder(Path("x")).suffix
_RESULTS, _LOG, _CONFIG = "results.json", "log.jsonl", "config.yml"
_READERS = {"run": read_results, "search": read_search, "training": read_training}
_NO_FIGURES = ("format", "version", "model")  # stand beside the figures of the method
_WIDTH = ("name", "before", "after")
_OF_RUN = ("latency", "stages", "epochs", "files", "failures", "reload")


def report_folder(folder: str | Path) -> Path:
    """The folder itself, or, where there is none, the one in which the same run is still at work, or was.

    Raises:
        InputError: There is neither.
    """
    home = find_folder(Path(folder).resolve())
    done = home.with_name(home.name.removesuffix(_UNFINISHED)) if home.name != _UNFINISHED else home
    for place in (home, done):
        if place.is_dir():
            return place
    raise InputError(f"a report needs the folder of a run or of a search, got {home}, which is none; check its name")


def collect(folder: str | Path) -> dict[str, Any]:
    """Read what a run or a search left in its folder, or has left there so far.

    Args:
        folder: Output folder of a run or of a search, or the name that the folder will have.

    Returns:
        Plain data, which is also what ``prunekit report --format json`` prints:

        - ``format``, ``version``: of this structure.
        - ``kind``: ``"run"``, ``"search"``, ``"training"`` (of what a search needs) or, while any of them is at work
          and after it was stopped, ``"unfinished"``.
        - ``folder``: its name; ``model``, ``data``, ``method``: as configured, each may be None.
        - ``progress``: of an unfinished one, see :func:`_progress`; else None.
        - ``before``, ``after``: figures of both networks by name: ``top1``, ``loss``, ``params``, ``macs``,
          ``flops``, ``memory`` and ``bandwidth`` and ``bytes`` (bytes), ``latency`` and ``p90`` (seconds).
        - ``widths``: ``{"name", "before", "after"}`` for each group of channels; without a pruned network those of
          the best candidate, and of the groups that lose channels only.
        - ``latency``, ``stages``, ``epochs``, ``files``, ``failures``, ``reload``: as in ``results.json``.
        - ``layers``: what channel pruning kept of each layer (``asked``, ``preserved``, ``rows``), or None.
        - ``summary``: the plain figures that the method gave, by name.
        - ``taken``: index of the candidate that was taken, or is the best so far; None without candidates.
        - ``search``: what :func:`prunekit.cli.report.findings.collect_search` tells, or None.
        - ``provenance``: command, date, seconds, seed, system, versions, as far as they are known.
        - ``config``: the text of ``config.yml``, or None.

    Raises:
        InputError: The folder is none of a run or of a search, or its files were changed.
        OutputError: The study cannot be opened.
        StudyError: The study is damaged or foreign.
    """
    home = report_folder(folder)
    try:
        data = _collect(home)
        if home.is_dir():
            return data
    except PrunekitError:
        if home.is_dir():
            raise
    return _collect(report_folder(home))  # it was finished, and renamed, while we read


def _collect(home: Path) -> dict[str, Any]:
    kind, _ = _kind(home)
    with as_wrote(home):
        return _collected(home, kind)


@contextlib.contextmanager
def as_wrote(home: Path) -> Iterator[None]:
    """Within the context, data of another shape than prunekit gave them are an error that names their file."""
    _, name = _kind(home)
    try:
        yield
    except PrunekitError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"{name} must hold what prunekit wrote, got a changed one in {home} ({error!r}); run again"
        ) from error


def _kind(home: Path) -> tuple[str, str]:
    """What left the folder, and the file that says so."""
    if (home / _RESULTS).exists():
        return "run", _RESULTS
    if (home / SEARCH_FILE).exists():
        return "search", SEARCH_FILE
    if (home / TRAINING_FILE).exists():
        return "training", TRAINING_FILE
    if (home / _CONFIG).is_file() and ((home / STUDY_FILE).exists() or (home / _LOG).exists()):
        return "unfinished", _LOG
    raise InputError(
        f"a report needs {_RESULTS}, {SEARCH_FILE} or the {_CONFIG} and {_LOG} of a run at work, got none of them in "
        f"{home}; give the folder of a run or of a search"
    )


def _collected(home: Path, kind: str) -> dict[str, Any]:
    text, events = _text(home / _CONFIG), _events(home / _LOG)
    found = _READERS[kind](home) if kind in _READERS else _unfinished(_mapping(text), events)
    figures = dict(found if kind in ("search", "training") else found.get("search") or {})
    search, study = _searched(home, figures)
    provenance = dict(found["provenance"])
    if "prunekit" in study:
        provenance["versions"] = {"prunekit": study["prunekit"], **provenance.get("versions", {})}
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "kind": kind,
        "folder": home.resolve().name,
        "model": str(found["model"]),
        "data": found.get("data") or _mapping(text).get("data"),
        "method": found.get("method") or _mapping(text).get("method"),
        "progress": _progress(home, events, search, study) if kind == "unfinished" else None,
        "before": dict(found.get("before") or {}),
        "after": dict(found.get("after") or {}),
        "widths": [{key: group[key] for key in _WIDTH} for group in found.get("groups") or study.get("widths", [])],
        **{key: found.get(key) for key in _OF_RUN},
        "layers": _layers(figures),
        "summary": {k: v for k, v in figures.items() if _plain(v) and k not in _NO_FIGURES},
        "taken": study.get("taken"),
        "search": search,
        "provenance": provenance,
        "config": text,
    }


def _unfinished(config: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What stands in for ``results.json`` while there is none."""
    starts = [event for event in events if event.get("event") == "start"]
    provenance: dict[str, Any] = {"command": " ".join(starts[-1]["command"])} if starts else {}
    provenance |= {"date": _date(events[0]["time"])} if events else {}
    return {
        "model": (config.get("model") or {}).get("name", "a network"),
        "stages": [{key: event[key] for key in ("stage", "top1")} for event in events if event.get("event") == "test"],
        "epochs": _epochs(events),
        "provenance": {**provenance, "seed": config.get("seed"), "versions": {}},
    }


def _progress(
    home: Path, events: Sequence[Mapping[str, Any]], search: Mapping[str, Any] | None, study: Mapping[str, Any]
) -> dict[str, Any]:
    """How far an unfinished run is.

    Returns:
        ``working``: whether a process works on it, None where that cannot be told; ``candidates``: networks scored;
        ``total``: how many at most, ``generation``: the latest, ``best``: the best score, each None where it is not
        known; ``stage``: what was last begun; ``begun``: date; ``seconds`` since then; ``idle``: seconds since it last
        wrote something.
    """
    candidates = search["candidates"] if search else []
    moments = [event["time"] for event in events] + [study[key] for key in ("begun", "latest") if key in study]
    stages = [event["name"] for event in events if event.get("event") == "stage"]
    now = time.time()
    return {
        "working": is_working(home),
        "candidates": len({candidate["index"] for candidate in candidates}),
        "total": study.get("total"),
        "generation": max((candidate["generation"] for candidate in candidates), default=None),
        "best": search["best"]["score"] if search else None,
        "stage": stages[-1] if stages else "search" if candidates else "base network",
        "begun": _date(min(moments)) if moments else None,
        "seconds": round(max(0.0, now - min(moments)), 1) if moments else None,
        "idle": round(max(0.0, now - max(moments)), 1) if moments else None,
    }


def _searched(home: Path, figures: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What the study, or without one the results, tell of a search; and what the study says of itself."""
    path = home / STUDY_FILE
    if not _size(path):  # an empty one is about to be written
        return collect_search(None, figures), {"taken": figures.get("index")}
    with Study(path, read_only=True) as study:
        known = {"begun": study.begun, "latest": study.latest, "prunekit": study.version}
        search = collect_search(study, figures)
        known["total"] = study.notes("search").get("total")
        if search is not None:
            known["taken"] = figures.get("index", search["best"]["index"])
            plan = study.plan(known["taken"])
            known["widths"] = [
                {"name": name, "before": plan.sizes[name], "after": len(kept)} for name, kept in plan.kept.items()
            ]
        return search, known


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _layers(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    if not figures.get("layers"):
        return None
    return {"asked": figures["asked"], "preserved": figures["preserved"], "rows": figures["layers"]}


def _events(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that is just being written, or was cut off, is left out."""
    found = []
    for line in (_text(path) or "").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("time"), (int, float)):
            found.append(event)
    return found


def _epochs(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The epochs of a log, each with the stage that it belongs to."""
    found, stage = [], "base"
    for event in events:
        if event.get("event") == "stage":
            stage = event["name"]
        elif event.get("event") == "epoch" and "loss" in event:
            found.append({"stage": stage, **{k: v for k, v in event.items() if k not in ("time", "event")}})
    return found


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _mapping(text: str | None) -> dict[str, Any]:
    """A configuration as data; nothing where it is missing."""
    data = parse(text, _CONFIG) if text else None
    return data if isinstance(data, dict) else {}


def _text(path: Path) -> str | None:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError):
        return None


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="seconds")

"""What the tests of the report need: results of a run, studies of searches, and a reader of pages."""

from __future__ import annotations

import html.parser
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunekit.cli.report import write_report
from prunekit.cli.results import write_results, write_search
from prunekit.core.candidates import Candidate
from prunekit.core.plan import PruningPlan
from prunekit.core.study import STUDY_FILE, Study

NASTY = '<script>alert("1")</script>$x$ & ü'
PROVENANCE = {"command": NASTY, "date": "2020", "seconds": 3.0, "seed": 5, "versions": {"a": NASTY}}


def results(**changes: Any) -> dict[str, Any]:
    """What a run measured."""
    figures = {"top1": 0.9, "loss": 0.3, "params": 1000, "macs": 5000, "flops": 11000, "latency": 0.02, "bytes": 4100}
    return {
        "model": NASTY,
        "data": {"name": NASTY, "test": 100},
        "method": {"name": NASTY},
        "before": figures,
        "after": {**figures, "top1": 0.885, "params": 500, "latency": 0.01},
        "latency": {"device": NASTY, "shape": [1, 3, 8, 8], "runs": 10},
        "groups": [{"name": NASTY, "before": 16, "after": 7}, {"name": "b", "before": 8, "after": 8}],
        "stages": [{"stage": "original", "top1": 0.9}, {"stage": NASTY, "top1": 0.885}],
        "epochs": [
            {"stage": "base", "loss": 1.0, "val_top1": 0.5},
            {"stage": NASTY, "loss": 0.5, "val_top1": 0.6},
        ],
        "files": [{"path": NASTY, "bytes": 10, "checked": NASTY}],
        "failures": {NASTY: NASTY},
        "reload": {"images": 100, "right": 88, "top1": 0.885, "same": True},
        "provenance": {**PROVENANCE, "device": NASTY},
        **changes,
    }


def write(folder: Path, **changes: Any) -> str:
    """The page of a run."""
    write_results(folder, results(**changes))
    (folder / "config.yml").write_text(f"model: '{NASTY}'\n", encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def evolution(generations: int = 5, size: int = 8, costs: Sequence[str] = ("macs", "params")) -> list[Candidate]:
    """Candidates of a search that gets better; costs have from three to seven digits."""
    random = np.random.default_rng(0)
    found = []
    for index in range(generations * size):
        generation = index // size
        score = float(random.uniform(0.3, 0.7) + 0.05 * generation)
        figures = {cost: int(10 ** random.uniform(3, 7)) for cost in costs}
        found.append(Candidate(index, (float(index), 0.25), score, {**figures, "loss": 1 - score}, 0.5, generation, 3))
    return found


def write_study(
    folder: Path, candidates: Sequence[Candidate], notes: dict[int, Any] | None = None, total: int = 0
) -> None:
    """A study of these candidates, as a search leaves it."""
    with Study(folder / STUDY_FILE, {"seed": 3}) as study:
        for number, candidate in enumerate(candidates):
            plan = PruningPlan({"a": tuple(range(1 + candidate.index % 16))}, {"a": 16})
            study.add(number, f"key {number}", candidate, plan)
        for generation, note in (notes or {}).items():
            study.note("generation", generation, note)
        if total:
            study.note("search", "total", total)


def finished_search(folder: Path, candidates: Sequence[Candidate], notes: dict[int, Any] | None = None, **figures: Any):
    """The folder of a search that ended."""
    write_study(folder, candidates, notes)
    (folder / "config.yml").write_text("model: {name: tiny}\nmethod: {name: some_search}\n", encoding="utf-8")
    write_search(folder, {"model": "tiny", **figures, "provenance": PROVENANCE})


def unfinished(folder: Path, *events: dict[str, Any]) -> None:
    """The folder of a run at work, as far as it has come before its search."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text("model: {name: tiny}\nmethod: {name: some_search}\nseed: 4\n", encoding="utf-8")
    start = {"time": 1000.0, "event": "start", "command": ["prunekit", "search", "x"], "config": {}}
    lines = [json.dumps(event) for event in (start, *events)]
    (folder / "log.jsonl").write_text("\n".join(lines) + '\n{"time": 1, "ev', encoding="utf-8")  # one half written


class Reader(html.parser.HTMLParser):
    """Collects tags and text, and where a page would fetch something from."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    @property
    def text(self) -> str:
        """All text of the page."""
        return " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [str(v) for k, v in attrs if k in ("src", "href", "srcset") and not str(v).startswith("#")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

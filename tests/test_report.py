"""The report: one file, whole, with every name escaped."""

from __future__ import annotations

import html.parser
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from _house import python

from prunekit.cli.report import write_report
from prunekit.cli.results import read_results, rows, write_results
from prunekit.core.errors import InputError

NASTY = '<script>alert("1")</script>$x$ & ü'


def results(**changes) -> dict:
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
        "provenance": {"command": NASTY, "date": "2020", "seconds": 3.0, "device": NASTY, "versions": {"a": NASTY}},
        **changes,
    }


def write(folder: Path, **changes) -> str:
    write_results(folder, results(**changes))
    (folder / "config.yml").write_text(f"model: '{NASTY}'\n", encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


class Reader(html.parser.HTMLParser):
    """Collects tags and text, and where a page would fetch something from."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [str(v) for k, v in attrs if k in ("src", "href") and not str(v).startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_needs_nothing_else_and_escapes_names(tmp_path: Path) -> None:
    page = write(tmp_path)
    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert reader.fetched == []
    assert reader.tags.count("svg") == 2
    text = " ".join(reader.text)
    assert NASTY in text
    assert "90.00%" in text and "88.50%" in text and "-1.50 points" in text
    assert "$title" not in page


def test_pictures_are_well_formed_and_name_every_group(tmp_path: Path) -> None:
    page = write(tmp_path)
    pictures = [part.partition("</svg>")[0] for part in page.split("<svg")[1:]]
    trees = [ElementTree.fromstring(f"<svg{picture}</svg>") for picture in pictures]
    words = {"".join(node.itertext()).strip() for node in trees[0].iter() if node.tag.endswith("text")}
    assert {NASTY, "b", "7 of 16", "8 of 8"} <= words


def test_a_report_written_twice_is_the_same(tmp_path: Path) -> None:
    assert write(tmp_path) == write(tmp_path)


def test_a_run_without_training_or_groups_has_a_report(tmp_path: Path) -> None:
    page = write(tmp_path, epochs=[], groups=[], failures={})
    assert "Nothing was trained in this run." in page
    assert "No group of this network can be cut." in page


def test_a_search_has_a_section(tmp_path: Path) -> None:
    side = {
        "points": 4, "kendall": 0.67, "kendall_interval": [-0.2, 1.0], "pearson": 0.9, "pearson_interval": [0.1, 0.99],
    }  # fmt: skip
    points = [{"index": 7, "score": 0.81, "unadapted": 0.11, "fine_tuned": 0.9}]
    search = {
        "index": 7, "score": 0.81, "ratio": 0.4987, "drawn": 4096, "evaluated": 2, "cost": 1.2,
        "evaluation_seconds": 3.0, "median_of_random": 0.6, "median_part": 0.1,
        "strategies": [
            {"index": 3, "score": 0.95, "ratio": 0.5, "part": 0.1}, {"index": 7, "score": 0.81, "ratio": 0.4987},
        ],
        "correlation": {"epochs": 1, "candidates": points, "adapted": side, "unadapted": {**side, "kendall": 0.12}},
    }  # fmt: skip
    reader = Reader()
    reader.feed(write(tmp_path, search=search))
    text = " ".join(reader.text)
    for part in ("81.00%", "0.4987", "by scores that cost 10.0% of a whole one", "0.67 [-0.20, 1.00]", "0.12 [-0.20"):
        assert part in text
    # a whole score stands before a larger one of fewer batches
    scores = text.partition("Scores of all strategies")[2]
    assert scores.index("0.810") < scores.index("0.950")
    assert reader.fetched == []
    assert "Search" not in write(tmp_path, search={"achieved": 0.5})


def test_rows_compare() -> None:
    table = {row.name: row for row in rows(results())}
    assert list(table) == ["accuracy", "parameters", "MACs", "latency", "file size"]
    assert table["parameters"].change == "× 0.500"
    assert (table["latency"].before, table["latency"].after) == ("20.00 ms", "10.00 ms")
    assert table["accuracy"].change == "-1.50 points"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "results.json"),
        ("{", "readable"),
        ("[]", "another file"),
        (json.dumps({"format": "prunekit.results", "version": 99}), "99"),
        (json.dumps({"format": "prunekit.results", "version": 1}), "changed"),
    ],
)
def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, content: str | None, part: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=part):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_results_survive_being_written(tmp_path: Path) -> None:
    write_results(tmp_path, results())
    assert {k: v for k, v in read_results(tmp_path).items() if k not in ("format", "version")} == results()


def test_a_missing_matplotlib_is_named_with_its_extra(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "report.html").unlink()
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
sys.meta_path.insert(0, Blocked())
from prunekit.cli.report import write_report
write_report(sys.argv[1])
"""
    done = python(code, tmp_path, str(tmp_path))
    assert "MissingDependencyError" in done.stderr
    assert "pip install prunekit[report]" in done.stderr
    assert not (tmp_path / "report.html").exists()

"""The report: one file, whole, with every name escaped; and the same as text."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from _house import python
from _reports import NASTY, PROVENANCE, Reader, evolution, finished_search, results, write, write_study
from typer.testing import CliRunner

from prunekit.cli.main import app
from prunekit.cli.report import collect, report_text, write_report
from prunekit.cli.report.page import page as html_page
from prunekit.cli.results import read_results, rows, write_results, write_training
from prunekit.core.candidates import Candidate
from prunekit.core.errors import ConfigError, InputError, PrunekitError, StudyError
from prunekit.core.study import STUDY_FILE, Study

# ---------------------------------------------------------------- the page of a run


def test_a_page_needs_nothing_else_and_escapes_names(tmp_path: Path) -> None:
    page = write(tmp_path)
    reader = Reader(page)
    assert reader.tags.count("script") == 1
    assert reader.fetched and all(place.startswith("data:") for place in reader.fetched)
    assert reader.tags.count("svg") == 2
    assert NASTY in reader.text
    assert "90.00%" in reader.text and "88.50%" in reader.text and "-1.50 points" in reader.text
    assert "$title" not in page and "url(" not in page.replace("url(#", "")
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_a_page_allows_its_own_script_alone(tmp_path: Path) -> None:
    page = write(tmp_path)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{allowed}';" in policy


def test_pictures_are_well_formed_and_name_every_group(tmp_path: Path) -> None:
    page = write(tmp_path)
    pictures = [part.partition("</svg>")[0] for part in page.split("<svg")[1:] if "role=" in part[:20]]
    trees = [ElementTree.fromstring(f"<svg{picture}</svg>") for picture in pictures]
    words = {"".join(node.itertext()).strip() for node in trees[0].iter() if node.tag.endswith("text")}
    assert {NASTY, "b", "7 of 16", "8 of 8"} <= words
    # no colour of its own: those of the page hold in light and dark
    assert [re.findall(r"[ \"]#[0-9a-f]{3,6}\b", picture) for picture in pictures] == [[], []]
    assert all("currentColor" in picture and "var(--after)" in picture for picture in pictures)


def test_a_report_written_twice_is_the_same(tmp_path: Path) -> None:
    assert write(tmp_path) == write(tmp_path)


def test_a_run_without_training_or_groups_has_a_report(tmp_path: Path) -> None:
    page = write(tmp_path, epochs=[], groups=[], failures={})
    assert "Nothing was trained in this run." in page
    assert "No group of this network can be cut." in page


def test_the_cost_table_has_what_was_measured(tmp_path: Path) -> None:
    more = {**results()["before"], "memory": 4000, "bandwidth": 9000, "p90": 0.03}
    write_results(tmp_path, results(before=more, after={**more, "memory": 1000}))
    names = [row.name for row in rows(results(before=more, after=more), every=True)]
    assert names[:6] == ["accuracy", "parameters", "MACs", "FLOPs", "activation memory", "bandwidth"]
    text = report_text(tmp_path, "md")
    assert "| activation memory | 4.0 kB | 1.0 kB | × 0.250 |" in text
    assert "bandwidth |" not in report_text_of_a_run_without(tmp_path / "old")


def report_text_of_a_run_without(folder: Path) -> str:
    folder.mkdir()
    write_results(folder, results())
    return report_text(folder, "md")


def test_layers_of_channel_pruning_are_told(tmp_path: Path) -> None:
    layers = [
        {"layer": "conv1", "asked": None, "inputs": None, "flops": [100, 50]},
        {"layer": "conv2", "asked": 0.5, "inputs": [16, 8], "flops": [1000, 250]},
    ]
    found = {"layers": layers, "asked": "0.5 of each conv's inputs asked for", "preserved": 0.2727}
    text = Reader(write(tmp_path, search=found)).text
    for part in ("conv2", "8 of 16", "1,000", "27.27% of the conv FLOPs are kept"):
        assert part in text


# ---------------------------------------------------------------- searches


def test_a_search_without_a_study_has_its_scores(tmp_path: Path) -> None:
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
    text = Reader(write(tmp_path, search=search)).text
    for part in ("81.00%", "0.4987", "4,096", "0.67 [-0.20, 1.00]", "0.12 [-0.20", "statistics as they were"):
        assert part in text
    # a whole score stands before a larger one of fewer batches
    scores = text.partition("Scores of all candidates")[2]
    assert scores.index("81.00%") < scores.index("95.00%")
    assert "Scores of all candidates" not in write(tmp_path, search={"achieved": 0.5})


def beaten(one: Candidate, other: Candidate, costs: list[str]) -> bool:
    """Whether ``other`` is at least as good in everything, and better in something."""
    mine = [-one.score, *(one.figures[c] for c in costs)]
    theirs = [-other.score, *(other.figures[c] for c in costs)]
    return theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))


def test_fronts_are_those_of_all_candidates_so_far(tmp_path: Path) -> None:
    candidates, costs = evolution(), ["macs", "params"]
    finished_search(
        tmp_path, candidates, {g: {"hypervolume": 0.1 * g} for g in range(5)}, objectives=["accuracy", *costs]
    )
    search = collect(tmp_path)["search"]
    assert search["costs"] == costs
    for line in search["generations"]:
        so_far = [c for c in candidates if c.generation <= line["generation"]]
        front = {c.index for c in so_far if not any(beaten(c, other, costs) for other in so_far)}
        assert set(line["front"]) == front and 1 < len(front) < len(so_far)
        assert line["hypervolume"] == pytest.approx(0.1 * line["generation"]) and line["candidates"] == 8
    assert search["front"] == search["generations"][-1]["front"]
    page = write_report(tmp_path).read_text()
    for part in (
        "front, generation 0",
        "front, generation 2",
        "front, generation 4",
        "MACs (",
        "parameters (",
        "hypervolume",
    ):
        assert part in page
    assert page.count("front, generation 2<") == 2  # a picture for each cost


def test_a_front_that_was_noted_is_taken(tmp_path: Path) -> None:
    finished_search(tmp_path, evolution(2), {1: {"front": [3, 9], "objectives": ["accuracy", "macs"]}})
    search = collect(tmp_path)["search"]
    assert search["front"] == [3, 9] and search["costs"] == ["macs"]


def test_a_search_of_one_objective_has_no_front(tmp_path: Path) -> None:
    finished_search(tmp_path, evolution(1, costs=()), index=3, score=0.5)
    data = collect(tmp_path)
    assert data["search"]["costs"] == data["search"]["front"] == []
    page = write_report(tmp_path).read_text()
    assert "Pareto" not in page and "best so far" in page
    # widths of what the search took, as its plan has them
    assert data["widths"] == [{"name": "a", "before": 16, "after": 4}] and data["taken"] == 3


def test_trained_candidates_are_correlated(tmp_path: Path) -> None:
    candidates = evolution(2)
    front = [
        {"index": k, "score": c.score, "test_accuracy": c.score / 2, "trained_accuracy": 0.1}
        for k, c in enumerate(candidates[:6])
    ]
    finished_search(tmp_path, candidates, front=front, objectives=["accuracy", "macs"])
    data = collect(tmp_path)
    found = data["search"]["correlation"]
    assert [pair["trained"] for pair in found["pairs"]] == [c.score / 2 for c in candidates[:6]]
    assert found["coefficients"]["score"]["kendall"] == pytest.approx(1)
    assert found["coefficients"]["score"]["pearson"] == pytest.approx(1)
    text = html_page(data)
    assert "τ = 1.00, r = 1.00" in text and "score of the search" in text


def test_a_training_for_a_search_has_a_report(tmp_path: Path) -> None:
    write_training(tmp_path, {"model": "tiny", "hidden": 32, "history": [], "provenance": PROVENANCE})
    (tmp_path / "config.yml").write_text("method: {name: some_search}\n")
    data = collect(tmp_path)
    assert data["kind"] == "training" and data["summary"] == {"hidden": 32} and data["search"] is None
    assert "tiny: training (some_search)" in write_report(tmp_path).read_text()


def test_a_long_search_shows_its_best(tmp_path: Path) -> None:
    candidates = [Candidate(k, (k,), (k * 7919 % 521) / 521, {"ratio": 0.5}, 0.1) for k in range(520)]
    finished_search(tmp_path, candidates)
    page = write_report(tmp_path).read_text()
    assert "The best 500 of 520 scores" in page
    table = page.partition("Scores of all candidates")[2].partition("</table>")[0]
    shown = [float(value) for value in re.findall(r'data-value="([^"]+)">[\d.]+%<', table)]
    assert shown == sorted((c.score for c in candidates), reverse=True)[:500]
    assert len(page) < 1_500_000


# ---------------------------------------------------------------- as text


def test_csv_has_every_candidate_as_it_was(tmp_path: Path) -> None:
    candidates = evolution(2)
    finished_search(tmp_path, candidates)
    text = report_text(tmp_path, "csv")
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(int(n["index"]), float(n["score"]), int(n["macs"]), int(n["generation"])) for n in lines] == [
        (c.index, c.score, c.figures["macs"], c.generation) for c in candidates
    ]
    assert [tuple(map(float, line["vector"].split())) for line in lines] == [c.vector for c in candidates]
    assert text.count("\r\n") == text.count("\n") == len(candidates) + 1
    assert {line["front"] for line in lines} == {"0", "1"}


def test_csv_of_a_run_has_its_widths(tmp_path: Path) -> None:
    write_results(tmp_path, results())
    assert (
        report_text(tmp_path, "csv")
        == f'name,before,after\r\n"{NASTY.replace(chr(34), chr(34) * 2)}",16,7\r\nb,8,8\r\n'
    )


def test_json_has_everything_under_stable_keys(tmp_path: Path) -> None:
    keys = {
        "format", "version", "kind", "folder", "model", "data", "method", "progress", "before", "after", "widths",
        "latency", "stages", "epochs", "files", "failures", "reload", "layers", "summary", "taken", "search",
        "provenance", "config",
    }  # fmt: skip
    run, search = tmp_path / "run", tmp_path / "search"
    run.mkdir()
    search.mkdir()
    write_results(run, results(before={**results()["before"], "loss": float("nan")}))
    finished_search(search, evolution(2))
    one, two = (json.loads(report_text(folder, "json"), parse_constant=pytest.fail) for folder in (run, search))
    assert set(one) == set(two) == keys
    assert (one["format"], one["version"], one["kind"], two["kind"]) == ("prunekit.report", 1, "run", "search")
    assert one["before"]["loss"] is None and one["before"]["macs"] == 5000
    assert len(two["search"]["candidates"]) == 16
    assert set(two["search"]) == {"candidates", "best", "costs", "generations", "front", "correlation"}


def test_markdown_keeps_its_tables(tmp_path: Path) -> None:
    write_results(tmp_path, results(model="a|b\nc", groups=[]))
    lines = report_text(tmp_path, "md").splitlines()
    assert lines[0].startswith("# a\\|b c on ")
    for table in "\n".join(lines).split("\n\n"):
        bars = {line.replace("\\|", "").count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(bars) <= 1
    assert "| accuracy | 90.00% | 88.50% | -1.50 points |" in lines


def test_the_command_prints_or_writes_a_format(tmp_path: Path) -> None:
    finished_search(tmp_path, evolution(2))

    def call(*options: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["report", str(tmp_path), *map(str, options)])
        assert done.exit_code == code, done.output
        return done.output

    for name in ("md", "csv", "json"):
        assert call("--format", name) == report_text(tmp_path, name).replace("\r\n", "\n")
        target = tmp_path / "out" / f"report.{name}"
        assert call("--format", name, "--output", target).split() == [str(target)]
        assert target.read_bytes().decode() == report_text(tmp_path, name)
    assert call().split() == [str(tmp_path / "report.html")]
    assert call("--output", tmp_path / "page.html").split() == [str(tmp_path / "page.html")]
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "report.html").read_bytes()
    assert "format must be a known one, got 'jsn'; did you mean 'json'?" in call("--format", "jsn", code=2)


def test_rows_compare() -> None:
    table = {row.name: row for row in rows(results())}
    assert list(table) == ["accuracy", "parameters", "MACs", "latency", "file size"]
    assert table["parameters"].change == "× 0.500"
    assert (table["latency"].before, table["latency"].after) == ("20.00 ms", "10.00 ms")
    assert table["accuracy"].change == "-1.50 points"


# ---------------------------------------------------------------- what is no report


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "results.json"),
        ("{", "readable"),
        ("[]", "another file"),
        (json.dumps({"format": "prunekit.results", "version": 99}), "99"),
        (json.dumps({"format": "prunekit.results", "version": 1}), "changed"),
        (json.dumps({"format": "prunekit.results", "version": 1, **results(groups=[{"name": "a"}])}), "'before'"),
        (json.dumps({"format": "prunekit.results", "version": 1, **results(latency=3)}), "changed"),
    ],
)
def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, content: str | None, part: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=part):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(InputError, match="which is none; check its name"):
        write_report(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="format must be a known one"):
        report_text(tmp_path, "pdf")


def damage(study: Path, how: str) -> None:
    """Make something else of a study."""
    import sqlite3

    if how == "cut off":
        study.write_bytes(study.read_bytes()[:5000])
    elif how == "foreign":
        study.write_bytes(b"no database at all, but long enough to look at " * 200)
    elif how in ("other notes", "a note that names nobody"):
        with Study(study) as writer:
            writer.note("generation", *(("two", 3) if how == "other notes" else (1, {"front": [999]})))
    else:
        with sqlite3.connect(study) as connection:
            connection.execute({
                "another version": "PRAGMA user_version = 99",
                "no figures": "UPDATE candidates SET metrics = '[' WHERE number = 1",
            }[how])  # fmt: skip
        connection.close()


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("cut off", "damaged or foreign"), ("foreign", "damaged or foreign"), ("another version", "got 99"),
        ("other notes", "notes on a generation"), ("a note that names nobody", "999"), ("no figures", "was changed"),
    ],
)  # fmt: skip
def test_a_damaged_study_is_one_clear_error(how: str, part: str, tmp_path: Path) -> None:
    finished_search(tmp_path, evolution(3))
    damage(tmp_path / STUDY_FILE, how)
    with pytest.raises(PrunekitError, match=part) as caught:
        write_report(tmp_path)
    assert isinstance(caught.value, (StudyError, InputError))
    assert not (tmp_path / "report.html").exists()


def test_reading_leaves_nothing_beside_a_study(tmp_path: Path) -> None:
    finished_search(tmp_path, evolution(2))
    before = {path.name for path in tmp_path.iterdir()}
    report_text(tmp_path, "json")
    assert {path.name for path in tmp_path.iterdir()} == before == {"config.yml", "search.json", STUDY_FILE}


def test_results_survive_being_written(tmp_path: Path) -> None:
    write_results(tmp_path, results())
    assert {k: v for k, v in read_results(tmp_path).items() if k not in ("format", "version")} == results()


def test_a_missing_matplotlib_is_named_with_its_extra(tmp_path: Path) -> None:
    write_study(tmp_path, evolution(2))
    write_results(tmp_path, results())
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
sys.meta_path.insert(0, Blocked())
from prunekit.cli.report import report_text, write_report
print(len(report_text(sys.argv[1], "csv").splitlines()))
write_report(sys.argv[1])
"""
    done = python(code, tmp_path, str(tmp_path))
    assert done.stdout.split() == ["17"]
    assert "MissingDependencyError" in done.stderr
    assert "pip install 'prunekit[report]'" in done.stderr
    assert not (tmp_path / "report.html").exists()

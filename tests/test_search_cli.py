"""The commands around a search: search, select, finetune, the inference report; and a search that is stopped."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunekit.cli.evaluate import _short
from prunekit.cli.main import app
from prunekit.core.store import read_plan
from prunekit.core.strategies import read_strategies

BACKENDS = [
    "torch",
    pytest.param("mindspore", marks=pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")),
]
SMALL = [
    "data={name: digits, limit: 96, batch_size: 32}",
    "training={epochs: 1, lr: 0.1}",
    "finetune={epochs: 1, lr: 0.05}",
    "recalibrate=2",
    "latency={batch: 2, runs: 2, warmup: 0}",
    "export.formats=[]",
    "method={name: eagle_eye, candidates: 5, bn_batches: 2, correlation: 4, correlation_epochs: 0.4}",
]
FILE = Path("search_results") / "pruning_strategies.txt"


def call(*arguments: object, code: int = 0) -> str:
    """Run a command in this process; its output and errors together."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def flat(text: str) -> str:
    return " ".join(text.split())


def options(*extra: str) -> list[str]:
    return [part for change in [*SMALL, *extra] for part in ("--set", change)]


@pytest.fixture(scope="module", params=BACKENDS)
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search."""
    os.environ["PRUNEKIT_CACHE"] = str(tmp_path_factory.getbasetemp() / "prunekit-cache")
    out = tmp_path_factory.mktemp("searches") / "found"
    said = call("search", "eagle_eye_resnet20", "--backend", request.param, "--out", out, *options())
    assert f"search: {out}" in said and "strategy index:4, score:" in said
    return out


def test_a_search_leaves_its_base_its_strategies_and_its_figures(searched: Path) -> None:
    assert {p.name for p in searched.iterdir()} == {
        "config.yml", "original", "search_results", "search.json", "study.db", "log.jsonl",
    }  # fmt: skip
    found = json.loads((searched / "search.json").read_text())
    strategies = read_strategies(searched / FILE)
    assert found["score"] == max(s.score for s in strategies) and len(strategies) == 5
    assert len(found["correlation"]["candidates"]) == 4
    events = [json.loads(line)["event"] for line in (searched / "log.jsonl").read_text().splitlines()]
    assert events.count("candidate") == 5 and events[-1] == "done"


def test_select_lists_strategies_best_first(searched: Path) -> None:
    head, *lines = call("select", searched).splitlines()
    assert head == "########## pruning_strategies.txt ##########"
    ranked = sorted(read_strategies(searched / FILE), key=lambda s: (-s.score, s.index))
    assert lines == [f"strategy index:{s.index}, score:{s.score:.3f}" for s in ranked]
    assert call("select", searched / FILE, "--top", 2).splitlines() == [head, *lines[:2]]
    assert "--top must be at least 1, got 0" in flat(call("select", searched, "--top", 0, code=2))
    assert "readable text file" in flat(call("select", searched / "none", code=2))


def test_a_search_alone_has_a_report(searched: Path) -> None:
    call("report", searched)
    page = (searched / "report.html").read_text()
    (searched / "report.html").unlink()
    assert "Correlation" in page and "Kendall" in page and "Scores of all candidates" in page
    text = (searched / "search.json").read_text()
    changed = text.replace('"provenance"', '"province"')
    try:
        for wrong, part in (("{}", "must hold prunekit"), (changed, "search.json must hold")):
            (searched / "search.json").write_text(wrong)
            assert part in flat(call("report", searched, code=2))
    finally:
        (searched / "search.json").write_text(text)


@pytest.mark.parametrize(
    "searched", ["torch", pytest.param("mindspore", marks=[*BACKENDS[1].marks, pytest.mark.slow])], indirect=True
)
def test_a_fine_tuned_strategy_is_a_run_like_any_other(searched: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    arguments = ("--lr", 0.02, "--weight-decay", 0.001, "--epoch", 0.5, "--out", out)
    call("finetune", searched, "--strategy-id", 3, *arguments)
    strategy = read_strategies(searched / FILE)[3]
    results = json.loads((out / "results.json").read_text())
    assert results["after"]["macs"] / results["before"]["macs"] == pytest.approx(strategy.figures["ratio"], abs=1e-3)
    assert results["reload"]["same"] is True
    assert [stage["stage"] for stage in results["stages"]] == ["original", "cut", "recalibrated", "fine-tuned"]
    assert results["method"]["strategy"] == list(strategy.vector)
    plan = read_plan(out)
    rates = dict(zip(plan.sizes, strategy.vector, strict=True))
    assert {n: len(k) for n, k in plan.kept.items()} == {n: s - int(rates[n] * s) for n, s in plan.sizes.items()}
    assert (out / "original" / "weights.safetensors").read_bytes() == (
        searched / "original" / "weights.safetensors"
    ).read_bytes()

    shown = call("evaluate", out).splitlines()
    report = shown[shown.index("######### Report #########") :]
    assert report[1:3] == ["Model:resnet20", f"Checkpoint:{out / 'weights.safetensors'}"]
    assert report[3].startswith("FLOPs of Original Model:") and ";Params of Original Model:" in report[3]
    assert report[4].startswith("FLOPs of Pruned   Model:") and ";Params of Pruned   Model:" in report[4]
    assert report[3].split(":")[1].split(";")[0] == _short(results["before"]["macs"], 3)
    assert report[4].split(":")[1].split(";")[0] == _short(results["after"]["macs"], 3)
    assert report[5] == f"Top-1 Acc of Pruned Model on digits:{results['reload']['top1']:.5f}"
    assert report[6] == "##########################"
    assert f"{results['reload']['right']:,} of" in report[7]
    assert json.loads(call("evaluate", out, "--json"))["answers"] == results["reload"]["answers"]
    assert "add --overwrite" in flat(call("finetune", searched, "--strategy-id", 3, "--out", out, code=2))


def test_strategies_of_another_file_or_none_are_told(searched: Path, tmp_path: Path) -> None:
    assert "must be one of the search, got 9" in flat(call("finetune", searched, "--strategy-id", 9, code=2))
    short = tmp_path / "short.txt"
    short.write_text("[0.1, 0.2]\n")
    arguments = ("--strategy-id", 0, "--search-result", short, "--out", tmp_path / "out")
    assert "entries for this model, got 2" in flat(call("finetune", searched, *arguments, code=2))
    assert "must be above 0" in flat(call("finetune", searched, "--strategy-id", 1, "--lr", 0, code=2))
    assert "readable config.yml" in flat(call("finetune", tmp_path, "--strategy-id", 1, code=2))
    assert not (tmp_path / "out").exists()


def test_the_inference_report_writes_figures_as_published() -> None:
    assert (_short(4_089_184_256, 3), _short(25_502_912, 2)) == ("4.089G", "25.50M")
    assert (_short(8_523_968, 3), _short(270_610, 2), _short(12, 3)) == ("8.524M", "270.61K", "12")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_reports_its_search(backend: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("run", "eagle_eye_resnet20", "--backend", backend, "--out", out, *options())
    results = json.loads((out / "results.json").read_text())
    page = (out / "report.html").read_text()
    assert results["search"]["index"] in range(5)
    for part in ("<h2>Search history", "Kendall", "Pearson", "Scores of all candidates", "statistics as they were"):
        assert part in page
    assert f"{results['search']['score']:.2%}" in page
    assert "http" not in page.replace("http://www.w3.org", "").partition("<h2>Search history")[2].partition("<h2>")[0]
    assert call("select", out).count("strategy index:") == 5


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("method={name: eagle_eye, min_rate: 0.7}", "min_rate must be below max_rate"),
        ("method={name: eagle_eye, flops_target: 0.01}", "raise max_rate"),
        ("method={name: eagle_eye, bn_batches: 50}", "bn_batches=50 batches, got"),
        ("method={name: prune, macs: 0.5}", "such as eagle_eye, got 'prune'"),
    ],
)
def test_a_search_that_cannot_be_made_leaves_nothing(change: str, part: str, tmp_path: Path) -> None:
    said = flat(call("search", "eagle_eye_resnet20", "--out", tmp_path / "out", *options(change), code=2))
    assert part in said
    assert list(tmp_path.iterdir()) == []

"""The stored results of the benchmarks: the pages are what is written from them, and a run replaces its own part."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from _house import ROOT

FAKES = {
    "analysis": 'print("1.5 ×"); open(sys.argv[-1], "w").write(\'{"ratio": 1.23456789}\')',
    "search": 'print("began"); sys.exit("no luck")',
    "gpu": 'print("no CUDA device: the GPU benchmarks are skipped")',
}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The runner's module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("results")


@pytest.fixture
def store(results: Any, tmp_path: Path) -> Any:
    """A store in a folder with scripts that do nothing much."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in results.BENCHMARKS:
        text = FAKES.get(name, "")
        (folder / f"{name}.py").write_text(f'"""What {name} is.\n\nMore.\n"""\nimport sys\n{text}\n', encoding="utf-8")
    (tmp_path / "README.md").write_text("# A\n\n<!-- results -->\nold\n<!-- /results -->\n\nend\n", encoding="utf-8")
    return results.Store(tmp_path)


# ---------------------------------------------------------------- what is committed


def test_pages_are_what_is_written_from_the_results(results: Any) -> None:
    for path, text in results.Store().pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run `python benchmarks/results.py --only-write`: {path.name}"


def test_the_readme_has_a_place_for_figures(results: Any) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- results -->") == text.count("<!-- /results -->") == 1


def test_every_section_is_of_a_script_that_is_there(results: Any) -> None:
    for name, section in results.Store().read().items():
        for record in (section, section.get("failed", {})):
            if "command" in record:
                program, script, *_ = shlex.split(record["command"])
                assert program == "python" and script == f"benchmarks/{name}.py" and (ROOT / script).is_file()
        assert "failed" in section or {"machine", "versions", "date", "output", "figures"} <= set(section)


def test_every_benchmark_has_a_script_that_writes_its_figures(results: Any) -> None:
    for name in results.BENCHMARKS:
        assert '"--json"' in (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8"), name


# ---------------------------------------------------------------- a run


def test_a_run_replaces_its_own_part(results: Any, store: Any, capfd: pytest.CaptureFixture[str]) -> None:
    store.put("search", {"command": "python benchmarks/search.py", "failed": failure()})
    assert results.main(["analysis"], store) == 0
    found = store.read()
    assert list(found) == ["analysis", "search"]
    assert found["analysis"]["figures"] == {"ratio": 1.23457} and found["analysis"]["output"] == "1.5 ×"
    assert found["analysis"]["command"] == "python benchmarks/analysis.py"
    assert found["analysis"]["machine"]["cores"] >= 1 and "python" in found["analysis"]["versions"]
    page = (store.root / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert "## analysis\n\nWhat analysis is.\n" in page and "1.5 ×" in page
    assert "1.5 ×" in capfd.readouterr().out


def test_a_failure_is_told_and_keeps_the_former_result(results: Any, store: Any) -> None:
    former = {
        **section({"searches": {"EagleEye": {"overhead_ms": 1.0}}, "processes": {"ratio": 1.5}}),
        "output": "former",
    }
    store.put("search", former)
    assert results.main(["search", "analysis"], store) == 1
    found = store.read()
    assert found["search"]["output"] == "former" and found["search"]["failed"]["lines"] == ["no luck"]
    assert found["analysis"]["output"] == "1.5 ×", "the rest are run"
    page = (store.root / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert "**The last run failed**" in page and "no luck" in page


def test_what_has_no_device_leaves_everything_as_it_is(
    results: Any, store: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    store.put("gpu", {**section({"gpu": "a card"}), "output": "former"})
    before = store.file.read_bytes()
    assert results.main(["gpu"], store) == 0
    assert store.file.read_bytes() == before
    assert "no CUDA device: the GPU benchmarks are skipped" in capfd.readouterr().out


def test_parts_are_chosen_by_name_and_by_group(results: Any, store: Any) -> None:
    assert results.chosen([]) == list(results.BENCHMARKS)
    assert results.chosen(["search", "analysis"]) == ["analysis", "search"]
    assert set(results.chosen(["performance", "gpu"])) == {*results.GROUPS["performance"], "gpu"}
    for wrong in (["nothing"], ["performance", "--", "--rounds", "1"]):
        with pytest.raises(SystemExit):
            results.main(wrong, store)


def test_results_of_another_machine_are_taken_over(results: Any, store: Any, tmp_path: Path) -> None:
    store.put("analysis", {**section({}), "output": "mine"})
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"gpu": {**section({"gpu": "a card"}), "output": "theirs"}}), encoding="utf-8")
    assert results.main(["--take", str(other)], store) == 0
    assert [found["output"] for found in store.read().values()] == ["mine", "theirs"]


def test_folders_of_the_machine_are_not_stored(results: Any) -> None:
    assert results.portable(f"{ROOT}/benchmarks/a.py: \x1b[31mno\x1b[0m", ROOT) == "benchmarks/a.py: no"


# ---------------------------------------------------------------- the README's figures


def test_the_readme_quotes_what_is_there_by_machine(results: Any, store: Any) -> None:
    figures = {
        "evaluation": {"ratio": 1.0649},
        "search": {"searches": {"EagleEye": {"overhead_ms": 0.81}}, "processes": {"ratio": 1.913}},
        "accuracy": {
            "original": {"data": "digits"},
            "50% of the MACs": {"EagleEye": [{"fine-tuned": 0.9}]},
            "25% of the MACs": {"random channels": [{"fine-tuned": 0.5}, {"fine-tuned": 0.7}]},
        },
        "zoo": {
            "all": {
                "networks": 3, "ours, cut and exact": 3, "theirs, exact": 1, "theirs, run but not comparable": 1,
                "cut by both": 0, "median ratio ours / theirs": None,
            }
        },
        "gpu": {"gpu": "a card", "latency": [{"network": "resnet50", "format": "fp16, channels_last",
                                              "ratio aligned": 0.5, "ratio unaligned": 0.7}]},
    }  # fmt: skip
    for name, found in figures.items():
        store.put(name, {**section(found), "output": ""})
    text = (store.root / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# A\n\n<!-- results -->\nOn a processor, 2 cores:\n\n- Of 3 classifiers")
    assert text.endswith("<!-- /results -->\n\nend\n") and "old" not in text
    for said in ("1.06 ×", "0.81 ms with EagleEye", "1.91 ×", "digits at 25% of the MACs", "random channels 60.0"):
        assert said in text
    assert "On a card, a processor, 2 cores:\n\n- Half of the MACs" in text and "× 0.50 (× 0.70 without" in text
    assert not re.search(r"nan|None", text)


def section(figures: dict[str, Any]) -> dict[str, Any]:
    """A stored section."""
    card = {"gpu": figures["gpu"]} if "gpu" in figures else {}
    return {
        "command": "python benchmarks/x.py", "date": "2026-01-01", "commit": None, "seconds": 100.0,
        "machine": {"processor": "a processor", "cores": 2, **card}, "versions": {"python": "3.11"},
        "figures": figures, "output": "",
    }  # fmt: skip


def failure() -> dict[str, Any]:
    """What is stored of a failed run."""
    return {"command": "python benchmarks/search.py", "date": "2026-01-01", "status": 1, "lines": ["no"]}

"""Files that name other places, and names that would steer whoever looks at them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _hostile import GOOD, NASTY, edit, refused, save_pruned
from _reports import finished_search, results, write
from _uni import Toy, settings_for
from typer.testing import CliRunner

from prunekit.backend_torch.uni_pruner import UniPruner
from prunekit.cli._folders import work_folder
from prunekit.cli.config import load_config
from prunekit.cli.main import _show_results, app
from prunekit.cli.report import report_text, write_report
from prunekit.core._terminal import shown
from prunekit.core.candidates import Candidate
from prunekit.core.errors import CheckpointError, ConfigError, InputError, OutputError
from prunekit.core.store import PLAN_FILE, WEIGHTS_FILE, read_store


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A pruned network on disk."""
    return save_pruned(tmp_path / "saved")


# ---------------------------------------------------------------- where files lead


def test_the_weights_of_a_plan_are_its_neighbours(saved: Path, tmp_path: Path) -> None:
    entry = json.loads((saved / PLAN_FILE).read_text())["weights"]
    for file in ("/etc/passwd", "../../etc/passwd", "..", "", "\0", None, 3):
        edit(saved, weights={**entry, "file": file})
        state, _ = read_store(saved)  # the name is not followed
        assert state
    (saved / WEIGHTS_FILE).unlink()
    (saved / WEIGHTS_FILE).symlink_to("/dev/zero")
    refused(lambda: read_store(saved), CheckpointError)
    edit(saved, weights={**entry, "bytes": 0})
    assert "no ordinary file" in refused(lambda: read_store(saved), CheckpointError)


@pytest.mark.parametrize("weights", [None, [], {}, {"bytes": "x"}, {"bytes": 10**18}, {"sha256": None}])
def test_entries_of_weights_that_are_none(saved: Path, weights: Any) -> None:
    edit(saved, weights=weights)
    refused(lambda: read_store(saved))


@pytest.mark.parametrize(
    "change",
    [
        {"output_file": "/tmp/x"}, {"output_file": "../x"}, {"output_file": "a/../../x"}, {"output_file": "config.yml"},
        {"output_file": "C:\\x"}, {"output_file": "..\\x"}, {"output_file": ""}, {"output_file": "a\0b"},
    ],
)  # fmt: skip
def test_files_of_a_search_stay_in_its_folder(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "c.yml"
    path.write_text(GOOD.replace("{name: none}", json.dumps({"name": "eagle_eye", **change})))
    assert "output_file" in refused(lambda: load_config(path), ConfigError)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/x", "..\\x", "a\0b", "../x"])
def test_names_of_experiments_and_tags_are_names(tmp_path: Path, name: str) -> None:
    assert "exp_name" in refused(lambda: UniPruner({**settings_for(tmp_path), "exp_name": name}), ConfigError)
    refused(lambda: UniPruner(settings_for(tmp_path)).convert(Toy(), {}, tag=name or "/"))
    assert [p.name for p in tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", [".lock", "log.jsonl", "study.db", "original", "search_results/a.txt"])
def test_links_in_the_folder_of_a_stopped_run_are_not_followed(tmp_path: Path, name: str) -> None:
    mine, partial = tmp_path / "mine", tmp_path / "out.partial"
    mine.mkdir()
    (mine / "file").write_text("precious")
    (partial / name).parent.mkdir(parents=True)
    (partial / name).symlink_to(mine if name == "original" else mine / "file")

    def go_on(**options: bool) -> None:
        with work_folder(tmp_path / "out", **options, worth=("original",)):
            pytest.fail("the folder was taken")

    for options in ({"resume": True}, {"overwrite": True}):
        assert "may hold no links" in refused(lambda options=options: go_on(**options), OutputError)
    assert (mine / "file").read_text() == "precious" and len(list(mine.iterdir())) == 1


def test_a_stopped_run_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    (tmp_path / "out.partial").symlink_to(tmp_path / "mine")

    def begin() -> None:
        with work_folder(tmp_path / "out", overwrite=True, worth=()):
            pytest.fail("the folder was taken")

    assert "may hold no links" in refused(begin, OutputError)
    assert (tmp_path / "mine" / "file").exists()


def test_a_report_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "mine").write_text("precious")
    (run / "report.html").symlink_to(tmp_path / "mine")
    write(run)
    assert (tmp_path / "mine").read_text() == "precious" and not (run / "report.html").is_symlink()


# ---------------------------------------------------------------- names that are shown


def test_names_in_a_report(tmp_path: Path) -> None:
    for name in (NASTY, "</title><script>x</script>", "]]>--><svg onload=x>", "\0\x1b[2J"):
        folder = tmp_path / str(abs(hash(name)))
        folder.mkdir()
        page = write(folder, model=name, groups=[{"name": name, "before": 4, "after": 2}], method={"name": name})
        assert page.count("<script") == 1 and "<svg onload" not in page
        for form in ("md", "csv", "json"):
            text = report_text(folder, form)
            assert text.encode(errors="backslashreplace")


def test_a_name_that_no_encoding_has(tmp_path: Path) -> None:
    groups = [{"name": "\ud800", "before": 4, "after": 2}]
    assert "must hold what prunekit wrote" in refused(lambda: write(tmp_path, groups=groups), InputError)


def test_names_in_the_report_of_a_search(tmp_path: Path) -> None:
    candidates = [Candidate(k, (0.5,), 0.1 * k, {NASTY: 3, "macs": 5}, 1.0, 0, 3) for k in range(5)]
    finished_search(tmp_path, candidates, best={"x": NASTY})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("<script") == 1


@pytest.mark.parametrize("name", [NASTY, "[/]", "[red]x", "\x1b]8;;http://x\x07", "\ud800", "\x9b2J"])
def test_names_on_a_terminal(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not set(shown(name)) & set("\x1b\x07\x9b\r\u202e\ud800")
    found = CliRunner().invoke(app, ["inspect", name])
    assert found.exit_code == 2
    capsys.readouterr()
    _show_results(results(model=name, failures={}), str(tmp_path))
    text = capsys.readouterr().out
    assert "".join(shown(name).split()) in "".join(text.split())
    for said in (found.output, text):
        assert not set(said) & set("\x1b\x07\x9b\r\u202e\ud800")

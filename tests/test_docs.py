"""The site: it builds without a warning, its Python compiles and runs, and it names only what there is."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from _house import ROOT
from pydantic_core import PydanticUndefined
from threadpoolctl import threadpool_limits

from prunekit.cli.config import load_config
from prunekit.cli.main import app
from prunekit.core import custom_ops
from prunekit.core._user_code import load_object

PAGES = sorted((ROOT / "docs").rglob("*.md"))
_FENCE = re.compile(
    r"(?P<mark><!-- run(?::(?P<needs>\w+))? -->\n+)?"
    r"^(?P<pad> *)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=pad)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Its page, in the folder of the documentation.
        line: Where it begins.
        language: What it is written in.
        text: The block.
        needs: The module that it needs where it is marked as runnable (``<!-- run -->`` or ``<!-- run:torch -->``
            before it), else None.
    """

    page: str
    line: int
    language: str
    text: str
    needs: str | None


def blocks(language: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in _FENCE.finditer(text):
            if found["language"] == language:
                pad = found["pad"]
                lines = [line.removeprefix(pad) for line in found["text"].splitlines()]
                yield Block(
                    page.relative_to(ROOT / "docs").as_posix(),
                    text[: found.start("text")].count("\n") + 1,
                    language,
                    "\n".join(lines) + "\n",
                    (found["needs"] or "torch") if found["mark"] else None,
                )


def _at(block: Block) -> str:
    return f"{block.page}:{block.line}"


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    index = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|<link[^>]*href)="https?://', index), "the site fetches something from elsewhere"


def test_pages_were_found() -> None:
    assert len(PAGES) > 20 and sum(block.needs is not None for block in blocks("python")) > 5


@pytest.mark.parametrize("block", list(blocks("python")), ids=_at)
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, _at(block))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Over images as small as those of the examples more threads only wait for each other."""
    torch = pytest.importorskip("torch")
    importlib.import_module("sklearn.linear_model")  # its libraries can be limited once they are loaded
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python") if block.needs}))
@pytest.mark.usefixtures("one_thread")
def test_marked_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marked blocks of a page are one program, in their order, each line where the page has it."""
    names: dict[str, Any] = {"__name__": "page"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(custom_ops, "_TAUGHT", dict(custom_ops._TAUGHT))
    for block in blocks("python"):
        if block.page == page and block.needs:
            pytest.importorskip(block.needs)
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, str(ROOT / "docs" / page), "exec"), names)


def commands() -> list[Any]:
    """Every ``prunekit …`` of a shell block, its lines joined and its comments gone."""
    found = []
    for block in blocks("bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "prunekit":
                found.append(pytest.param(words[1:], id=f"{_at(block)}-{' '.join(words[1:3])}"))
    return found


@pytest.mark.parametrize("words", commands())
def test_commands_are_known(words: list[str]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "get_command")
    name, *arguments = words
    command = group.get_command(click.Context(group), name)  # type: ignore[union-attr]
    assert command is not None, f"prunekit has no command {name}"
    given = command.make_context(name, arguments).params  # parses, and runs nothing
    source = str(given.get("config", ""))
    if source and ((ROOT / source).is_file() or "/" not in source and not source.endswith(".yml")):
        load_config(ROOT / source if (ROOT / source).is_file() else source, given.get("changes") or ())
    else:
        assert not source.startswith("configs/"), f"{source} is not there"


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if "\nmethod:" in "\n" + b.text], ids=_at)
def test_configurations_are_valid(block: Block, tmp_path: Path) -> None:
    """Blocks with a method are configurations; where they name no network they are shown without one."""
    text = block.text if re.search(r"^model:", block.text, re.MULTILINE) else "model: {name: resnet20}\n" + block.text
    (tmp_path / "config.yml").write_text(text, encoding="utf-8")
    load_config(tmp_path / "config.yml")


def tables() -> list[Any]:
    """Every table of keys, with what it must list: ``<!-- keys: module:class -->`` stands before it."""
    pattern = re.compile(r"<!-- keys: ([\w.:]+) -->\n\n((?:\|.*\n)+)")
    return [
        pytest.param(found[1], found[2], id=found[1].rpartition(":")[2])
        for page in PAGES
        for found in pattern.finditer(page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("source", "table"), tables())
def test_tables_of_keys_are_complete(source: str, table: str) -> None:
    kind = load_object(source, "a section")
    if dataclasses.is_dataclass(kind):
        known = {field.name: field.default for field in dataclasses.fields(kind)}
    else:
        known = {name: field.default for name, field in kind.model_fields.items()}
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.*) \|$", table, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(known)
    assert all(text for _, _, text in rows)
    for name, default, _ in rows:
        if default == "required":
            assert known[name] is PydanticUndefined
        elif default != "see below":
            given = json.loads(default)
            assert (tuple(given) if isinstance(known[name], tuple) else given) == known[name]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
def test_files_and_targets_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z]+)`", text)) | set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE))
    assert targets <= make_targets()
    files = set(re.findall(r"\b(?:configs|examples|benchmarks|core|cli)/[\w/]+\.(?:yml|py)\b", text))
    assert {name for name in files if not (ROOT / name).is_file()} == set()


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "pictures").glob("*.svg")), ids=lambda p: p.name)
def test_pictures_are_accessible(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    assert 'role="img"' in text and "<title" in text and "<desc" in text
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 8_000
    assert not re.search(r'(?:href|src|url)\s*[=(]\s*"?https?:', text)

"""Run benchmarks, keep what they find in results.json, and write RESULTS.md and the README's figures from it.

    python benchmarks/results.py                        # all
    python benchmarks/results.py performance            # a group: performance, quality or gpu
    python benchmarks/results.py analysis search        # by name
    python benchmarks/results.py zoo -- --rounds 1      # with options of its own
    python benchmarks/results.py --only-write           # the pages anew from results.json
    python benchmarks/results.py --take FILE            # take over what another machine's results.json has

Each runs in a process of its own, and its result is kept as soon as it is there: a run of a part replaces only that
part, and one that is stopped loses nothing. A benchmark that fails is said to have failed, the rest are run, and the
exit status is 1; without figures of its own it keeps its former result. One that has no device to run on says so and
leaves everything as it is.
"""

from __future__ import annotations

import argparse
import codecs
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from _machine import commit, environment, load, machine, portable, versions
from _page import page, readme

from prunekit.core._files import read_text, write_atomic

ROOT = Path(__file__).resolve().parents[1]
GROUPS: dict[str, dict[str, list[str]]] = {
    "performance": {"analysis": [], "zoo": ["--giants"], "uni_pruning": [], "evaluation": [], "search": []},
    "quality": {"accuracy": [], "eagle_eye": [], "prune_ea": [], "meta_pruning": []},
    "gpu": {"gpu": []},
}
"""Benchmarks by group: the name of the script, and the arguments that it is run with."""

BENCHMARKS = {name: arguments for group in GROUPS.values() for name, arguments in group.items()}
_TAIL = 15
_BUSY = 0.5

Section = dict[str, Any]


class Store:
    """The results, by name of the benchmark, and the pages that are written from them.

    Args:
        root: The repository.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.file = root / "benchmarks" / "results.json"

    def read(self) -> dict[str, Section]:
        """All sections, in the order of :data:`BENCHMARKS`."""
        found = json.loads(read_text(self.file)) if self.file.exists() else {}
        return {name: found[name] for name in (*BENCHMARKS, *found) if name in found}

    def put(self, name: str, section: Section) -> None:
        """Keep one section, and leave the others as they are."""
        write_atomic(self.file, json.dumps({**self.read(), name: section}, indent=1, ensure_ascii=False) + "\n")
        self.write()

    def pages(self) -> dict[Path, str]:
        """What the written files should hold."""
        sections = self.read()
        target = self.root / "README.md"
        return {
            self.root / "benchmarks" / "RESULTS.md": page(sections, self.root),
            target: readme(read_text(target), sections),
        }

    def write(self) -> None:
        """Write RESULTS.md, and the block of the README."""
        for path, text in self.pages().items():
            if not path.exists() or read_text(path) != text:
                write_atomic(path, text)


def run(name: str, arguments: Sequence[str], store: Store) -> bool:
    """Run one benchmark and keep its result; whether it did not fail."""
    words = [f"benchmarks/{name}.py", *arguments]
    section: Section = {"command": portable(shlex.join(["python", *words]), store.root), **_now(store.root)}
    print(f"\n== {section['command']}", flush=True)
    busy = section["machine"]["load"]
    if busy is not None and busy > _BUSY * section["machine"]["cores"]:
        print(f"the machine is busy (load {busy}): what is measured now will not hold", file=sys.stderr, flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        status, output, errors = _stream([sys.executable, *words, "--json", str(figures)], store.root)
        section["seconds"] = round(time.monotonic() - begin, 1)
        found = json.loads(read_text(figures)) if figures.exists() else None
    if status == 0 and found is None:  # it said why
        return True
    kept = store.read().get(name, {}) if found is None else finished(section, output, found, store.root)
    if status == 0:
        store.put(name, kept)
        return True
    tail = portable(errors.strip() or output.strip(), store.root).splitlines()[-_TAIL:]
    failed = {key: section[key] for key in ("command", "date", "commit")} | {"status": status, "lines": tail}
    store.put(name, {**kept, "failed": failed})
    print(f"{name} failed with exit status {status}", file=sys.stderr, flush=True)
    return False


def finished(section: Section, output: str, figures: Any, root: Path) -> Section:
    """A section with what was printed and measured."""
    if isinstance(figures, dict) and "gpu" in figures:
        section["machine"]["gpu"] = figures["gpu"]
    return {**section, "output": portable(output, root).strip("\n"), "figures": _rounded(figures)}


def _now(root: Path) -> Section:
    section: Section = {"date": datetime.date.today().isoformat(), "commit": commit(root)}
    section["machine"] = {**machine(), "load": load()}
    return section | {"versions": versions(), "environment": environment()}


def _stream(command: list[str], root: Path) -> tuple[int, str, str]:
    """Exit status and what was printed, to both streams, while it is shown."""
    own = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=root, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    taken: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}

    def pass_on(source: BinaryIO, target: Any, kept: bytearray) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while chunk := os.read(source.fileno(), 1 << 16):
            kept += chunk
            target.write(decoder.decode(chunk))
            target.flush()

    errors = threading.Thread(target=pass_on, args=(process.stderr, sys.stderr, taken["err"]), daemon=True)
    errors.start()
    try:
        pass_on(process.stdout, sys.stdout, taken["out"])  # type: ignore[arg-type]
        status = process.wait()
        errors.join(timeout=5)
    finally:
        process.kill()
        process.wait()
    return status, *(bytes(kept).decode(errors="replace") for kept in taken.values())  # type: ignore[return-value]


def _rounded(value: Any) -> Any:
    """Plain data with six digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def chosen(names: Sequence[str]) -> list[str]:
    """Names of benchmarks, in their order, for names of benchmarks and groups; all for none."""
    wanted = {one for name in names for one in GROUPS.get(name, {name: []})} if names else set(BENCHMARKS)
    return [name for name in BENCHMARKS if name in wanted]


def main(words: Sequence[str] | None = None, store: Store | None = None) -> int:
    """Do what the command line says; the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join([*GROUPS, *BENCHMARKS])}")
    parser.add_argument("--only-write", action="store_true", help="write the pages from results.json, run nothing")
    parser.add_argument("--take", type=Path, metavar="FILE", help="take over the sections of another results.json")
    # a run that was made by hand on this machine: what it printed, and its --json
    parser.add_argument("--finished", type=Path, nargs=2, metavar=("OUTPUT", "FIGURES"), help=argparse.SUPPRESS)
    asked, own = parser.parse_args(words[:cut]), words[cut + 1 :]
    store = store or Store()
    if unknown := [name for name in asked.names if name not in GROUPS and name not in BENCHMARKS]:
        parser.error(f"a benchmark must be one of {', '.join([*GROUPS, *BENCHMARKS])}, got {unknown[0]}")
    names = chosen(asked.names)
    if (cut < len(words) or asked.finished) and len(names) != 1:
        parser.error(f"options after -- are those of one benchmark, got {len(names)} of them")
    if asked.only_write or asked.take:
        for name, section in (json.loads(read_text(asked.take)) if asked.take else {}).items():
            store.put(name, section)
        store.write()
        return 0
    if asked.finished:
        output, figures = asked.finished
        day = datetime.date.fromtimestamp(figures.stat().st_mtime).isoformat()
        command = shlex.join(["python", f"benchmarks/{names[0]}.py", *own])
        # the load and the commit of then are not known
        section = {"command": command, **_now(store.root), "date": day, "commit": None, "machine": machine()}
        store.put(names[0], finished(section, read_text(output), json.loads(read_text(figures)), store.root))
        return 0
    done = {name: run(name, own if cut < len(words) else BENCHMARKS[name], store) for name in names}
    wrong = [name for name, good in done.items() if not good]
    print(f"\n{len(done) - len(wrong)} of {len(done)} benchmarks ran; failed: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

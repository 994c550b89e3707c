"""The law over public model zoos: `prunekit verify` for each network, a process each; writes docs/zoo.json and .md.

Run it with `make zoo`. Networks whose result is in the JSON file already are skipped; `--again` checks them anew.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _zoo_lists import LISTS, Check

_ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 900  # for building, three cuts and six passes in double precision
_EXACT = ("exact", "non-neutral exact")
_HEAD = """# Networks that prunekit cuts

Made by `make zoo` from what `prunekit verify NAME --json` prints, a process for each network, one thread. Norms are
randomised, 30% of every group is cut at random, and all outputs are compared with those of the masked network in
double precision; three cuts each (one for the giants). MindSpore's are compared in single precision, all three cuts
run op by op (PYNATIVE) and one of them compiled, too (GRAPH). {exact} of {networks} are cut and exact.

- **result**: *exact*, or *non-neutral exact* where a norm or softmax takes statistics over channels that were cut.
- **error**: the largest difference, relative to the largest output.
- **frozen**: the share of the parameters that no cut makes smaller; **cut**: the share that the cuts took.
- **seconds**: trace, groups and trial cuts; **GB**: peak memory of the whole check, three networks in double precision.
- **numbers in the code**: places in the network's own code that are right at full width only, and what was done:
  an *attribute* set, axes *tied*, an expression *rewritten* as an attribute, or channels *frozen*;
  `prunekit verify NAME` tells file and line.
"""
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2", "GLOG_v": "3"}


def run(check: Check) -> dict[str, Any]:
    """One network's row: what `prunekit verify --json` printed, and the seconds and bytes that it took."""
    command = [sys.executable, "-m", "prunekit.cli", "verify", check.model, "--json", *check.arguments()]
    row: dict[str, Any] = {"check": check.key, "library": check.library, "family": check.family}
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env=os.environ | _ENVIRONMENT, cwd=tempfile.gettempdir()
        )
        usage = _wait(process)
        out.seek(0)
        err.seek(0)
        text, errors = (_here(stream.read().decode(errors="replace")) for stream in (out, err))
    row |= {"wall_seconds": round(time.perf_counter() - begin, 1), "peak_bytes": usage.ru_maxrss * 1024}
    try:
        found = json.loads(text[text.index("{") :])
    except ValueError:
        why = f"no answer in {_SECONDS} s" if process.returncode == -9 else errors.strip()[-600:]
        # an error on purpose, before anything was looked at
        refused = process.returncode == 2 and "error: " in errors
        why = errors[errors.rindex("error: ") :].partition("\n")[0] if refused else why
        found = {"model": check.model, "status": "refused" if refused else "crashed", "message": why}
    return row | found


def _here(text: str) -> str:
    """Paths as they begin in any installation."""
    return text.replace(sysconfig.get_path("purelib") + os.sep, "").replace(str(_ROOT) + os.sep, "")


def _wait(process: subprocess.Popen[bytes]) -> resource.struct_rusage:
    end = time.monotonic() + _SECONDS
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > end:
            process.kill()
        time.sleep(0.05)


def main() -> None:
    """Check what is asked for, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], help=f"a library of {', '.join(LISTS)}, or part of a name"
    )
    parser.add_argument("--rows", type=Path, default=_ROOT / "docs" / "zoo.json")
    parser.add_argument("--again", action="store_true", help="also what the file has")
    parser.add_argument("--bad", action="store_true", help="also what the file has as failed or crashed")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    rows = {row["check"]: row for row in json.loads(asked.rows.read_text())} if asked.rows.exists() else {}
    checks = [
        c for name, make in LISTS.items() if not asked.only or name in asked.only or _partly(asked.only) for c in make()
    ]
    if asked.only:
        checks = [c for c in checks if c.library in asked.only or any(part in c.key for part in asked.only)]
    wanted = [c for c in checks if asked.again or c.key not in rows or (asked.bad and _bad(rows[c.key]))]
    with ThreadPoolExecutor(asked.workers) as pool:
        for row in pool.map(run, wanted):
            rows[row["check"]] = row
            print(_line(row), flush=True)
            _write(asked.rows, json.dumps(_ordered(rows.values()), indent=1))
    if rows:
        _write(asked.rows.with_suffix(".md"), page(_ordered(rows.values())))


def _ordered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["library"], row["family"], row["check"]))


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    parts = [_HEAD.format(networks=len(rows), exact=sum(row["status"] in _EXACT for row in rows))]
    for library in dict.fromkeys(row["library"] for row in rows):
        mine = [row for row in rows if row["library"] == library]
        good = sum(row["status"] in _EXACT for row in mine)
        families = len({row["family"] for row in mine})
        unable = sum(_runs_nowhere(row) for row in mine)
        left = f" MindSpore itself cannot build or run {unable} of the others." if unable else ""
        parts.append(f"## {library}\n\n{good} of {len(mine)} networks ({families} families) are cut and exact.{left}\n")
        parts.append("| network | result | error | groups | frozen | cut | seconds | GB | numbers in the code |")
        parts.append("|---|---|---:|---:|---:|---:|---:|---:|---|")
        parts += [_row(row) for row in mine]
        parts.append("")
        refused = [row for row in mine if row["status"] not in _EXACT]
        parts += [f"- {row['check']}: {row.get('message') or '; '.join(row.get('frozen', []))}" for row in refused]
        parts += [""] if refused else []
    return "\n".join(parts)


def _runs_nowhere(row: dict[str, Any]) -> bool:
    """Whether the network cannot be built or run at all, cut or not."""
    return any(words in row.get("message", "") for words in ("in PYNATIVE mode either", "can build with"))


def _row(row: dict[str, Any]) -> str:
    error = row.get("error")
    how = Counter(entry["how"] for entry in row.get("constants", ()))
    return (
        f"| {row['check'].partition(':')[2]} | {row['status']} | {'' if error is None else f'{error:.0e}'} "
        f"| {row.get('groups', 0)} | {row.get('frozen_share', 1):.0%} | {row.get('lost', 0):.0%} "
        f"| {row.get('analysis_seconds', 0):.1f} | {row['peak_bytes'] / 2**30:.1f} "
        f"| {', '.join(f'{n} {kind}' for kind, n in how.items())} |"
    )


def _partly(only: list[str]) -> bool:
    return any(part not in LISTS for part in only)


def _bad(row: dict[str, Any]) -> bool:
    return row["status"] in ("failed", "crashed")


def _line(row: dict[str, Any]) -> str:
    error = row.get("error")
    return (
        f"{row['check']:60s} {row['status']:18s} {'' if error is None else f'{error:.0e}':6s} "
        f"groups {row.get('groups', 0):4d} frozen {row.get('frozen_share', 1):4.0%} lost {row.get('lost', 0):4.0%} "
        f"{row.get('analysis_seconds', 0):6.1f} s {row['peak_bytes'] / 2**30:5.2f} GB {row.get('message', '')[:150]!r}"
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text + "\n")
    new.replace(path)


if __name__ == "__main__":
    main()

"""The main job: train, prune, cut, check, measure, and leave everything in one folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunekit.cli.base import Base, get_base
from prunekit.cli.config import RunConfig
from prunekit.cli.job import Job
from prunekit.cli.methods import Bench, Method, prepare_method
from prunekit.cli.report import require_matplotlib, write_report
from prunekit.cli.results import RESULTS_FILE, read_results, write_results
from prunekit.cli.work import Say, Work, at_work, find_done
from prunekit.core._files import write_atomic
from prunekit.core._timing import compare_latency
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.cost import Cost
from prunekit.core.errors import ExportError, MissingDependencyError
from prunekit.core.inspection import Inspection
from prunekit.core.logs import RunLog
from prunekit.core.plan import PruningPlan
from prunekit.core.store import WEIGHTS_FILE

__all__ = ["run"]


def run(
    config: RunConfig,
    *,
    overwrite: bool = False,
    resume: bool = False,
    command: Sequence[str] = (),
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Run a configuration; the output folder appears when all is done.

    Until then everything is in ``NAME.partial`` beside it. A run that was stopped or killed ends, once it is resumed,
    with what an uninterrupted one gives: its base network and the candidates that were scored are taken from there.

    Args:
        config: What to do.
        overwrite: Whether a finished run in the output folder, or what a stopped one left, may be replaced.
        resume: Whether to go on with a stopped run. Where there is none it begins; where it is done, that is all.
        command: Command line, for the record.
        say: Tells the user what happens.

    Returns:
        What ``results.json`` holds.

    Raises:
        PrunekitError: Something in the configuration, the data or the network does not work.
    """
    require_matplotlib()
    done = find_done(config, RESULTS_FILE, resume, say)
    if done is not None:
        return read_results(done)
    with at_work(config, RESULTS_FILE, overwrite=overwrite, resume=resume, command=command, say=say) as work:
        analysis, method = prepare_method(work.job, work.folder)
        work.headline(analysis)
        results = _results(work, analysis, method)
        results["provenance"] = {**work.provenance(), "device": results["latency"]["device"]}
        write_results(work.folder, results)
        write_report(work.folder)
    return results


def _results(work: Work, analysis: Analysis, method: Method) -> dict[str, Any]:
    job, folder, log, say = work.job, work.folder, work.log, work.say
    base = get_base(job, folder, log, say)
    write_atomic(folder / "inspection.json", json.dumps(Inspection.of(analysis, model=job.config.model.name).to_dict()))
    bench = Bench(job, log, say, base.model, [{"stage": "base", **line} for line in base.history])
    bench.test("original", base.model)
    small, plan = method(bench)
    job.backend.save(small, folder)
    files, failures = _export(job, small, folder, log, say)
    before, after, latency = _measure(job, analysis, base, small, folder, say)
    reload = _reload(job, small, folder, say)
    return {
        "model": job.config.model.name,
        "data": {"name": job.loaders.name or job.config.data.name, "test": reload["images"]},
        "method": {"name": job.config.method.name, **job.config.method.keys},
        "base": base.source,
        "before": before,
        "after": after,
        "latency": latency,
        "groups": _widths(analysis, plan),
        "search": bench.found,
        "stages": bench.stages,
        "epochs": bench.epochs,
        "files": _sizes(folder, files),
        "failures": failures,
        "reload": reload,
    }


def _export(job: Job, small: Any, folder: Path, log: RunLog, say: Say) -> tuple[dict[str, str], dict[str, str]]:
    """Export to every format; one that fails is reported and does not take the others with it."""
    formats = job.backend.export_formats()
    files: dict[str, str] = {}
    failures: dict[str, str] = {}
    for name in job.config.export.formats:
        try:
            path = job.backend.export(small, job.example(), folder / "model", name)
        except (ExportError, MissingDependencyError) as error:
            failures[name] = str(error)
            say(f"export to {name} failed: {error}")
        else:
            files[path.name] = formats[name].runtime
            say(f"exported {path.name}; {formats[name].runtime} gives the same outputs")
        log.write("export", format=name, error=failures.get(name))
    return files, failures


def _measure(
    job: Job, analysis: Analysis, base: Base, small: Any, folder: Path, say: Say
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Figures of the original and of the pruned network, each from a trace of its own."""
    example, settings = job.example(job.config.latency.batch), job.config.latency
    say(f"measuring the latency at batch {settings.batch}")
    traces = (analysis, analyse(job.backend, small, job.example(), probe=False))
    figures: list[dict[str, Any]] = []
    models = (base.model, small)
    times = compare_latency(job.backend, models, example, runs=settings.runs, warmup=settings.warmup)
    for model, time_, seen, home in zip(models, times, traces, (folder / "original", folder), strict=True):
        accuracy = job.backend.evaluate(model, job.loaders.test)
        costs = Cost(seen.coupling).full()
        size = (home / WEIGHTS_FILE).stat().st_size
        figures.append(
            {"top1": accuracy["top1"], "loss": accuracy["loss"], **costs, "latency": time_.median, "p90": time_.p90}
            | {"bytes": size}
        )
    conditions = {"device": time_.device, "shape": list(time_.shape), "runs": time_.runs}
    return figures[0], figures[1], conditions


def _reload(job: Job, small: Any, folder: Path, say: Say) -> dict[str, Any]:
    """Load the folder in a new process, and compare what both processes say of the test set."""
    from prunekit.cli.evaluate import judge

    mine = judge(job, small)
    done = subprocess.run(new_process("evaluate", str(folder), "--json"), capture_output=True, text=True, check=False)
    try:
        theirs = json.loads(done.stdout)
    except ValueError:
        theirs = {}
    same = done.returncode == 0 and theirs == mine
    result = {**mine, "same": same, "error": "" if theirs else done.stderr.strip()[-2000:]}
    if result["error"]:
        say(f"it could not be loaded again in a new process: {result['error']}")
    elif same:
        say(f"loaded again in a new process: {mine['right']:,} of {mine['images']:,} right, the same for every image")
    else:
        say(f"loaded again in a new process, the network does not give the same: {theirs}")
    return result


def new_process(*arguments: str) -> list[str]:
    """The command line of prunekit in a process that takes no modules of the working folder for installed ones."""
    start = "import sys; sys.path = [p for p in sys.path if p]; from prunekit.cli.main import main; main()"
    return [sys.executable, "-c", start, *arguments]


def _widths(analysis: Analysis, plan: PruningPlan) -> list[dict[str, Any]]:
    kept = plan.widths(analysis.coupling)
    return [
        {"name": group.name, "before": group.size, "after": int(width)}
        for group, width in zip(analysis.groups, kept, strict=True)
    ]


def _sizes(folder: Path, checked: dict[str, str]) -> list[dict[str, Any]]:
    names = [WEIGHTS_FILE, "plan.json", *checked, f"original/{WEIGHTS_FILE}"]
    own = {WEIGHTS_FILE: "a new process", "plan.json": "a new process"}
    return [
        {"path": name, "bytes": (folder / name).stat().st_size, "checked": {**own, **checked}.get(name, "")}
        for name in names
    ]

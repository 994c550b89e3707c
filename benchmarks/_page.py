"""RESULTS.md and the README's figures, as text made from nothing but the stored results."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["BEGIN", "END", "headlines", "page", "readme"]

BEGIN, END = "<!-- results -->", "<!-- /results -->"

_HEAD = """# Results of the benchmarks

Written by `make bench` from `benchmarks/results.json`, a section for each benchmark; not by hand. Ratios are to a rival
or a bound in the same run. What the columns mean is said at the beginning of each script.
"""

Section = Mapping[str, Any]


def page(sections: Mapping[str, Section], root: Path) -> str:
    """RESULTS.md.

    Args:
        sections: What results.json holds.
        root: The repository, where the scripts say what they measure.
    """
    parts = [_HEAD]
    parts += [_section(name, section, root) for name, section in sections.items()]
    return "\n".join(parts if sections else [*parts, "Nothing has been measured yet.\n"])


def _section(name: str, section: Section, root: Path) -> str:
    script = root / "benchmarks" / f"{name}.py"
    about = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    lines = [f"## {name}", "", about, ""]
    if "output" in section:
        lines += [*_circumstances(section), "", "```text", section["output"], "```", ""]
    if "failed" in section:
        failed = section["failed"]
        which = "The last run" if "output" in section else "The run"
        lines += [
            f"**{which} failed**, `{failed['command']}` on {failed['date']}{_at(failed)}, "
            f"with exit status {failed['status']}:",
            "",
            *("```text", *failed["lines"], "```", ""),
        ]
    return "\n".join(lines)


def _circumstances(section: Section) -> Iterator[str]:
    machine = section["machine"]
    took = f", {_duration(section['seconds'])}" if "seconds" in section else ""
    busy = f"; load {machine['load']:g} when it began" if machine.get("load") is not None else ""
    variables = "".join(f", {name}={value}" for name, value in section.get("environment", {}).items())
    yield f"- `{section['command']}`, {section['date']}{took}{_at(section)}"
    yield f"- {_machine(machine)}{busy}"
    yield "- " + ", ".join(f"{name} {number}" for name, number in section["versions"].items()) + variables


def _at(record: Section) -> str:
    return f", commit {record['commit']}" if record.get("commit") else ""


def _machine(machine: Mapping[str, Any]) -> str:
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    parts = [machine.get("gpu"), machine["processor"], cores]
    memory = f"{machine['memory_gib']} GiB" if "memory_gib" in machine else None
    return ", ".join(part for part in (*parts, memory) if part)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------- the README


def readme(text: str, sections: Mapping[str, Section]) -> str:
    """The README with its figures as they are now; without the two marks it stays as it is.

    Args:
        text: The README.
        sections: What results.json holds.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return text
    return f"{before}{BEGIN}\n{headlines(sections)}{END}{after}"


def headlines(sections: Mapping[str, Section]) -> str:
    """A line for each of the main figures that are there, by the machine that they were measured on."""
    found: dict[str, list[str]] = {}
    for name, lines in _HEADLINES.items():
        section = sections.get(name, {})
        if "figures" in section:
            found.setdefault(_machine(section["machine"]), []).extend(lines(section["figures"]))
    blocks = [f"On {where}:\n\n" + "".join(f"- {line}\n" for line in lines) for where, lines in found.items() if lines]
    return "\n".join(blocks) if blocks else "Nothing has been measured yet: `make bench`.\n"


def _zoo(figures: Any) -> Iterator[str]:
    found = figures["all"]
    unsure = found["theirs, run but not comparable"]
    yield (
        f"Of {found['networks']} classifiers of torchvision, {found['ours, cut and exact']} are cut and exact; "
        f"by Torch-Pruning {found['theirs, exact']}"
        + (f", and {unsure} run and cannot be compared." if unsure else ".")
    )
    if found["median ratio ours / theirs"] is not None:
        yield (
            f"Analysis and cut take {found['median ratio ours / theirs']:.2f} of Torch-Pruning's time: "
            f"the median over the {found['cut by both']} that both cut."
        )


def _evaluation(figures: Any) -> Iterator[str]:
    yield f"Evaluating a candidate takes {figures['ratio']:.2f} × the forward passes in it."


def _search(figures: Any) -> Iterator[str]:
    costs = [f"{found['overhead_ms']:.2g} ms with {name}" for name, found in figures["searches"].items()]
    yield f"Besides its evaluation a candidate costs {_listed(costs)}."
    yield f"Two processes evaluate {figures['processes']['ratio']:.2f} × as many candidates an hour as one."


def _accuracy(figures: Any) -> Iterator[str]:
    """The smallest budget, all methods: means over seeds after fine-tuning."""
    budgets = [key for key in figures if key.endswith("of the MACs")]
    if not budgets:
        return
    smallest = min(budgets, key=lambda key: float(key.partition("%")[0]))
    means = {
        name: 100 * statistics.fmean(run["fine-tuned"] for run in runs) for name, runs in figures[smallest].items()
    }
    data = figures.get("original", {}).get("data", "images")
    rows = ", ".join(f"{name} {mean:.1f}" for name, mean in sorted(means.items(), key=lambda pair: -pair[1]))
    yield f"ResNet-20 on {data} at {smallest}, fine-tuned, test accuracy in percent: {rows}."


def _gpu(figures: Any) -> Iterator[str]:
    rows = [row for row in figures.get("latency", ()) if row["format"] == "fp16, channels_last"]
    if rows:
        each = [
            f"{row['network']} × {row['ratio aligned']:.2f} (× {row['ratio unaligned']:.2f} without `align`)"
            for row in rows
        ]
        yield f"Half of the MACs, fp16, widths by `cuda-fp16`: the time of a forward pass is {_listed(each)}."


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1]


_HEADLINES: dict[str, Callable[[Any], Iterator[str]]] = {
    "zoo": _zoo,
    "evaluation": _evaluation,
    "search": _search,
    "accuracy": _accuracy,
    "gpu": _gpu,
}

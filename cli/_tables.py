"""Tables for the terminal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from prunekit.cli.config import METHODS, list_configs
from prunekit.core._names import nearest
from prunekit.core._terminal import shown
from prunekit.core.budget import profiles
from prunekit.core.constants import shortened
from prunekit.core.errors import ConfigError
from prunekit.core.importance import criteria
from prunekit.core.inspection import Inspection, shorten
from prunekit.core.registry import get_backend, list_algorithms, list_backends
from prunekit.core.verification import Verification
from prunekit.core.zoo import LIBRARIES

__all__ = ["inspection_tables", "known_names", "verification_text"]


def known_names(what: str, backend: str) -> list[tuple[str, str]]:
    """Names of a kind, each with a line on what it is.

    Raises:
        ConfigError: There is no such kind.
    """
    kinds: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {
        "models": lambda: _models(backend),
        "algorithms": lambda: [(name, METHODS.get(name, "")) for name in dict.fromkeys([*list_algorithms(), *METHODS])],
        "criteria": lambda: criteria().items(),
        "profiles": lambda: profiles().items(),
        "backends": lambda: [(name, "") for name in list_backends()],
        "configs": lambda: [(name, _first_sentence(file)) for name, file in list_configs().items()],
    }
    if what not in kinds:
        raise ConfigError(f"list knows kinds of names only, got {what!r}; {nearest(what, kinds)}")
    return list(kinds[what]())


def _models(backend: str) -> Iterator[tuple[str, str]]:
    chosen: Any = get_backend(backend)
    for entry in chosen.list_models():
        shape = "x".join(str(n) for n in entry.image)
        yield entry.name, f"{entry.description} ({shape}, {entry.classes} classes)"
    for library, (framework, description) in LIBRARIES.items():
        if framework == backend:
            yield f"{library}:NAME", description
    yield "package.module:function", "a function of your own that returns a network"


def _first_sentence(file: Any) -> str:
    """What a configuration's first comment says before what to set and when."""
    lines = itertools.takewhile(lambda line: line.startswith("# "), file.read_text(encoding="utf-8").splitlines())
    return re.split(r"\. |: set ", " ".join(line.removeprefix("# ") for line in lines))[0].removesuffix(".")


def inspection_tables(seen: Inspection) -> Iterator[Any]:
    """An inspection for a terminal: a line and up to three tables."""
    shapes = ", ".join("x".join(map(str, shape)) for shape in seen.inputs)
    yield _text(f"{seen.model}, input {shapes}: {seen.params:,} parameters, {seen.macs:,} MACs, {seen.flops:,} FLOPs")
    groups = _table("Groups that can be cut", "group", "width>", "half saves>", "and MACs>", "outputs of", "read by")
    for row in seen.groups:
        note = "" if row.neutral else " (statistics over channels)"
        groups.add_row(
            _text(row.name + note),
            f"{row.width:,}",
            f"{row.params:,}",
            f"{row.macs:,}",
            _text(shorten(row.layers)),
            _text(shorten(row.readers)),
        )
    yield groups
    if seen.frozen:
        frozen = _table("What must stay", "name", "width>", "because")
        for stay in seen.frozen:
            frozen.add_row(_text(stay.name), f"{stay.size:,}", _text(stay.because))
        yield frozen
    if seen.constants:
        constants = _table("Numbers in the code, and what a cut makes of them", "how", "what", "times>", "where")
        for row in seen.constants:
            constants.add_row(row.how, _text(row.what), str(row.times), _text(shortened(row.where)))
        yield constants
    if seen.budgets:
        budgets = _table("What a budget leaves, every group cut evenly", "budget", "channels>", "parameters>", "MACs>")
        for left in seen.budgets:
            budgets.add_row(
                left.title + ("" if left.reached else " (out of reach)"),
                f"{left.widths:.1%}",
                f"{left.params:,} ({left.params / max(1, seen.params):.1%})",
                f"{left.macs:,} ({left.macs / max(1, seen.macs):.1%})",
            )
        yield budgets


def _text(text: str) -> str:
    """Text that rich takes as it stands, and a terminal too."""
    return escape(shown(text))


def _table(title: str, *heads: str) -> Table:
    """A table; a head that ends in ``>`` is over numbers."""
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head.rstrip(">"), justify="right" if head.endswith(">") else "left")
    return table


def verification_text(found: Verification) -> str:
    """What a check of the law found, as lines."""
    error = "not reached" if found.error is None else f"{found.error:.1e}"
    lines = [
        f"{found.model} ({found.backend}): {found.status}" + (f": {found.message}" if found.message else ""),
        f"  largest relative error  {error}",
        f"  channel groups          {found.groups}",
        f"  parameters              {found.params:,}, of which {found.lost:.0%} were cut on average; "
        f"{found.frozen_share:.0%} are frozen",
        f"  seconds                 {found.analysis_seconds:.2f} to analyse, {found.cut_seconds:.2f} to cut",
    ]
    lines += [f"  number in the code      {constant}" for constant in found.constants]
    return "\n".join((*lines, *(f"  stays                   {reason}" for reason in found.frozen)))

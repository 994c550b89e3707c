"""Configurations that follow a cut: what a pruned network is built from, where numbers can say it.

Networks of Hugging Face transformers, and others that keep a ``config`` and have ``save_pretrained``, are built
anew from that configuration when they are loaded. It has one number for a width that many layers share, so it
can describe a pruned network only where these layers were cut alike. Which number stands for which width is not
written anywhere; it is guessed from the lengths of axes before and after the cut, and a guess is kept only if the
network that it builds has the pruned one's shapes and goes the way that the plan implies, op by op.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from prunekit.backend_torch._copying import deep_copy
from prunekit.backend_torch._random import seeded
from prunekit.backend_torch.trace import PartialTrace, to_meta, trace_copy
from prunekit.core.analysis import Analysis
from prunekit.core.coupling.verify import compare
from prunekit.core.errors import ConfigWarning
from prunekit.core.numbers import set_number, whole_numbers
from prunekit.core.plan import PruningPlan

__all__ = ["follow_config"]

_BUILDS = 48  # networks built in search of one configuration

Shapes = dict[str, tuple[int, ...]]
Values = dict["_Site", Any]


@dataclass(frozen=True)
class _Site:
    """A place in a configuration: names of the configurations around it, and its own (``"heads[1]"``)."""

    path: tuple[str, ...]
    name: str

    def owner(self, config: Any) -> Any:
        for name in self.path:
            config = getattr(config, name)
        return config


@dataclass(frozen=True)
class _Built:
    """A network that a guess builds.

    Attributes:
        model: The network, without data.
        values: What its configuration says once written and read.
        wrong: Shapes that differ from the pruned network's: by name, built and wanted.
        error: How far it is off: shapes first, then numbers that modules keep.
    """

    model: nn.Module
    values: Values
    wrong: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    error: tuple[int, int]


def follow_config(small: nn.Module, analysis: Analysis, plan: PruningPlan) -> None:
    """Set the configurations of a pruned network to its widths; warn where no numbers say them.

    Args:
        small: The pruned network; its own configurations change, the original's do not.
        analysis: The original.
        plan: What was kept.
    """
    for name, module in _configured(small):
        before, after = _shapes(analysis.model.get_submodule(name)), _shapes(module)
        if before == after:
            continue
        uneven = _uneven(before, after, _numbers(module.config))
        if uneven:
            _warn(module, f"{uneven[0]} and {uneven[1]} keep different numbers")
            continue
        search = _Search(module, _lengths(analysis, plan))
        for built in search.run():
            if _goes_the_same_way(small, module, built.model, analysis, plan):
                _write(module.config, built.values)
                break
        else:
            _warn(module, "no numbers that build it were found")


def _warn(module: nn.Module, found: str) -> None:
    warnings.warn(
        f"a configuration has one number for the width of many layers, so save_pretrained needs a network whose layers "
        f"were cut alike, heads as the width around them, got a {type(module).__name__} where {found}; its config "
        "stays as it was: save and load it with prunekit's save and load, or cut evenly (scope='layer')",
        ConfigWarning,
        stacklevel=2,
    )


def _configured(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The outermost modules that are built from a configuration of their own."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if (
            not name.startswith(inside)
            and hasattr(module, "save_pretrained")
            and hasattr(config, "to_dict")
            and hasattr(config, "from_dict")
        ):
            yield name, module
            if not name:
                return
            inside += (f"{name}.",)


def _shapes(model: nn.Module) -> Shapes:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _numbers(config: Any, path: tuple[str, ...] = ()) -> Values:
    """What may stand for a width: whole numbers, numbers that widths are multiplied by, and what is left open."""
    found: Values = {_Site(path, name): n for name, n in whole_numbers(vars(config)).items() if n > 1}
    for name, value in vars(config).items():
        if value is None or type(value) is float:
            found[_Site(path, name)] = value
        elif hasattr(value, "to_dict"):
            found |= _numbers(value, (*path, name))
    return found


def _write(config: Any, values: Values) -> None:
    for site, value in values.items():
        set_number(site.owner(config), site.name, value)


def _uneven(before: Shapes, after: Shapes, numbers: Values) -> tuple[str, str] | None:
    """Two layers of the same place in blocks alike that were cut differently, unless lists may tell them apart."""
    known = Counter(numbers.values())
    seen: dict[tuple[str, int, int], dict[int, str]] = defaultdict(dict)
    for name, shape in before.items():
        for axis, (old, new) in enumerate(zip(shape, after[name], strict=True)):
            lengths = seen[re.sub(r"\b\d+\b", "#", name), axis, old]
            lengths.setdefault(new, name.rpartition(".")[0])
            if len(lengths) > max(1, known[old]):
                first, *_, last = lengths.values()
                return first, last
    return None


def _lengths(analysis: Analysis, plan: PruningPlan) -> dict[int, list[int]]:
    """What became of axes of each length, the most frequent first, axes that stay last."""
    forms, coupling = analysis.coupling.forms, analysis.coupling
    old = forms.lengths(coupling.widths[None])[0].tolist()
    new = forms.lengths(plan.widths(coupling)[None])[0].tolist()
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for axes in forms.axes.values():
        for form in axes:
            if old[form] != new[form]:
                votes[old[form]][new[form]] += 1
    return {n: [m for m, _ in found.most_common()] for n, found in votes.items()}


class _Search:
    """Guesses at a configuration, built without data and compared with the pruned network.

    Args:
        module: The pruned network, its configuration still that of the original.
        lengths: What became of axes of each length.
    """

    def __init__(self, module: Any, lengths: dict[int, list[int]]) -> None:
        self.module = module
        self.lengths = lengths
        self.old = _numbers(module.config)
        self.wanted = _shapes(module)
        self.kept = _kept_numbers(module)
        self.tried: set[tuple[Any, ...]] = set()
        self.builds = 0

    def run(self) -> Iterator[_Built]:
        """Networks with the wanted shapes; each is better than those before it."""
        best: _Built | None = None
        joint = {site: self.lengths.get(v, [v])[0] for site, v in self.old.items()}
        for start in (joint, self.old):
            best = self.better(start, best)
        changed = best is not None
        if best is not None and not best.wrong:
            yield from self.right(best)
        while best is not None and changed:
            changed = False
            for site in self.old:
                for value in self.choices(site, best):
                    built = self.better({**best.values, site: value}, best)
                    if built is not best and built is not None:
                        best, changed = built, True
                        if not best.wrong:
                            yield from self.right(best)

    def right(self, best: _Built) -> Iterator[_Built]:
        """A network of the wanted shapes, first without those changes that it does without (of an image's size)."""
        plain = best
        for site, old in self.old.items():
            if plain.values[site] != old:
                built = self.build({**plain.values, site: old})
                plain = built if built is not None and built.error <= plain.error else plain
        yield plain
        if plain is not best:
            yield best

    def choices(self, site: _Site, best: _Built) -> list[Any]:
        """Other values for a number: lengths it may stand for, and what makes a wrong axis right."""
        old, now = self.old[site], best.values[site]
        found = [*self.lengths.get(old, []), old]
        for built, wanted in dict.fromkeys(
            pair for shapes in best.wrong.values() for pair in zip(*shapes, strict=False) if pair[0] != pair[1]
        ):
            if now is None:
                found.append(wanted)
            elif type(now) is float:
                found.append(now * wanted / built)
            elif now * wanted % built == 0:
                found.append(now * wanted // built)
        return [value for value in dict.fromkeys(found) if value != now]

    def better(self, values: Values, best: _Built | None) -> _Built | None:
        """What a guess builds, if it is nearer than the best so far; else that."""
        key = tuple(values.values())
        if key in self.tried:
            return best
        self.tried.add(key)
        built = self.build(values)
        return best if built is None or (best is not None and built.error >= best.error) else built

    def build(self, values: Values) -> _Built | None:
        if self.builds >= _BUILDS:  # not so many seconds: what is found must be the same on every machine
            return None
        self.builds += 1
        try:
            model, values = _build(self.module, values)
        except Exception:  # numbers that do not go together; whatever a constructor may raise
            return None
        shapes = _shapes(model)
        names = shapes.keys() | self.wanted.keys()
        differ = {name for name in names if shapes.get(name) != self.wanted.get(name)}
        if not differ <= self.wanted.keys():
            differ -= self.left_out
        wrong = {name: (shapes.get(name, ()), self.wanted.get(name, ())) for name in sorted(differ)}
        return _Built(model, values, wrong, (len(wrong), _differing(_kept_numbers(model), self.kept)))

    @cached_property
    def left_out(self) -> set[str]:
        """Names that the original was built without, by arguments beside its configuration (a pooling layer)."""
        return _shapes(_build(self.module, self.old)[0]).keys() - self.wanted.keys()


def _build(like: Any, values: Values) -> tuple[nn.Module, Values]:
    """A network without data from other numbers, and the numbers as they are once written and read."""
    kind, config = type(like), copy.deepcopy(like.config)
    with _quiet(kind), seeded(0), torch.device("meta"):
        _write(config, values)
        read = _numbers(type(config).from_dict(config.to_dict()))  # those that follow from others are set anew
        values = {site: read.get(site, value) for site, value in values.items()}
        _write(config, values)
        return kind(config), values


def _kept_numbers(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Numbers that modules keep: some of a cut network's are those of the original still, most are right."""
    return {
        name: whole_numbers(vars(module)) | {k: v for k, v in vars(module).items() if type(v) is float}
        for name, module in model.named_modules()
    }


def _differing(found: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> int:
    return sum(
        value != found[name].get(key) for name in found.keys() & wanted.keys() for key, value in wanted[name].items()
    )


def _goes_the_same_way(
    small: nn.Module, module: nn.Module, built: nn.Module, analysis: Analysis, plan: PruningPlan
) -> bool:
    """Whether the pruned network, with a module built anew in the place of its own, does what the plan implies."""
    place: Callable[[Any], Any] = (lambda x: x) if analysis.graph.valued else to_meta
    memo: dict[int, Any] = {}
    for tensor in (*small.parameters(), *small.buffers()):
        moved = place(tensor.detach())
        memo[id(tensor)] = nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
    mine = dict(module.named_modules(remove_duplicate=False))
    for name, part in list(built.named_modules(remove_duplicate=False)):
        parent, _, last = name.rpartition(".")
        if name not in mine and parent in mine:  # built without it, by an argument beside the configuration
            setattr(built.get_submodule(parent), last, None)
            continue
        for table in ("_parameters", "_buffers"):
            theirs = getattr(mine[name], table) if name in mine else {}
            for key in getattr(part, table).keys() & theirs.keys():
                getattr(part, table)[key] = None if theirs[key] is None else memo[id(theirs[key])]
    memo[id(module)] = built
    try:
        graph = trace_copy(deep_copy(small, memo), place(analysis.example))
    except PartialTrace:
        return False
    return compare(analysis.coupling, plan, graph) is None


@contextlib.contextmanager
def _quiet(kind: type) -> Iterator[None]:
    """Without what a library logs about configurations, which guesses would repeat."""
    logger = logging.getLogger(kind.__module__.partition(".")[0])
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""Canonical names of a Cell's parameters: those that the same network has in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

from mindspore import Parameter, nn

__all__ = ["canonical", "is_statistic", "owners", "parameters", "tied"]

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_OTHERS = {nn.Embedding: {"embedding_table": "weight"}, nn.PReLU: {"w": "weight"}}
# mixed precision (Model's amp_level) puts a cell around each norm, and so another step into its path
_WRAPPERS, _WRAPPED = "mindspore.train.amp", "_backbone"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def owners(net: nn.Cell) -> dict[str, tuple[nn.Cell, str]]:
    """Canonical name → (cell, attribute) of every parameter, in order; a tied one has its first name."""
    firsts: dict[int, str] = {}
    found: dict[str, tuple[nn.Cell, str]] = {}
    for name, cell, attribute in _named(net):
        if firsts.setdefault(id(cell._params[attribute]), name) == name:
            found[name] = (cell, attribute)
    return found


def tied(net: nn.Cell) -> dict[str, str]:
    """First name of each parameter that has several, by the others."""
    firsts: dict[int, str] = {}
    first_of = {name: firsts.setdefault(id(cell._params[a]), name) for name, cell, a in _named(net)}
    return {name: first for name, first in first_of.items() if name != first}


def _named(net: nn.Cell) -> Iterator[tuple[str, nn.Cell, str]]:
    """(canonical name, cell, attribute) of every place of a parameter."""
    wrappers: set[str] = set()
    for prefix, cell in net.cells_and_names():
        if type(cell).__module__ == _WRAPPERS:
            wrappers.add(prefix)
        prefix = _unwrapped(prefix, wrappers)
        renamed = _renamed(cell)
        for attribute, parameter in cell._params.items():
            if parameter is None:
                continue
            name = renamed.get(attribute, attribute)
            yield f"{prefix}.{name}" if prefix else name, cell, attribute


def parameters(net: nn.Cell) -> dict[str, Parameter]:
    """Parameters and statistics by canonical name."""
    return {name: cell._params[attribute] for name, (cell, attribute) in owners(net).items()}


def canonical(net: nn.Cell) -> dict[str, str]:
    """Canonical name by the name that MindSpore gives a parameter (``bn1.gamma`` → ``bn1.weight``)."""
    return {parameter.name: name for name, parameter in parameters(net).items()}


def is_statistic(name: str) -> bool:
    """Whether a canonical name is that of a buffer rather than of something that is learned."""
    return name.rpartition(".")[2] in _STATISTICS


def _unwrapped(path: str, wrappers: set[str]) -> str:
    """The path that a cell had before mixed precision was set up."""
    if not wrappers or _WRAPPED not in path:
        return path
    parts = path.split(".")
    return ".".join(p for i, p in enumerate(parts) if p != _WRAPPED or ".".join(parts[:i]) not in wrappers)


def _renamed(cell: nn.Cell) -> dict[str, str]:
    if "moving_mean" in cell._params or isinstance(cell, (nn.LayerNorm, nn.GroupNorm)):
        return _NORM
    return next((table for kind, table in _OTHERS.items() if isinstance(cell, kind)), {})

"""Numbers that stand in a method's own code: made attributes of the module, so that a cut can set them.

``x.view(n, 64)`` holds for one width only. :func:`lift` gives a module a class that differs from its own in one
method: there, ``64`` reads ``self.forward_17_size0``, an attribute like any other. All else stays as written, so
that batch and image sizes stay free; and as the new class follows from the old one and the places in it, the module
can be copied and pickled wherever the old class can be imported.
"""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import FunctionType
from typing import Any

__all__ = ["Size", "is_lifted", "lift", "sizes_at", "text_of"]

_LIFTED = re.compile(r"(?P<method>\w+)_(?P<number>\d+)_size(?P<generation>\d+)$")


@dataclass(frozen=True)
class Size:
    """An expression in a method's code that may be the size of an axis.

    Attributes:
        name: The attribute that it would become.
        text: The expression as written.
        value: Its value where it is a plain number, else None.
        row: Which list of arguments it stands in; -1 where it is only part of an argument.
        place: Its place in that list.
        of: Length of that list.
    """

    name: str
    text: str
    value: int | None
    row: int = -1
    place: int = 0
    of: int = 0


def is_lifted(name: str) -> bool:
    """Whether an attribute's name stands for an expression in the code."""
    return _LIFTED.match(name) is not None


def sizes_at(kind: type, where: str) -> list[Size]:
    """Expressions in the statement at a line that may be sizes: numbers above 1, and arguments worked out there.

    Args:
        kind: Class of a module.
        where: ``file:line``.

    Returns:
        Nothing where the line is in no method of the class, or in one that cannot be rewritten.
    """
    file, _, line = where.rpartition(":")
    for name, method in _methods(kind).items() if line.isdigit() else ():
        if method.__code__.co_filename == file:
            source = _source(method)
            at = int(line) - source.first + 1
            if 1 <= at <= source.length:
                return list(_sizes(source, at, name, _generation(kind)))
    return []


def lift(module: Any, names: Iterable[str]) -> None:
    """Give a module a class in whose code some expressions are attributes, which must be set then.

    Args:
        module: Any object whose class is written in Python.
        names: Names of :class:`Size`; those that its class has already are passed over.
    """
    kind = type(module)
    new = frozenset(name for name in names if _found(name)["generation"] == str(_generation(kind)))
    if new:
        module.__class__ = _rewritten(kind, new)  # type: ignore[arg-type]


def text_of(kind: type, name: str) -> str:
    """The expression that an attribute stands for, as it is written in the class."""
    found = _found(name)
    before = next(base for base in kind.__mro__ if _generation(base) == int(found["generation"]))
    return ast.unparse(_source(_methods(before)[found["method"]]).nodes[int(found["number"])])


def _found(name: str) -> dict[str, str]:
    found = _LIFTED.match(name)
    assert found is not None, name
    return found.groupdict()


def _generation(kind: type) -> int:
    """How often a class has been rewritten."""
    return int(getattr(kind, "_prunekit_generation", 0))


def _methods(kind: type) -> dict[str, FunctionType]:
    """The methods that a class runs, its own and inherited ones."""
    found: dict[str, FunctionType] = {}
    for base in kind.__mro__:
        found = {k: v for k, v in vars(base).items() if isinstance(v, FunctionType)} | found
    return found


@dataclass(frozen=True, eq=False)
class _Source:
    """Code of a method: its first line in the file, how many it has, and its tree in an order that does not change."""

    first: int = 0
    length: int = 0
    tree: ast.FunctionDef | None = None  # none where it cannot be rewritten

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree)) if self.tree is not None else []

    @cached_property
    def number(self) -> dict[int, int]:
        return {id(node): k for k, node in enumerate(self.nodes)}


@cache
def _source(method: FunctionType) -> _Source:
    try:
        lines, first = inspect.getsourcelines(method)
        body = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, SyntaxError, TypeError):  # no source, or a lambda in the midst of a line
        return _Source()
    node = body[0] if body else None
    if not isinstance(node, ast.FunctionDef) or node.decorator_list or not node.args.args or _is_mangled(node):
        return _Source()
    return _Source(first, len(lines), node)


def _is_mangled(node: ast.FunctionDef) -> bool:
    """Whether code reads ``self.__x``, whose name depends on the class that it stands in."""
    names = (n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "") for n in ast.walk(node))
    return any(name.startswith("__") and not name.endswith("__") for name in names)


def _sizes(source: _Source, line: int, method: str, generation: int) -> Iterator[Size]:
    """Arguments first, as they say which axis they are the size of; then numbers anywhere."""
    around = [n for n in source.nodes[1:] if isinstance(n, ast.stmt) and n.lineno <= line <= (n.end_lineno or 0)]
    if not around:
        return
    statement = max(around, key=lambda n: (n.lineno, -(n.end_lineno or 0)))
    seen: set[int] = set()

    def size(node: ast.AST) -> Size:
        seen.add(id(node))
        value = node.value if _is_number(node) else None  # type: ignore[attr-defined]
        return Size(f"{method}_{source.number[id(node)]}_size{generation}", ast.unparse(node), value)

    for row, items in enumerate(_rows(statement)):
        for place, item in enumerate(items):
            if isinstance(item, ast.Name | ast.Attribute | ast.BinOp | ast.Subscript) or _is_number(item):
                yield replace(size(item), row=row, place=place, of=len(items))
    yield from (size(n) for n in ast.walk(statement) if _is_number(n) and id(n) not in seen)


def _rows(statement: ast.stmt) -> Iterator[list[ast.expr]]:
    """Lists of arguments: ``(n, c)`` of ``reshape((n, c))`` before ``x, y`` of ``f(x, y)``."""
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    given = [a for call in calls for a in (*call.args, *(k.value for k in call.keywords))]
    rows = [*(a.elts for a in given if isinstance(a, ast.Tuple | ast.List)), *(call.args for call in calls)]
    for items in rows:
        if not any(isinstance(item, ast.Starred) for item in items):
            yield items


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value > 1


@cache
def _rewritten(kind: type, names: frozenset[str]) -> type:
    """A subclass of a class in whose methods the named expressions are attributes."""
    numbers: dict[str, dict[int, str]] = {}
    for name in sorted(names):
        found = _found(name)
        numbers.setdefault(found["method"], {})[int(found["number"])] = name
    known = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__reduce_ex__": _reduce,
        "_prunekit_generation": _generation(kind) + 1,
        "_prunekit_rewritten": (kind, names),
    }
    return type(kind.__name__, (kind,), known | {m: _new_method(kind, m, given) for m, given in numbers.items()})


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """What pickle and copy keep: the class as it was, and the places in it."""
    kind, names = type(self)._prunekit_rewritten
    made = object.__reduce_ex__(self, max(int(protocol), 2))
    assert isinstance(made, tuple)
    return _blank, (kind, names, *made[1][1:]), *made[2:]


def _blank(kind: type, names: frozenset[str], *arguments: Any) -> Any:
    new = _rewritten(kind, names)
    return new.__new__(new, *arguments)


def _new_method(kind: type, name: str, numbers: dict[int, str]) -> FunctionType:
    """A method in which some nodes of its tree, by number, are attributes of those names."""
    old = _methods(kind)[name]
    tree = copy.deepcopy(_source(old).tree)
    assert tree is not None
    attributes = {id(node): numbers[k] for k, node in enumerate(ast.walk(tree)) if k in numbers}
    tree = _Lifting(attributes, tree.args.args[0].arg).visit(tree)
    tree.returns = None  # annotations may name what only type checkers import
    for argument in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs):
        argument.annotation = None
    free = old.__code__.co_freevars
    text = ast.unparse(tree) + "\n"
    if free:  # names from around the class, __class__ of super() among them
        text = f"def _around({', '.join(free)}):\n{textwrap.indent(text, '    ')}    return {name}\n"
    file = f"{old.__code__.co_filename}, {kind.__qualname__}.{'_'.join(map(str, (name, *sorted(numbers))))}"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # for tracebacks and compilers
    found: dict[str, Any] = {}
    exec(compile(text, file, "exec", dont_inherit=True), old.__globals__, found)
    made = found["_around"](*free) if free else found[name]
    cells = dict(zip(free, old.__closure__ or (), strict=True))
    new = FunctionType(
        made.__code__, old.__globals__, name, old.__defaults__, tuple(cells[n] for n in made.__code__.co_freevars)
    )
    new.__kwdefaults__, new.__module__, new.__qualname__ = old.__kwdefaults__, old.__module__, old.__qualname__
    return new


class _Lifting(ast.NodeTransformer):
    """Puts attributes in the place of some nodes."""

    def __init__(self, attributes: Mapping[int, str], owner: str) -> None:
        self._attributes = attributes
        self._owner = owner

    def visit(self, node: ast.AST) -> Any:
        name = self._attributes.get(id(node))
        if name is None:
            return self.generic_visit(node)
        return ast.Attribute(ast.Name(self._owner, ast.Load()), name, ast.Load())

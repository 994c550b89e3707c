"""YAML for configurations: safe, without repeated keys, and with ``1e-3`` read as a number."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from prunekit.core.errors import ConfigError

__all__ = ["dump", "parse"]


MOST = 1 << 20
"""Bytes that a configuration may hold."""

_NODES = 200_000  # that a configuration may hold, each alias counted as a copy of what it stands for
_DEEPEST = 64  # far less than what exhausts the stack of whoever reads or writes the data later
_DIGITS = 40  # of a number: one of thousands takes long to read, and cannot be written again
_TAG = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader for what JSON can say too.

    It has the floats of YAML 1.2 and an error for a key given twice; dates are text; other tags, numbers of many
    digits and aliases that stand for very much are errors.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == f"{_TAG}merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(
                    f"a key may be given once, got {str(key)[:60]!r} again on line {line}; remove one of them"
                )
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > _DIGITS:
            line = node.start_mark.line + 1
            raise ConfigError(
                f"a number may have {_DIGITS} digits, got {len(node.value)} on line {line}; quote it if it is text"
            )
        whole = node.tag == f"{_TAG}int"
        value: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        if not math.isfinite(value):
            line = node.start_mark.line + 1
            raise ConfigError(f"a number must be finite, got {node.value} on line {line}; write another")
        if whole and not -(2**63) <= value < 2**63:
            line = node.start_mark.line + 1
            raise ConfigError(f"a whole number must fit into 64 bits, got {value} on line {line}; write a smaller one")
        return value

    def construct_undefined(self, node: yaml.Node) -> None:
        line, tag = node.start_mark.line + 1, node.tag.replace(_TAG, "!!")
        raise ConfigError(f"a configuration may hold plain data only, got the tag {tag!r} on line {line}; remove it")

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        if not text.isascii():
            text.encode()  # half a surrogate pair cannot be written again
        return text


_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is not None and tag.removeprefix(_TAG) in _PLAIN
}
_Loader.yaml_implicit_resolvers = {  # a copy, without dates and the sign "="
    first: [(tag, pattern) for tag, pattern in pairs if tag not in (f"{_TAG}timestamp", f"{_TAG}value")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_number)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_number)
_Loader.add_constructor(f"{_TAG}str", _Loader.construct_text)
_Loader.add_constructor(None, _Loader.construct_undefined)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes texts that the loader above would take for numbers."""


_FLOAT = (f"{_TAG}float", re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(*_FLOAT)
_Dumper.add_implicit_resolver(*_FLOAT)


def parse(text: str, where: str) -> Any:
    """The data of a YAML text.

    Args:
        text: YAML.
        where: What to call it in an error, e.g. the file's name.

    Raises:
        ConfigError: The text is not YAML, or a key is given twice.
    """
    if len(text) > MOST:
        raise ConfigError(f"{where} may hold {MOST:,} characters, got {len(text):,}; is it a configuration?")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_bombs(node)
        return loader.construct_document(node)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except RecursionError:
        raise ConfigError(
            f"{where} may be nested {_DEEPEST} levels deep, got more; does a bracket lack its end?"
        ) from None
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:  # the last: a false tag
        mark = getattr(error, "problem_mark", None)
        line = f" on line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where} must be YAML, got a mistake{line} ({problem}); check its indentation") from error
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_bombs(root: yaml.Node) -> None:
    """Make sure that the data are small also where aliases are copies.

    Raises:
        ConfigError: They are not, or an alias stands within what it stands for.
    """
    sizes: dict[int, int | None] = {}  # of nodes by identity; None while the walk is inside one

    def size(node: yaml.Node, depth: int = 0) -> int:
        if depth > _DEEPEST:
            raise RecursionError
        if not isinstance(node, yaml.CollectionNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = None
            inner = node.value if isinstance(node, yaml.SequenceNode) else (n for pair in node.value for n in pair)
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in inner)
        found = sizes[id(node)]
        line = node.start_mark.line + 1
        if found is None:
            raise ConfigError(f"an alias must stand outside of what it repeats, got one inside on line {line}")
        if found > _NODES:
            raise ConfigError(
                f"a configuration may hold {_NODES:,} values, got {found:.3g} in the section on line {line}, its "
                "aliases written out; write less"
            )
        return found

    size(root)


def dump(data: Any) -> str:
    """Plain data as YAML, keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)

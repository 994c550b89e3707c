"""YAML for configurations: safe, without repeated keys, and with ``1e-3`` read as a number."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from prunekit.core.errors import ConfigError

__all__ = ["dump", "parse"]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the floats of YAML 1.2, and an error for a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"a key may be given once, got {key!r} again on line {line}; remove one of them")
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def parse(text: str, where: str) -> Any:
    """The data of a YAML text.

    Args:
        text: YAML.
        where: What to call it in an error, e.g. the file's name.

    Raises:
        ConfigError: The text is not YAML, or a key is given twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" on line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where} must be YAML, got a mistake{line} ({problem}); check its indentation") from error


def dump(data: Any) -> str:
    """Plain data as YAML, keys in the order given."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)

"""JSON of unknown origin, read strictly."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

__all__ = ["parse_json"]

_DEEPEST = 64  # far less than what exhausts the stack of whoever reads or writes the data later


def parse_json(text: str) -> Any:
    """The data of a JSON text that says one thing and can be written again.

    Example:
        >>> parse_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        ValueError: the key 'a' is given twice

    Raises:
        ValueError: The text is not JSON (NaN and Infinity are not), a number is too large for a float, a key is given
            twice, a text holds half a surrogate pair, or the data are nested too deep.
    """
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels") from None
    _check(data)
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:60]!r} is given twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number must be finite, got {text[:60]}")
    return value


def _check(data: Any) -> None:
    level, depth = [data], 0
    while level:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, dict):
                for key in value:
                    _check_text(key)
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
        level, depth = inner, depth + 1


def _check_text(text: str) -> None:
    if not text.isascii():
        text.encode()  # a UnicodeEncodeError is a ValueError

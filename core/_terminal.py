"""What a terminal is shown: text of unknown origin must not steer it."""

from __future__ import annotations

__all__ = ["shown"]

_BIDI = [0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # turn the order of what follows
_ESCAPES = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"},
    **{code: f"\\u{code:04x}" for code in (*_BIDI, 0x2028, 0x2029, 0xFEFF, *range(0xD800, 0xE000))},
}


def shown(text: object) -> str:
    """Text as a terminal may print it: control characters and what no encoding has are written as escapes.

    Example:
        >>> print(shown("a" + chr(27) + "[2Jb"))
        a\\x1b[2Jb
    """
    return str(text).translate(_ESCAPES)

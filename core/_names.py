"""Names: the nearest known one to one that is not known."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str], most: int = 12) -> str:
    """A hint that ends an error message.

    Example:
        >>> nearest("torhc", ["torch", "mindspore"])
        "did you mean 'torch'?"
        >>> nearest("x", ["torch", "mindspore"])
        'known are mindspore, torch'
    """
    names = sorted(known)
    folded = {n.lower().replace("-", "_"): n for n in names}
    wanted = str(name).lower().replace("-", "_")
    close = difflib.get_close_matches(wanted, list(folded), n=6, cutoff=0.6)
    if close:
        # of names that are equally near, the one that begins alike: resnet2 is resnet20 rather than resnet32
        ratios = {other: difflib.SequenceMatcher(None, other, wanted).ratio() for other in close}
        best = max(close, key=lambda other: (ratios[other], len(os.path.commonprefix([other, wanted]))))
        return f"did you mean {folded[best]!r}?"
    if not names:
        return "none is known"
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return f"known are {', '.join(names[:most])}{more}"

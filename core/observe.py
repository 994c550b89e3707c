"""What both frameworks' hooks do with what they see."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prunekit.core._names import nearest
from prunekit.core.backend import Tap
from prunekit.core.errors import InputError

__all__ = ["check_layers", "check_seen", "check_taps"]


def check_layers(layers: Iterable[str], known: Collection[str]) -> None:
    """Make sure that a network has the layers that are to be watched.

    Raises:
        InputError: A name is none of the network's.
    """
    for name in layers:
        if name not in known:
            raise InputError(f"layers must be names of the model's modules, got {name!r}; {nearest(name, known)}")


def check_taps(taps: Iterable[Tap], known: Collection[str]) -> None:
    """Make sure that a network has the places that are to be watched.

    Raises:
        InputError: A layer is none of the network's, or the side is neither input nor output.
    """
    for layer, side in taps:
        check_layers([layer], known)
        if side not in ("input", "output"):
            raise InputError(f'a tap must be (layer, "input") or (layer, "output"), got {(layer, side)!r}')


def check_seen(layers: Iterable[str], seen: Collection[str]) -> None:
    """Make sure that every watched layer ran.

    Raises:
        InputError: One did not.
    """
    for name in layers:
        if name not in seen:
            raise InputError(f"layers must run in a forward pass, got {name!r}, which did not")

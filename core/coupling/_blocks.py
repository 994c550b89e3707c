"""How a reshape groups axes."""

from __future__ import annotations

__all__ = ["blocks"]


def blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of old and new axes that hold the same number of elements."""
    blocks = []
    i = j = 0
    while i < len(old) or j < len(new):
        sources: list[int] = []
        targets: list[int] = []
        left = right = 1
        while True:
            if left <= right and i < len(old) and (left < right or not sources):
                left *= old[i]
                sources.append(i)
                i += 1
            elif j < len(new) and (right < left or not targets):
                right *= new[j]
                targets.append(j)
                j += 1
            elif left == right:
                break
            else:
                left *= old[i]
                sources.append(i)
                i += 1
        blocks.append((sources, targets))
    return blocks

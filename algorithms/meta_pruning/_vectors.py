"""How vectors are shown and kept: a list that can be copied, with its score and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunekit.core.candidates import Candidate

__all__ = ["TOP_FILE", "top_entry", "top_line"]

TOP_FILE = "search_results/top_vectors.txt"


def top_entry(candidate: Candidate) -> dict[str, Any]:
    """What is kept of one of the best: plain data."""
    figures = {key: candidate.figures[key] for key in ("macs", "ratio", "flops", "loss")}
    vector = [int(i) for i in candidate.vector]
    return {"index": candidate.index, "vector": vector, "score": candidate.score, **figures}


def top_line(place: int, entry: dict[str, Any]) -> str:
    """One of the best, as the log and the file show it.

    Example:
        >>> top_line(1, {"vector": [18, 23], "score": 0.70912, "flops": 142_040_000, "macs": 140_200_000})
        'top 1: rngs = [18, 23], score: 0.7091, FLOPs: 142.04M, MACs: 140.20M'
    """
    flops, macs = (f"{entry[key] / 1e6:.2f}M" for key in ("flops", "macs"))
    return f"top {place}: rngs = {_listed(entry['vector'])}, score: {entry['score']:.4f}, FLOPs: {flops}, MACs: {macs}"


def _listed(vector: Sequence[int]) -> str:
    return "[" + ", ".join(str(i) for i in vector) + "]"

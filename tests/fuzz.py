"""Fuzz a reader of prunekit: ``python tests/fuzz.py plan --seconds 600``.

The search is atheris's (``pip install atheris``, which is none of the project's own needs). It ends at the first input
that lets anything but an error of prunekit's pass; that input is left in the working folder, and belongs into
``FOUND`` of ``tests/test_fuzz.py`` once what it shows is mended. The corpus that it gathers is kept in ``--corpus``.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=["plan", "mask", "config", "encoding"])
    parser.add_argument("--seconds", type=float, default=600, help="CPU time to spend.")
    parser.add_argument("--corpus", type=Path, help="Folder of inputs to begin with; new ones are added.")
    chosen = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("fuzzing needs atheris, which is not installed; run `pip install atheris`")
    import torch  # noqa: F401  before, so that only what reads is instrumented

    with atheris.instrument_imports(include=["prunekit.core", "prunekit.cli", "prunekit.algorithms", "yaml", "json"]):
        import _fuzz

    corpus = chosen.corpus or Path(tempfile.mkdtemp(prefix=f"prunekit-{chosen.target}-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, document in enumerate(_fuzz.valid(chosen.target)):
        (corpus / f"valid-{number}").write_bytes(document)
    target, begun, count = _fuzz.TARGETS[chosen.target], time.process_time(), 0

    def once(data: bytes) -> None:
        nonlocal count
        target(data)
        count += 1
        spent = time.process_time() - begun
        if spent > chosen.seconds:
            print(f"{chosen.target}: {count:,} inputs in {spent:.0f} CPU seconds, no finding", flush=True)
            os._exit(0)  # atheris knows no other way out

    limits = ["-timeout=300", "-rss_limit_mb=4096", "-max_len=8192", f"-artifact_prefix={chosen.target}-"]
    documents = _fuzz.valid(chosen.target)

    def change(data: bytes, most: int, seed: int) -> bytes:
        """A change of bytes, which finds what is no JSON, or of values, which finds what is."""
        chance = random.Random(seed)
        if chance.random() < 0.3:
            return atheris.Mutate(data, most)
        return _fuzz.mutated(data if chance.random() < 0.8 else chance.choice(documents), chance)[:most]

    atheris.Setup([sys.argv[0], str(corpus), *limits], once, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

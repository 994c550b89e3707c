"""What the tests of hostile input share."""

from __future__ import annotations

import json
import pickle
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import Mixed, randomise

from prunekit.algorithms.uni_schedule import read_mask
from prunekit.backend_torch import prune, save
from prunekit.cli.config import load_config
from prunekit.core.errors import PrunekitError
from prunekit.core.plan import PruningPlan, plan_checksum
from prunekit.core.store import PLAN_FILE
from prunekit.core.strategies import read_strategies

GOOD = "model: {name: lenet5}\nmethod: {name: none}\ndata: {name: digits}\n"
READERS: dict[str, Callable[[Path], Any]] = {
    "plan": PruningPlan.load, "mask": read_mask, "config": load_config, "strategies": read_strategies,
}  # fmt: skip
NASTY = "\x1b]0;owned\x07\x1b[2J\u202e<script>alert(1)</script>[bold]$\\frac{$\r\nx"


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@contextmanager
def bounded(seconds: float = 20, megabytes: int = 700) -> Iterator[None]:
    """What is within takes neither long (of CPU time, by a wide margin) nor much memory."""
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begun < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < megabytes * 1024


def refused(read: Callable[[], Any], kind: type[PrunekitError] = PrunekitError) -> str:
    """The message, which is short enough to be read."""
    with bounded(), pytest.raises(kind) as caught:
        read()
    assert 20 < len(str(caught.value)) < 2000
    return str(caught.value)


def edit(folder: Path, **changes: Any) -> None:
    """Change a saved plan and sign it again, as an attacker would."""
    data = {**json.loads((folder / PLAN_FILE).read_text()), **changes}
    data["checksum"] = plan_checksum(data)
    (folder / PLAN_FILE).write_text(json.dumps(data))


def write_pickle(form: str, path: Path, mark: Path) -> None:
    if form == "pickle":
        path.write_bytes(pickle.dumps({"conv.weight": Bomb(mark)}))
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb(mark)))
            archive.writestr("archive/version", "3")
    else:
        torch.save({"conv.weight": Bomb(mark)}, path, _use_new_zipfile_serialization=form == "torch")


def save_pruned(folder: Path) -> Path:
    """A pruned network on disk."""
    save(prune(randomise(Mixed()), torch.zeros(1, 3, 12, 12), ratio=0.5), folder)
    return folder

"""Processes that are killed while they write: what they leave is whole, the old file or the new one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from prunekit.algorithms.uni_schedule import read_mask
from prunekit.core._files import check_seal
from prunekit.core.store import read_plan, read_store

_MINDSPORE = pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore")

_SAVE = """
import sys
import numpy as np
from prunekit.core.plan import PruningPlan
from prunekit.core.store import write_store
print("at work", flush=True)
for k in range(10**9):
    write_store(sys.argv[1], {"w": np.full(200_000, k, np.float32)}, PruningPlan({}, {}, model=str(k)))
"""
_TORCH = """
import sys
from torch import nn
import torch
from prunekit.backend_torch import UniPruner, export, prune
def build(): return nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 4, 3)).eval()
example = torch.zeros(1, 3, 8, 8)
formats = ("torchscript", "onnx")
"""
_CELLS = """
import sys
from prunekit.backend_mindspore import UniPruner, export, prune
from mindspore import Tensor, nn
import numpy as np
def build():
    layers = nn.Conv2d(3, 24, 3, has_bias=True), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 4, 3)
    return nn.SequentialCell(*layers).set_train(False)
example = Tensor(np.zeros((1, 3, 8, 8), np.float32))
formats = ("mindir",)
"""
_ZERO = """
settings = {"exp_name": "t", "frequency": 1, "target_sparsity": 0.5, "pruning_step": 2, "filter_lower_threshold": 2,
            "input_size": (1, 3, 8, 8), "output_path": sys.argv[1]}
algo = UniPruner(settings, formats=())
algo.apply(build())
print("at work", flush=True)
for k in range(10**9):
    algo.callbacks()[0].epoch_begin(1 + k % 2)
"""
_EXPORT = """
nets = [prune(build(), example, params=share) for share in (0.4, 0.7)]
for k in range(10**9):
    print("at work" if k == 1 else "", end="\\n" if k == 1 else "", flush=True)
    for name in formats:
        export(nets[k % 2], example, f"{sys.argv[1]}/net.{dict(torchscript='pt', onnx='onnx', mindir='mindir')[name]}")
"""


def kill(script: str, kills: int, folder: Path, whole: Callable[[Path], None], within: float) -> None:
    """Run a script again and again, kill it at any moment, and look at what it left."""
    rng = random.Random(script)
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", "GLOG_v": "4"},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        time.sleep(rng.uniform(0, within))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        whole(folder)


def test_saving(tmp_path: Path) -> None:
    seen: list[int] = []

    def whole(folder: Path) -> None:
        if not any(folder.glob("*weights*")):
            return
        state, plan = read_store(folder)
        assert (state["w"] == float(plan.model)).all() and read_plan(folder) == plan
        seen.append(int(plan.model))

    kill(_SAVE, 12, tmp_path, whole, within=0.15)
    assert len(set(seen)) > 3


@pytest.mark.slow
def test_saving_forty_times(tmp_path: Path) -> None:
    def whole(folder: Path) -> None:
        state, plan = read_store(folder)
        assert (state["w"] == float(plan.model)).all()

    subprocess.run([sys.executable, "-c", _SAVE.replace("10**9", "1"), str(tmp_path)], check=True)
    kill(_SAVE, 40, tmp_path, whole, within=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("head", [_TORCH, pytest.param(_CELLS, marks=_MINDSPORE)], ids=["torch", "mindspore"])
def test_zeroing(head: str, tmp_path: Path) -> None:
    masks: list[int] = []

    def whole(folder: Path) -> None:
        for path in (folder / "t").glob("t_*"):
            if path.suffix == ".sha256":
                continue
            check_seal(path, path.read_bytes())
            if path.suffix == ".json":
                masks.append(len(read_mask(path)["0"]))

    kill(head + _ZERO, 15, tmp_path, whole, within=0.3)
    assert masks and set(masks) <= set(range(2, 24, 2))


@pytest.mark.slow
@pytest.mark.parametrize("head", [_TORCH, pytest.param(_CELLS, marks=_MINDSPORE)], ids=["torch", "mindspore"])
def test_exporting(head: str, tmp_path: Path) -> None:
    loaded: list[str] = []
    kill(head + _EXPORT, 10, tmp_path, lambda folder: loaded.extend(_load_all(folder)), within=2.0)
    assert set(loaded) == ({".pt", ".onnx"} if head is _TORCH else {".mindir"})


def _load_all(folder: Path) -> list[str]:
    """Load every exported file and run it."""
    image = np.zeros((1, 3, 8, 8), np.float32)
    found = []
    for path in sorted(folder.glob("net.*")):
        if path.suffix == ".pt":
            import torch

            assert torch.jit.load(str(path))(torch.from_numpy(image)).shape[1] == 4
        elif path.suffix == ".onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            assert session.run(None, {session.get_inputs()[0].name: image})[0].shape[1] == 4
        elif path.suffix == ".mindir":
            code = (
                "import prunekit.backend_mindspore, sys, numpy as np, mindspore as ms; from mindspore import nn;"
                "net = nn.GraphCell(ms.load(sys.argv[1])); x = ms.Tensor(np.zeros((1, 3, 8, 8), np.float32));"
                "assert net(x).shape[1] == 4"
            )
            subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        else:
            continue
        found.append(path.suffix)
    return found

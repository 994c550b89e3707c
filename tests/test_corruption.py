"""Files that something changed: what is read is what was written, or the error says that it is not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunekit.algorithms.uni_pruner import UniPrunerBase
from prunekit.algorithms.uni_schedule import read_mask
from prunekit.core.candidates import Candidate
from prunekit.core.errors import CheckpointError, PlanError, PrunekitError
from prunekit.core.plan import PruningPlan
from prunekit.core.store import read_plan, read_store, write_store
from prunekit.core.study import Study

PLACES = 200
PLAN = PruningPlan(
    {"conv1": tuple(range(0, 96, 3)), "conv2": (0, 5)}, {"conv1": 96, "conv2": 8}, "f00d", "net", ((1, 3, 8, 8),),
    {"attention": "heads"}, {"macs": [200, 100]},
)  # fmt: skip
Reader = Callable[[Path], Any]


def flips(path: Path, count: int = PLACES) -> Sequence[tuple[int, bytes]]:
    """The contents of a file with one byte changed, at random places, among them the first and the last ones."""
    whole = path.read_bytes()
    rng = random.Random(path.name)
    places = [0, 1, len(whole) // 2, len(whole) - 2, len(whole) - 1]
    places += [rng.randrange(len(whole)) for _ in range(count - len(places))]
    changed = []
    for place in places:
        data = bytearray(whole)
        data[place] ^= rng.randrange(1, 256)
        changed.append((place, bytes(data)))
    return changed


def same_or_refused(path: Path, read: Reader, expected: Any, folder: Path, least: int, places: int = PLACES) -> None:
    """Every changed file reads as the whole one does, or is refused in prunekit's own words; many are refused."""
    refused = 0
    whole = path.read_bytes()
    for place, data in flips(path, places):
        path.write_bytes(data)
        try:
            found = read(folder)
        except PrunekitError as error:
            assert "got" in str(error), place
            refused += 1
        else:
            assert found == expected, f"byte {place}: {whole[place]} became {data[place]}"
        for left in folder.glob("*-wal"), folder.glob("*-shm"):  # SQLite's, of the study that was changed
            for file in left:
                file.unlink()
    path.write_bytes(whole)
    assert read(folder) == expected and refused >= least


def test_a_plan(tmp_path: Path) -> None:
    path = PLAN.save(tmp_path / "plan.json")
    same_or_refused(path, lambda folder: PruningPlan.load(folder / "plan.json"), PLAN, tmp_path, 150)


@pytest.mark.parametrize("name", ["plan.json", "weights.safetensors"])
def test_a_saved_network(name: str, tmp_path: Path) -> None:
    state = {"conv1.weight": np.arange(96, dtype=np.float32).reshape(32, 3), "conv1.bias": np.zeros(32, np.float32)}
    write_store(tmp_path, state, PLAN)

    def read(folder: Path) -> Any:
        found, plan = read_store(folder)
        return {key: value.tobytes() for key, value in found.items()}, plan

    expected = ({key: value.tobytes() for key, value in state.items()}, PLAN)
    same_or_refused(tmp_path / name, read, expected, tmp_path, 190 if name == "weights.safetensors" else 150)


def test_a_study(tmp_path: Path) -> None:
    with Study(tmp_path / "study.db", {"seed": 1}) as study:
        for k in range(12):
            candidate = Candidate(k, (0.1 * k, 1 / 3), 0.5 + k / 100, {"macs": 0.5}, 1.5, k // 2, 7)
            study.add(k, f"key {k}", candidate, PLAN, {"bn_batches": 2})
        study.note("front", 0, [1, 2])

    def read(folder: Path) -> Any:
        with Study(folder / "study.db", {"seed": 1}) as study:
            found = list(study)
            keys = [study.get(f"key {k}") for k in range(12)]
            return found, keys, [study.plan(c.index) for c in found], study.notes("front"), study.config

    same_or_refused(tmp_path / "study.db", read, read(tmp_path), tmp_path, 30)


def pruner(framework: str, folder: Path) -> tuple[UniPrunerBase, Any]:
    """UniPruning after its first step on a small network."""
    settings = {
        "exp_name": "t", "frequency": 1, "target_sparsity": 0.5, "pruning_step": 2, "filter_lower_threshold": 2,
        "input_size": (1, 3, 8, 8), "output_path": str(folder),
    }  # fmt: skip
    if framework == "torch":
        from torch import nn

        from prunekit.backend_torch import UniPruner

        net: Any = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 3))
        algo: UniPrunerBase = UniPruner(settings, formats=())
    else:
        from mindspore import nn as cells

        from prunekit.backend_mindspore import UniPruner as Other

        net = cells.SequentialCell(
            cells.Conv2d(3, 12, 3), cells.BatchNorm2d(12), cells.ReLU(), cells.Conv2d(12, 4, 3)
        )  # fmt: skip
        algo = Other(settings, formats=())
    algo.apply(net)
    algo.callbacks()[0].epoch_begin(1)
    return algo, net


@pytest.mark.parametrize(
    "framework",
    ["torch", pytest.param("mindspore", marks=pytest.mark.skipif(not find_spec("mindspore"), reason="no mindspore"))],
)
def test_the_mask_and_the_weights_of_a_step(framework: str, tmp_path: Path) -> None:
    if framework == "mindspore":
        pytest.importorskip("prunekit.backend_mindspore")
    algo, net = pruner(framework, tmp_path)
    [mask] = (tmp_path / "t").glob("*_mask.json")
    [weights] = (tmp_path / "t").glob(f"*{algo.suffix}")

    def read_weights(_: Path) -> Any:
        return {name: np.asarray(value).tobytes() for name, value in algo.read_weights(net, weights).items()}

    same_or_refused(mask, lambda _: read_mask(mask), read_mask(mask), tmp_path / "t", 190)
    same_or_refused(weights, read_weights, read_weights(tmp_path), tmp_path / "t", 190)
    for path, read in ((mask, lambda _: read_mask(mask)), (weights, read_weights)):
        seal = path.with_name(f"{path.name}.sha256")
        # the file's name in it is for sha256sum alone
        same_or_refused(seal, read, read(tmp_path), tmp_path / "t", 10, places=30)
        path.write_bytes(path.read_bytes()[:-1] + b"~")
        with pytest.raises((PlanError, CheckpointError), match="copy both again, or remove that if you changed it"):
            read(tmp_path)


def test_a_save_that_died_half_way_left_the_new_network(tmp_path: Path) -> None:
    write_store(tmp_path, {"w": np.zeros(3, np.float32)}, PruningPlan({}, {}, model="old"))
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_store(tmp_path, {"w": np.ones(3, np.float32)}, PruningPlan({}, {}, model="new"))
    (tmp_path / "plan.json").rename(tmp_path / ".next-plan.json")
    assert read_plan(tmp_path).model == "new"  # of a first save
    (tmp_path / "plan.json").write_bytes(old["plan.json"])
    assert (read_store(tmp_path)[0]["w"] == 1).all() and read_plan(tmp_path).model == "new"
    (tmp_path / "weights.safetensors").write_bytes(old["weights.safetensors"])  # or it died a little earlier
    assert (read_store(tmp_path)[0]["w"] == 0).all() and read_plan(tmp_path).model == "old"

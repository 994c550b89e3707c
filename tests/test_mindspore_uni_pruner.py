"""The drop-in UniPruner of MindSpore: scripts as their users wrote them, and what it refuses."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("prunekit.backend_mindspore")

import mindspore as ms
import mindspore.dataset as ds
from mindspore import nn
from mindspore.train import Callback, CheckpointConfig, LossMonitor, ModelCheckpoint, TimeMonitor
from nets_mindspore import Mixed, randomise

from prunekit.backend_mindspore import UniPruner, load, plan_of
from prunekit.backend_mindspore.state import get_state
from prunekit.core.errors import BudgetError, CheckpointError, InputError, OutputError, PlanError

SHAPE = [2, 3, 12, 12]


@pytest.fixture(params=[ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"])
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    before = ms.get_context("mode")
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=before)


def settings_for(folder: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "exp_name": "trial",
        "frequency": 2,
        "target_sparsity": 0.4,
        "pruning_step": 2,
        "filter_lower_threshold": 2,
        "input_size": SHAPE,
        "output_path": str(folder),
        "prune_flag": 1,
        "rank": 0,
        "device_target": "CPU",
    }
    return {**values, **changes}


def dataset(count: int = 16, batch: int = 8) -> Any:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count, *SHAPE[1:])).astype(np.float32)
    labels = rng.integers(0, 10, count).astype(np.int32)
    return ds.NumpySlicesDataset((images, labels), shuffle=False).batch(batch)


def loss() -> nn.Cell:
    return nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")


def inputs() -> ms.Tensor:
    return ms.Tensor(np.random.default_rng(1).standard_normal((3, *SHAPE[1:])).astype(np.float32))


def outputs(net: nn.Cell) -> np.ndarray:
    return net.set_train(False)(inputs()).asnumpy()


def size(net: nn.Cell) -> int:
    return sum(int(p.size) for p in net.trainable_params())


def trained(folder: Path, net: nn.Cell, epochs: int = 1, **changes: Any) -> tuple[UniPruner, Path, Path]:
    """A pruner after a short training: itself, the last weights file, the last mask file."""
    algo = UniPruner(settings_for(folder, **changes), formats=())
    algo.apply(net)
    optimizer = nn.Momentum(net.trainable_params(), 0.05, 0.9)
    model = ms.Model(net, loss(), optimizer)
    model.train(epochs, dataset(), callbacks=algo.callbacks(), dataset_sink_mode=False)
    callback = algo.callbacks()[0]
    return algo, callback.weights_path, callback.mask_path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished training: its network, its pruner, and the files that it left."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net = randomise(Mixed())
    algo, weights, mask_path = trained(tmp_path_factory.mktemp("run"), net)
    ms.set_context(mode=before)
    return SimpleNamespace(net=net, algo=algo, weights=weights, mask_path=mask_path)


# ---------------------------------------------------------------- scripts of users


def test_the_seven_steps_of_the_documentation(tmp_path: Path, mode: int) -> None:
    net = randomise(Mixed())
    algo = UniPruner(settings_for(tmp_path))
    algo.apply(net)
    model = ms.Model(net, loss(), nn.Momentum(net.trainable_params(), 0.05, 0.9))
    model.train(2, dataset(), callbacks=algo.callbacks(), dataset_sink_mode=False)

    config = SimpleNamespace(
        exp_name="trial",
        epoch_size=2,
        device_target="CPU",
        mask_path=str(tmp_path / "trial" / "trial_zeroed_rank0_epoch2_mask.json"),
        checkpoint_file_path=str(tmp_path / "trial" / "trial_zeroed_rank0_epoch2.ckpt"),
    )
    if config.mask_path is not None and os.path.exists(config.mask_path):
        with open(config.mask_path, encoding="utf8") as json_fp:
            mask = json.load(json_fp)
            tag = "pruned"
    ms.load_checkpoint(config.checkpoint_file_path, net)
    before = outputs(net)
    small = algo.convert(net, mask, config, tag)

    assert np.allclose(outputs(small), before, atol=1e-5)
    assert np.array_equal(outputs(net), before), "convert leaves its network as it is"
    assert size(small) < 0.65 * size(net)
    stem = tmp_path / "trial" / "trial_pruned_0_epoch2"
    exported = nn.GraphCell(ms.load(f"{stem}.mindir"))
    x = ms.Tensor(np.ones(SHAPE, np.float32))
    assert np.allclose(exported(x).asnumpy(), small(x).asnumpy(), atol=1e-5)
    assert np.array_equal(outputs(load(Mixed(), stem)), outputs(small))
    weights = ms.load_checkpoint(f"{stem}.ckpt")
    assert {n: p.shape for n, p in weights.items()} == {p.name: p.shape for p in small.get_parameters()}
    assert (tmp_path / "trial" / "trial_pruned_0_epoch2.mindir.convert.txt").exists()


class Watching(Callback):
    """What the network's gates are at the end of each epoch, after the pruner."""

    def __init__(self) -> None:
        self.masks: list[dict[str, list[int]]] = []
        self.algo: Any = None

    def on_train_epoch_end(self, run_context: Any) -> None:
        self.masks.append(dict(self.algo.callbacks()[0].mask))


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_a_training_script_with_a_pretrained_checkpoint(
    tmp_path: Path, mode: int, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "prunekit.uni_pruning")
    ms.save_checkpoint(randomise(Mixed(), 7), str(tmp_path / "pretrained.ckpt"))
    net = Mixed()
    algo = UniPruner(settings_for(tmp_path), formats=())
    algo.apply(net)
    missing, unknown = ms.load_param_into_net(net, ms.load_checkpoint(str(tmp_path / "pretrained.ckpt")))
    assert not missing and not unknown
    decayed = [p for p in net.trainable_params() if not p.name.endswith(("beta", "gamma", "bias"))]
    others = [p for p in net.trainable_params() if p.name.endswith(("beta", "gamma", "bias"))]
    groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": others}, {"order_params": net.trainable_params()}]
    optimizer = nn.Momentum(groups, 0.01, 0.9, loss_scale=1024.0)
    scale = ms.FixedLossScaleManager(1024, drop_overflow_update=False)
    model = ms.Model(net, loss(), optimizer, metrics={"acc"}, amp_level=level, loss_scale_manager=scale)
    saver = ModelCheckpoint("net", str(tmp_path), CheckpointConfig(save_checkpoint_steps=2, keep_checkpoint_max=1))
    watching = Watching()
    watching.algo = algo
    callbacks = [TimeMonitor(2), LossMonitor(2), algo.callbacks()[0], saver, watching]
    model.train(3, dataset(), callbacks=callbacks, dataset_sink_mode=False)

    names = sorted(p.name for p in (tmp_path / "trial").iterdir())
    steps = [f"trial_zeroed_rank0_epoch{n}" for n in (1, 3)]
    assert names == sorted(
        f"{s}{end}{seal}" for s in steps for end in (".ckpt", "_mask.json") for seal in ("", ".sha256")
    )
    lines = [r.getMessage() for r in caplog.records if r.name == "prunekit.uni_pruning"]
    assert len(lines) == 3 and all("keeps" in line and "prunes" in line for line in lines)
    assert len(watching.masks) == 3 and all(watching.masks)
    gone = algo.callbacks()[0].mask["stem.0"]
    weight = net.stem[0].weight.asnumpy()
    assert not weight[gone].any() and np.delete(weight, gone, 0).any()
    # the zeroed checkpoint has the names of the network, and a fresh one takes it
    fresh = Mixed()
    missing, unknown = ms.load_param_into_net(fresh, ms.load_checkpoint(str(tmp_path / "trial" / f"{steps[-1]}.ckpt")))
    assert not missing and not unknown
    small = algo.convert(net)
    assert np.allclose(outputs(small), outputs(net), atol=1e-5 if level == "O0" else 2e-2)
    # the file of ModelCheckpoint holds the optimizer's state as well
    last = max(tmp_path.glob("net-*.ckpt"), key=lambda p: p.stat().st_mtime)
    own = get_state(net)
    assert len(ms.load_checkpoint(str(last))) > len(own) and algo.read_weights(net, last).keys() == own.keys()


def test_an_evaluation_script(tmp_path: Path, mode: int, run: SimpleNamespace) -> None:
    config = SimpleNamespace(exp_name="trial", epoch_size=5, device_target="CPU", lr=0.1)
    net = Mixed()
    algo = UniPruner(SimpleNamespace(**settings_for(tmp_path), other="ignored"), formats=())
    net = algo.apply(net)
    mask = json.loads(run.mask_path.read_text())
    ms.load_checkpoint(str(run.weights), net)
    before, whole = outputs(net), size(net)  # in GRAPH mode, a graph of the whole network is compiled now
    unpruned = ms.Model(net, loss_fn=loss(), metrics={"acc"}).eval(dataset(), dataset_sink_mode=False)
    algo.prune_by_mask(net, mask, config, "pruned")
    model = ms.Model(net, loss_fn=loss(), metrics={"acc", "loss"})
    result = model.eval(dataset(), dataset_sink_mode=False)
    assert result["acc"] == unpruned["acc"] and np.isfinite(result["loss"])
    assert size(net) < 0.65 * whole
    assert np.allclose(outputs(net), before, atol=1e-5)
    assert plan_of(net).kept
    assert (tmp_path / "trial" / "trial_pruned_0_epoch5.ckpt").exists()
    # what was cut can be trained, and is another network for the same mask
    ms.Model(net, loss(), nn.Momentum(net.trainable_params(), 0.05, 0.9)).train(1, dataset(), dataset_sink_mode=False)
    assert not np.allclose(outputs(net), before, atol=1e-5)
    with pytest.raises(PlanError):
        algo.prune_by_mask(net, mask, config, "pruned")


def test_an_export_script_that_never_applies(tmp_path: Path, mode: int, run: SimpleNamespace) -> None:
    net = Mixed()
    net.set_train(False)
    algo = UniPruner(settings_for(tmp_path / "other"))
    save_path = algo.callbacks()[0].output_path
    net_deploy = algo.convert(net_opt=net, ckpt_path=str(run.weights), mask_path=str(run.mask_path))
    x = ms.Tensor(np.random.default_rng(2).uniform(0.0, 1.0, size=SHAPE).astype(np.float32))
    ms.export(net_deploy, x, file_name=f"{save_path}_pruned.mindir", file_format="MINDIR")
    loaded = nn.GraphCell(ms.load(f"{save_path}_pruned.mindir"))
    assert np.allclose(loaded(x).asnumpy(), run.net.set_train(False)(x).asnumpy(), atol=1e-5)
    assert size(net_deploy) < size(net) and size(net) == size(run.net)


# ---------------------------------------------------------------- other loops


def test_model_fit_and_a_loop_of_ones_own(tmp_path: Path) -> None:
    net = randomise(Mixed())
    algo = UniPruner(settings_for(tmp_path), formats=())
    algo.apply(net)
    optimizer = nn.Momentum(net.trainable_params(), 0.05, 0.9)
    model = ms.Model(net, loss(), optimizer, metrics={"acc"})
    model.fit(1, dataset(), dataset(), callbacks=algo.callbacks(), dataset_sink_mode=False)
    callback = algo.callbacks()[0]
    assert callback.epoch == 1 and callback.mask
    callback.epoch_begin(2)
    assert callback.mask_path.name.endswith("epoch1_mask.json")
    callback.epoch_begin(3)
    assert callback.mask_path.name.endswith("epoch3_mask.json")


def test_pruning_switched_off_and_nothing_cut(tmp_path: Path) -> None:
    net = randomise(Mixed())
    algo, _, _ = trained(tmp_path, net, prune_flag=0, target_sparsity=0.99999)
    assert not list(tmp_path.iterdir())
    whole = algo.convert(net, None, None, "original")
    assert np.array_equal(outputs(whole), outputs(net))
    assert (tmp_path / "trial" / "trial_original_0_epoch1.ckpt").exists()


# ---------------------------------------------------------------- bad input


def test_a_model_of_another_network_is_refused(tmp_path: Path) -> None:
    algo = UniPruner(settings_for(tmp_path))
    early = algo.callbacks()[0]
    algo.apply(Mixed())
    assert algo.callbacks()[0] is early
    other = Mixed()
    model = ms.Model(other, loss(), nn.Momentum(other.trainable_params(), 0.05, 0.9))
    with pytest.raises(InputError, match="must train the network that was given to apply"):
        model.train(1, dataset(), callbacks=[early], dataset_sink_mode=False)
    with pytest.raises(InputError, match=r"apply\(model\)"):
        model.train(1, dataset(), callbacks=UniPruner(settings_for(tmp_path)).callbacks(), dataset_sink_mode=False)


def test_an_optimizer_from_before_the_cut_is_refused(tmp_path: Path) -> None:
    net = Mixed()
    algo = UniPruner(settings_for(tmp_path), formats=())
    algo.apply(net)
    model = ms.Model(net, loss(), nn.Momentum(net.trainable_params(), 0.05, 0.9))
    algo.prune_by_mask(net, {"hidden": [0, 1]})
    algo.apply(net)
    with pytest.raises(InputError, match="make it, and its optimizer"):
        model.train(1, dataset(), callbacks=algo.callbacks(), dataset_sink_mode=False)


def test_targets_and_folders(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="least that can be reached"):
        UniPruner(settings_for(tmp_path, target_sparsity=0.99)).apply(Mixed())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="writable"):
        UniPruner(settings_for(tmp_path / "file")).apply(Mixed())


def test_checkpoints_that_are_damaged_or_foreign(tmp_path: Path, run: SimpleNamespace) -> None:
    net, algo, mask_path = run.net, run.algo, run.mask_path
    data = run.weights.read_bytes()
    for name, content in {"half": data[: len(data) // 2], "text": b"no checkpoint" * 9, "empty": b""}.items():
        (tmp_path / f"{name}.ckpt").write_bytes(content)
    ms.save_checkpoint(nn.Dense(3, 4), str(tmp_path / "foreign.ckpt"))
    larger = [{"name": p.name, "data": p} for p in net.get_parameters()]
    larger.append({"name": "extra.weight", "data": ms.Tensor(np.ones((2, 2), np.float32))})
    ms.save_checkpoint(larger, str(tmp_path / "larger.ckpt"))
    before = outputs(net)
    for name in ("half", "text", "empty", "foreign", "larger", "missing"):
        with pytest.raises(CheckpointError):
            algo.convert(net, mask_path=mask_path, ckpt_path=tmp_path / f"{name}.ckpt")
    assert np.array_equal(outputs(net), before)
    with pytest.raises(PlanError, match="readable JSON"):
        algo.convert(net, mask_path=run.weights)
    with pytest.raises(PlanError, match="layers whose outputs can be cut"):
        algo.prune_by_mask(net, {"layer1.0.conv1": [0, 1]})
    with pytest.raises(InputError, match="mindspore network"):
        algo.prune_by_mask("net", None)


# ---------------------------------------------------------------- several processes

_WORKER = """
import json
import sys
from pathlib import Path

import numpy as np

from prunekit.backend_mindspore import UniPruner, plan_of, prune
from prunekit.core.errors import InputError

import mindspore as ms
import mindspore.dataset as ds
from mindspore import nn
from mindspore.communication import get_group_size, get_rank, init

sys.path.insert(0, sys.argv[1])
from nets_mindspore import Mixed, randomise

init()
rank = get_rank()
ms.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True, device_num=get_group_size())
ms.set_seed(rank)  # every process begins with weights of its own
net = Mixed()
config = {"exp_name": "trial", "frequency": 1, "target_sparsity": 0.4, "pruning_step": 2, "filter_lower_threshold": 2,
          "input_size": [2, 3, 12, 12], "output_path": sys.argv[2], "rank": rank}
algo = UniPruner(config, formats=())
algo.apply(net)
rng = np.random.default_rng(0)
images, labels = rng.standard_normal((8, 3, 12, 12)).astype(np.float32), rng.integers(0, 10, 8).astype(np.int32)
data = ds.NumpySlicesDataset((images, labels), shuffle=False, num_shards=2, shard_id=rank).batch(4)
loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
model = ms.Model(net, loss, nn.Momentum(net.trainable_params(), 0.01, 0.9))
model.train(1, data, callbacks=algo.callbacks(), dataset_sink_mode=False)
algo.convert(net)

# the short way: the first process decides, and weights that differ are told in every process
def score(group, state):
    return np.random.default_rng([rank, group.size]).uniform(0.1, 1, group.size)

example, found = ms.Tensor(np.zeros((1, 3, 12, 12), np.float32)), {}
ms.set_seed(9)
found["plan"] = plan_of(prune(randomise(Mixed(), 7), example, macs=0.5, importance=score)).to_dict()
try:
    prune(randomise(Mixed(), rank), example, macs=0.5)
except InputError as error:
    found["error"] = str(error)
Path(sys.argv[2], f"found{rank}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_take_one_plan(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(_WORKER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("msrun")
    command = [program, "--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True"]
    arguments = [f"--log_dir={tmp_path / 'log'}", tmp_path / "worker.py", Path(__file__).parent, tmp_path / "out"]
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    result = subprocess.run(
        [*command, *arguments], env={**os.environ, "PATH": path}, capture_output=True, timeout=300, text=True
    )
    logs = "\n".join(p.read_text() for p in (tmp_path / "log").glob("worker_*.log"))
    assert result.returncode == 0, result.stderr[-2000:] + logs[-2000:]
    folder = tmp_path / "out" / "trial"
    masks = [json.loads((folder / f"trial_zeroed_rank{rank}_epoch1_mask.json").read_text()) for rank in (0, 1)]
    assert masks[0] and masks[0] == masks[1]
    assert all((folder / f"trial_pruned_{rank}_epoch1" / "plan.json").exists() for rank in (0, 1))
    assert "whose plan is taken" in logs
    first, second = (json.loads((tmp_path / "out" / f"found{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and any(len(g["kept"]) < g["size"] for g in first["plan"]["groups"].values())
    assert "have the same weights of the model, got another hash in process 1" in first["error"]

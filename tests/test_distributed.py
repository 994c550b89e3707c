"""Two real processes under torchrun: one plan, one network, every image once, and errors that nobody waits for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from _torchrun import ALONE, TOGETHER, Numbered, Result
from safetensors.torch import load_file

from prunekit.backend_torch import distributed, load, plan_of
from prunekit.backend_torch.zoo import build_model
from prunekit.cli.job import refuse_distributed
from prunekit.core import processes
from prunekit.core.errors import ConfigError, PlanError, TrainingError
from prunekit.core.plan import PruningPlan
from prunekit.core.processes import Processes

ROOT = Path(__file__).parents[1]


def torchrun(script: Path, *arguments: object, limit: float = 240) -> SimpleNamespace:
    """Run a script by two processes that reach each other over loopback alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}
    started = subprocess.Popen(
        [str(part) for part in (*command, *arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **loopback},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = started.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    return SimpleNamespace(code=started.returncode, out=out, err=err)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What two processes found: for each case, what each says, and the weights it ended with."""
    folder = tmp_path_factory.mktemp("two")
    result = torchrun(ROOT / "tests" / "_torchrun.py", folder)
    assert result.code == 0, result.err[-3000:]
    said = [json.loads((folder / f"found{rank}.json").read_text()) for rank in (0, 1)]

    def weights(name: str) -> list[dict[str, torch.Tensor]]:
        return [load_file(folder / f"{name}{rank}.safetensors") for rank in (0, 1)]

    return SimpleNamespace(said=said, weights=weights, folder=folder, err=result.err)


def name_of(case: Callable[[Path], Result]) -> str:
    return case.__name__


@pytest.mark.parametrize(
    "case", [c for c in (*ALONE, *TOGETHER) if c.__name__ not in ("uni_pruner", "refused")], ids=name_of
)
def test_all_processes_end_with_one_network(two: SimpleNamespace, case: Callable[[Path], Result]) -> None:
    first, second = two.weights(case.__name__)
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("case", ALONE, ids=name_of)
def test_they_learn_what_one_process_learns(
    two: SimpleNamespace, case: Callable[[Path], Result], tmp_path: Path
) -> None:
    model, alone = case(tmp_path)
    assert model is not None
    found = two.weights(case.__name__)[0]
    begin = type(model)().state_dict()
    assert any(not torch.allclose(found[n], begin[n], atol=1e-3) for n in found)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    for said in two.said:
        for own, other in zip(alone.get("history", []), said[case.__name__].get("history", []), strict=True):
            assert own.keys() == other.keys()
            assert all(own[k] == pytest.approx(other[k], abs=1e-5) for k in own if k != "seconds")


@pytest.mark.parametrize("name", ["batches_that_do_not_divide", "shuffled_loader", "streamed_loader"])
def test_every_image_of_an_epoch_is_seen_once(two: SimpleNamespace, name: str) -> None:
    parts = [said[name]["seen"] for said in two.said]
    assert len(parts[0]) > len(parts[1]) > 0
    seen = Counter(n for part in parts for n in part)
    # where a batch has one image, process 1 runs it as well, at no weight; both epochs have as many of these
    again = {"batches_that_do_not_divide": {15: 4, 41: 4}, "streamed_loader": {}}.get(name, {})
    whole = Counter({n: again.get(n, 2) for n in range(len(Numbered()))})
    assert seen == whole


def test_a_process_reads_its_own_images_only(two: SimpleNamespace) -> None:
    for said in two.said:
        found = said["shuffled_loader"]
        assert Counter(found["seen"]) == {int(n): count for n, count in found["read"].items()}


def test_an_order_from_the_process_s_own_numbers_is_shared(two: SimpleNamespace) -> None:
    seen = Counter(n for said in two.said for n in said["random_weighted"]["seen"])
    assert seen == Counter(dict.fromkeys(range(45), 2))


def test_a_loader_with_a_distributed_sampler_is_not_shared_again(two: SimpleNamespace) -> None:
    found = [said["distributed_sampler"] for said in two.said]
    assert [f["steps"] for f in found] == [4, 4] and [f["epoch"] for f in found] == [1, 1]
    for epoch in (0, 1):
        parts = [set(f["seen"][22 * epoch : 22 * epoch + 22]) for f in found]
        assert parts[0] | parts[1] == set(range(44)) and not parts[0] & parts[1]
    assert found[0]["seen"][:22] != found[0]["seen"][22:]


def test_figures_and_soft_masks_are_those_of_all(two: SimpleNamespace) -> None:
    first, second = (said["batch_norm"]["history"] for said in two.said)
    assert set(first[0]) >= {"loss", "top1", "val_top1", "val_loss"}
    assert all(a[k] == b[k] for a, b in zip(first, second, strict=True) for k in a if k != "seconds")
    assert [said["soft_mask_and_teacher"] for said in two.said] == [{"callbacks": [1, -1], "gone": 0.0}] * 2


def test_only_the_first_process_speaks(two: SimpleNamespace) -> None:
    lines = [(two.folder / f"log{rank}" / "log.jsonl").read_text().splitlines() for rank in (0, 1)]
    assert [len(found) for found in lines] == [2, 0]
    assert two.err.count("epoch 1/2") == 1


def test_a_group_that_was_left_is_not_waited_for(two: SimpleNamespace) -> None:
    assert [said["left"] for said in two.said] == [[0, True, 1, 1], [1, False, 1, 1]]


def test_buffers_that_are_no_statistics_stay_as_they_are(two: SimpleNamespace) -> None:
    found = two.weights("batch_norm")[1]
    assert torch.equal(found["own"], torch.ones(3) / 3) and found["flag"].tolist() == [True, False]
    assert found["bn1.running_mean"].abs().max() > 0 and int(found["bn1.num_batches_tracked"]) == 3


def test_the_first_process_decides(two: SimpleNamespace) -> None:
    plans = [said["pruned_by_the_first"]["plan"] for said in two.said]
    assert plans[0] == plans[1] and any(len(g["kept"]) < g["size"] for g in plans[0]["groups"].values())
    masks = [said["uni_pruner"]["mask"] for said in two.said]
    # the weak channels of process 0 are the even ones
    assert masks[0] == masks[1] and masks[0]["hidden"] and not any(n % 2 for n in masks[0]["hidden"])
    assert "whose plan is taken" in two.err
    for rank in (0, 1):
        assert json.loads(next((two.folder / "uni" / "trial").glob(f"*rank{rank}*_mask.json")).read_text()) == masks[0]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("weights", ("InputError", "have the same weights of the model", "process 1", "same seed")),
        ("trained weights", ("InputError", "have the same weights")),
        ("pruned weights", ("InputError", "have the same weights")),
        ("teacher", ("InputError", "have the same weights of the teacher")),
        ("plan", ("PlanError", "have the same plan", "share_plan")),
        ("no plan", ("PlanError", "the first process must have a plan")),
        ("recipe", ("TrainingError", "same recipe")),
        ("steps", ("DataError", "same number of steps", "steps_per_epoch")),
        ("order", ("DataError", "same order", "sharded=True")),
        ("budget", ("BudgetError", "least")),
        ("loss", ("TrainingError", "the loss must stay finite")),
    ],
)
def test_a_difference_is_told_in_every_process(two: SimpleNamespace, what: str, words: Sequence[str]) -> None:
    for said in two.said:
        assert all(word in said["refused"][what] for word in words), said["refused"][what]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("weights", "InputError: all processes"),
        pytest.param("plan", "PlanError: all processes", marks=pytest.mark.slow),
    ],
)
def test_a_planted_difference_ends_the_job(tmp_path: Path, what: str, words: str) -> None:
    result = torchrun(ROOT / "tests" / "_torchrun.py", tmp_path, what, limit=120)
    assert result.code != 0 and words in result.err and "epoch 1/2" not in result.err


@pytest.mark.slow
def test_the_example_runs_with_and_without_torchrun(tmp_path: Path) -> None:
    script, options = ROOT / "examples" / "finetune_torchrun.py", ("--epochs", "1", "--limit", "384")
    alone = subprocess.run(
        [sys.executable, script, *options, "--out", tmp_path / "one"], capture_output=True, text=True, timeout=240
    )
    assert alone.returncode == 0, alone.stderr[-2000:]
    both = torchrun(script, *options, "--out", tmp_path / "two")
    assert both.code == 0, both.err[-2000:]
    assert "1 process(es), 6 steps" in alone.stdout and both.out.count("2 process(es), 6 steps") == 1
    whole, kept = achieved_macs(tmp_path / "one")
    assert kept <= 0.5 * whole and achieved_macs(tmp_path / "two") == (whole, kept)
    # from weights that were saved, also those of a pruned network
    again = torchrun(script, *options, "--out", tmp_path / "three", "--base", tmp_path / "two")
    assert again.code == 0, again.err[-2000:]
    assert achieved_macs(tmp_path / "three")[1] <= 0.5 * kept


def achieved_macs(folder: Path) -> tuple[int, int]:
    """Of a saved network that loads: before and after."""
    whole, kept = plan_of(load(build_model("resnet20", in_channels=1), folder)).achieved["macs"]
    return whole, kept


# ---------------------------------------------------------------- without a launcher


def test_one_process_is_the_first_and_only_one() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    plan = PruningPlan({"a": (0,)}, {"a": 2})
    assert distributed.share_plan(plan) is plan
    with pytest.raises(PlanError, match="must have a plan"):
        distributed.share_plan(None)
    distributed.check_same(torch.nn.Linear(2, 2), plan)


def test_a_difference_names_the_processes() -> None:
    def gather(own: bytes) -> list[bytes]:
        return [b"a", b"a", b"b", own]

    some = Processes(rank=3, size=4, gather=gather)
    with pytest.raises(TrainingError, match=r"must agree, got another hash in process 2, 3 .*; try again"):
        some.require_same("text", "agree", "try again")
    processes.check_same(Processes(), {"w": np.ones(2)})


def test_commands_refuse_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_distributed()
    for variables in ({"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "8"}):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            refuse_distributed()
    for variables in ({"RANK": "1", "WORLD_SIZE": "2"}, {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2"}):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(ConfigError, match="must be one process, got .*=2 .*; start it without"):
                refuse_distributed()

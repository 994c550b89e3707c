"""Saved networks: they come back in a new process, and damaged ones never come back wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from _house import python
from nets import Mixed, randomise
from torch import nn

from prunekit.backend_torch import load, plan_of, save
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.carried import find_plan
from prunekit.core.errors import CheckpointError, InputError, OutputError, PlanError
from prunekit.core.plan import PruningPlan
from prunekit.core.store import read_plan, read_store
from prunekit.core.testing import random_plan

SHAPE = (2, 3, 12, 12)


def pruned(seed: int = 0, model: nn.Module | None = None) -> nn.Module:
    analysis = analyse(TorchBackend(), randomise(Mixed() if model is None else model, seed), torch.zeros(SHAPE))
    return analysis.backend.apply(analysis, random_plan(analysis, seed=seed)).eval()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(pruned(), tmp_path / "net")


def test_round_trip(tmp_path: Path) -> None:
    small, x = pruned(), torch.randn(4, *SHAPE[1:])
    folder = save(small, tmp_path / "deep" / "net")
    assert sorted(contents(folder)) == ["plan.json", "weights.safetensors"]
    original = Mixed().eval()
    before = {n: t.clone() for n, t in original.state_dict().items()}
    for again in (load(original, folder), load(Mixed, folder).eval()):
        assert torch.equal(again(x), small(x))
        pairs = zip(again.state_dict().values(), small.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert plan_of(again) == plan_of(small)
        assert again.a.out_channels == small.a.out_channels < 16
    assert all(torch.equal(t, before[n]) for n, t in original.state_dict().items())
    assert read_plan(folder) == plan_of(small)


def test_a_new_process_gives_the_same_outputs(tmp_path: Path) -> None:
    small, x = pruned(), torch.randn(4, *SHAPE[1:])
    save(small, tmp_path / "net")
    np.savez(tmp_path / "case.npz", x=x.numpy(), y=small(x).detach().numpy())
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
from nets import Mixed
from prunekit.backend_torch import load
torch.set_num_threads(2)
case = np.load("case.npz")
again = load(Mixed(), "net").eval()
print(np.abs(again(torch.as_tensor(case["x"])).detach().numpy() - case["y"]).max())
"""
    done = python(code, tmp_path, str(Path(__file__).parent))
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-6


def test_pruned_again_and_saved(tmp_path: Path) -> None:
    once = pruned(1)
    analysis = analyse(TorchBackend(), once, torch.zeros(SHAPE))
    twice = analysis.backend.apply(analysis, random_plan(analysis, seed=2)).eval()
    x = torch.randn(4, *SHAPE[1:])
    again = load(Mixed(), save(twice, tmp_path / "net")).eval()
    assert torch.equal(again(x), twice(x))


def test_a_network_that_was_never_cut(tmp_path: Path) -> None:
    model, x = randomise(Mixed()).eval(), torch.randn(4, *SHAPE[1:])
    assert find_plan(model) is None
    with pytest.raises(PlanError, match="must come from prune"):
        plan_of(model)
    again = load(Mixed(), save(model, tmp_path / "net")).eval()
    assert torch.equal(again(x), model(x))


class Tied(nn.Module):
    """One weight used by two layers, whose channels are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.b.weight = self.a.weight
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.fc(x.mean((2, 3)))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    small = pruned(model=Tied())
    again = load(Tied(), save(small, tmp_path / "net")).eval()
    x = torch.randn(4, *SHAPE[1:])
    assert again.a.weight is again.b.weight and again.a.weight.shape[0] < 8
    assert torch.equal(again(x), small(x))


def test_tied_weights_have_one_value_under_any_of_their_names() -> None:
    backend, model = TorchBackend(), Tied()
    state = backend.get_state(model)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    other = next(name for name in names if name not in dict(model.named_parameters()))
    once = {name: value + 1 for name, value in state.items() if name != other}
    backend.set_state(model, once)
    assert np.array_equal(backend.get_state(model)[other], state[other] + 1)
    with pytest.raises(CheckpointError, match="are one parameter of this model"):
        backend.set_state(model, {**once, other: state[other]})


def test_half_and_double_precision(tmp_path: Path) -> None:
    for number, dtype in enumerate((torch.float64, torch.bfloat16)):
        small = pruned().to(dtype)
        again = load(Mixed().to(dtype), save(small, tmp_path / str(number)))
        for mine, theirs in zip(small.state_dict().values(), again.state_dict().values(), strict=True):
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)


class Tokens(nn.Module):
    """Its input are whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.hidden = nn.Linear(16, 16)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.hidden(self.table(x).mean(1))))


def test_inputs_that_are_not_floats_need_an_example(tmp_path: Path) -> None:
    example = torch.randint(0, 20, (2, 5))
    analysis = analyse(TorchBackend(), Tokens(), example)
    small = analysis.backend.apply(analysis, random_plan(analysis, keep=0.5))
    folder = save(small, tmp_path / "net")
    assert torch.equal(load(Tokens(), folder, example=example)(example), small(example))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("place", [0, 9, 400, -1])
def test_one_flipped_byte(saved: Path, place: int) -> None:
    for name, error in (("weights.safetensors", CheckpointError), ("plan.json", PlanError)):
        data = bytearray((saved / name).read_bytes())
        whole = bytes(data)
        data[place] ^= 1
        (saved / name).write_bytes(data)
        with pytest.raises(error):
            load(Mixed(), saved)
        (saved / name).write_bytes(whole)
    load(Mixed(), saved)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files(saved: Path, share: float) -> None:
    for name, error in (("weights.safetensors", CheckpointError), ("plan.json", PlanError)):
        whole = (saved / name).read_bytes()
        (saved / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(error):
            load(Mixed(), saved)
        (saved / name).write_bytes(whole)


def test_files_of_two_saves(saved: Path, tmp_path: Path) -> None:
    other = save(pruned(), tmp_path / "same widths")
    with torch.no_grad():
        again = load(Mixed(), other)
        again.fc.bias.add_(1)
    save(again, other)
    shutil.copy(other / "weights.safetensors", saved)
    with pytest.raises(CheckpointError, match="another or a damaged one"):
        load(Mixed(), saved)


def test_missing_and_foreign_files(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="readable"):
        load(Mixed(), tmp_path / "nowhere")
    plan = plan_of(load(Mixed(), saved))
    (saved / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match="readable"):
        load(Mixed(), saved)
    plan.save(saved / "plan.json")
    with pytest.raises(PlanError, match="a plan alone"):
        load(Mixed(), saved)


def test_an_edited_plan(saved: Path) -> None:
    data = json.loads((saved / "plan.json").read_text())
    group = data["groups"]["left"]
    absent = next(i for i in range(group["size"]) if i not in group["kept"])
    group["kept"] = sorted([*group["kept"][1:], absent])
    (saved / "plan.json").write_text(json.dumps(data))
    with pytest.raises(PlanError, match="edited"):
        load(Mixed(), saved)


def test_another_architecture(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="architecture"):
        load(Mixed(classes=11), saved)
    with pytest.raises(InputError, match="builds one"):
        load(dict, saved)
    whole = save(Mixed(), tmp_path / "whole")
    with pytest.raises(CheckpointError, match="shape"):
        load(Mixed(classes=11), whole)


def test_a_folder_that_cannot_be_written(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="writable"):
        save(pruned(), tmp_path / "file" / "net")
    # the weights cannot be renamed into place: what was there stays, and no temporary file does
    before = contents(saved)["plan.json"]
    (saved / "weights.safetensors").unlink()
    (saved / "weights.safetensors").mkdir()
    with pytest.raises(OutputError, match="writable"):
        save(pruned(3), saved)
    assert sorted(p.name for p in saved.iterdir()) == ["plan.json", "weights.safetensors"]
    assert (saved / "plan.json").read_bytes() == before


def test_saving_again_replaces(saved: Path) -> None:
    other = pruned(5)
    save(other, saved)
    state, plan = read_store(saved)
    assert isinstance(plan, PruningPlan) and plan == plan_of(other)
    assert all(np.array_equal(state[n], v) for n, v in TorchBackend().get_state(other).items())

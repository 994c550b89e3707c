"""What the processes of tests/test_distributed.py do: run by ``torchrun``, or imported to be run by one process."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, WeightedRandomSampler

from prunekit.backend_torch import TorchBackend, UniPruner, plan_of, prune
from prunekit.backend_torch.data import loaders
from prunekit.backend_torch.distributed import check_same, is_main, processes, rank, share_plan, world_size
from prunekit.core.analysis import analyse
from prunekit.core.errors import PrunekitError
from prunekit.core.logs import RunLog
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe

BACKEND = TorchBackend()
RECIPE = Recipe(epochs=2, lr=0.1, schedule="onecycle", nesterov=True, label_smoothing=0.1, grad_clip=1.0, seed=3)
EXAMPLE = torch.zeros(1, 1, 8, 8)


class Plain(nn.Module):
    """A convolution and two dense layers, without batch norm or dropout, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.hidden = nn.Linear(8 * 16, 16)
        self.fc = nn.Linear(16, 10)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.conv(x)), 2)
        return self.fc(torch.relu(self.hidden(x.flatten(1))))


class Numbered(Dataset[Any]):
    """Images that carry their number, and how often each was read here."""

    def __init__(self, count: int = 45) -> None:
        self.images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        self.images[:, 0, 0, 0] = torch.arange(count)
        self.labels = torch.arange(count) % 10
        self.read: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        self.read[i] += 1
        return self.images[i], int(self.labels[i])


class Recording(Plain):
    """Also keeps the numbers of the images that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += [int(n) for n in x[:, 0, 0, 0]]
        scaled = x.clone()
        scaled[:, 0, 0, 0] = 0
        return super().forward(scaled)


class Streamed(IterableDataset[Any]):
    def __init__(self, source: Numbered) -> None:
        self.source = source

    def __iter__(self) -> Any:
        return (self.source[i] for i in range(len(self.source)))


Result = tuple[nn.Module | None, Any]


# ---------------------------------------------------------------- the same as one process


def own_loaders(folder: Path) -> Result:
    data = loaders("digits", 33, limit=150)
    model = Plain()
    with RunLog(folder / f"log{rank()}") as log:
        result = BACKEND.fit(model, data.train, RECIPE, validation=data.validation, log=log)
    return model, {"history": result.history, "steps": result.steps}


def batches_that_do_not_divide(folder: Path) -> Result:
    source = Numbered()
    parts = torch.arange(45).split([13, 2, 1, 16, 9, 1, 3])
    model = Recording()
    batches = [(source.images[p], source.labels[p].numpy()) for p in parts]
    result = BACKEND.fit(model, batches, RECIPE, validation=batches, show=False)
    return model, {"history": result.history, "seen": model.seen}


def shuffled_loader(folder: Path) -> Result:
    source = Numbered()
    model = Recording()
    loader = DataLoader(source, 6, shuffle=True, generator=torch.Generator().manual_seed(7))
    result = BACKEND.fit(model, loader, RECIPE, show=False)
    return model, {"history": result.history, "seen": model.seen, "read": dict(source.read)}


def streamed_loader(folder: Path) -> Result:
    source = Numbered()
    model = Recording()
    recipe = Recipe(epochs=2, optimizer="adamw", lr=0.01, decay_norms=False, steps_per_epoch=8)
    result = BACKEND.fit(model, DataLoader(Streamed(source), 6), recipe, show=False)
    return model, {"history": result.history, "seen": model.seen}


def part_of_the_network(folder: Path) -> Result:
    """A loss of the user's own, frozen layers, and workers that read."""
    model = Plain()
    model.conv.requires_grad_(False)
    loader = DataLoader(Numbered(), 8, drop_last=True, num_workers=1, persistent_workers=True)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(outputs, targets)

    result = BACKEND.fit(model, loader, RECIPE, loss=loss, show=False)
    return model, {"history": result.history}


def soft_mask_and_teacher(folder: Path) -> Result:
    model, teacher = Plain(), Plain()
    with torch.no_grad():
        teacher.fc.weight.mul_(3)
    analysis = analyse(BACKEND, model, EXAMPLE)
    plan = PruningPlan.of(analysis.coupling, {"hidden": range(0, 16, 2)})
    recipe = Recipe(epochs=1, lr=0.1, distill_weight=2.0)
    data = loaders("digits", 32, limit=150)
    begun: list[int] = []

    class Callback:
        def epoch_begin(self, epoch: int) -> None:
            begun.append(epoch)

        def epoch_end(self, epoch: int) -> None:
            begun.append(-epoch)

    BACKEND.fit(
        model, data.train, recipe, teacher=teacher, analysis=analysis, plan=plan, callbacks=[Callback()], show=False
    )
    return model, {"callbacks": begun, "gone": float(model.hidden.weight.detach()[1::2].abs().max())}


# ---------------------------------------------------------------- several processes only


def distributed_sampler(folder: Path) -> Result:
    """Already sharded: taken as it is, and told the epoch also inside a batch sampler."""
    source = Numbered(44)
    sampler = DistributedSampler(source, world_size(), rank(), shuffle=True)
    model = Recording()
    loader = DataLoader(source, batch_sampler=torch.utils.data.BatchSampler(sampler, 11, drop_last=False))
    result = BACKEND.fit(model, loader, RECIPE, validation=loader, show=False)
    return model, {"seen": model.seen, "steps": result.steps, "epoch": sampler.epoch}


def random_weighted(folder: Path) -> Result:
    """An order and a dropout that draw from the process's own numbers, which each process has its own of."""
    torch.manual_seed(rank())
    source = Numbered()
    model = nn.Sequential(Recording(), nn.Dropout(0.5))
    loader = DataLoader(source, 6, sampler=WeightedRandomSampler([1.0] * 45, 45, replacement=False))
    BACKEND.fit(model, loader, RECIPE, show=False)
    return model, {"seen": model[0].seen}


def batch_norm(folder: Path) -> Result:
    data = loaders("digits", 32, limit=150)
    model = BACKEND.build_model("resnet20", seed=1, in_channels=1)
    model.register_buffer("own", torch.ones(3) / 3)
    model.register_buffer("flag", torch.tensor([True, False]))
    recipe = Recipe(epochs=1, lr=0.05, steps_per_epoch=3)
    result = BACKEND.fit(model, data.train, recipe, validation=data.validation, show=False)
    return model, {"history": result.history}


def pruned_by_the_first(folder: Path) -> Result:
    """A criterion that every process sees otherwise: the first one's counts."""
    model = BACKEND.build_model("resnet20", seed=1, in_channels=1)

    def score(group: Any, state: Any) -> Any:
        return torch.rand(group.size, generator=torch.Generator().manual_seed(rank() + group.size)).numpy() + 0.1

    small = prune(model, EXAMPLE, macs=0.5, importance=score)
    plan = plan_of(small)
    shared = share_plan(plan if is_main() else None)
    assert shared.to_dict() == plan.to_dict()
    check_same(small)
    check_same(small, shared)
    return small, {"plan": plan.to_dict()}


def uni_pruner(folder: Path) -> Result:
    model = Plain()
    with torch.no_grad():
        model.hidden.weight[rank() :: 2] *= 1e-3  # every process would choose other channels
        model.conv.weight[rank() :: 2] *= 1e-3
    config = {"exp_name": "trial", "target_sparsity": 0.5, "input_size": [2, 1, 8, 8], "pruning_step": 2,
              "filter_lower_threshold": 2, "output_path": str(folder / "uni"), "rank": rank()}  # fmt: skip
    algo = UniPruner(config, formats=())
    algo.apply(model)
    (schedule,) = algo.callbacks()
    schedule.epoch_begin(1)
    schedule.epoch_end(1, 1)
    return None, {"mask": schedule.mask}


# ---------------------------------------------------------------- errors, in every process


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except PrunekitError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def refused(folder: Path) -> Result:
    model, other = Plain(), Plain()
    with torch.no_grad():
        other.fc.bias[0] += rank() * 1e-7
    source = Numbered()
    data = [(source.images, source.labels)]
    plan = PruningPlan({"hidden": (rank(), 5)}, {"hidden": 16})
    nan = [(torch.full((4, 1, 8, 8), torch.nan if rank() else 1.0), torch.zeros(4, dtype=torch.int64))]
    shuffled = DataLoader(source, 6, shuffle=True, generator=torch.Generator().manual_seed(rank()))
    found = {
        "weights": _error(lambda: check_same(other)),
        "trained weights": _error(lambda: BACKEND.fit(other, data, RECIPE)),
        "pruned weights": _error(lambda: prune(other, EXAMPLE, macs=0.5)),
        "teacher": _error(lambda: BACKEND.fit(model, data, Recipe(distill_weight=1.0), teacher=other)),
        "plan": _error(lambda: check_same(model, plan)),
        "no plan": _error(lambda: share_plan(None)),
        "recipe": _error(lambda: BACKEND.fit(model, data, Recipe(lr=0.1 + rank()))),
        "steps": _error(lambda: BACKEND.fit(model, data * (1 + rank()), RECIPE)),
        "order": _error(lambda: BACKEND.fit(model, shuffled, RECIPE)),
        "budget": _error(lambda: prune(model, EXAMPLE, macs=0.0001)),
        "loss": _error(lambda: BACKEND.fit(model, nan, RECIPE, sharded=True)),
    }
    return None, found


ALONE: list[Callable[[Path], Result]] = [
    own_loaders, batches_that_do_not_divide, shuffled_loader, streamed_loader, part_of_the_network,
    soft_mask_and_teacher,
]  # fmt: skip
TOGETHER: list[Callable[[Path], Result]] = [
    distributed_sampler, random_weighted, batch_norm, pruned_by_the_first, uni_pruner, refused,
]  # fmt: skip


def planted(what: str) -> None:
    """A script in which process 1 has something of its own."""
    dist.init_process_group("gloo")
    model = Plain()
    if what == "weights" and rank() == 1:
        torch.nn.init.zeros_(model.fc.bias)
    if what == "plan":
        small = prune(model, EXAMPLE, macs=0.5 + 0.2 * rank())  # process 0 decides
        check_same(small, PruningPlan({"hidden": (rank(),)}, {"hidden": 16}))
    BACKEND.fit(model, loaders("digits", 32, limit=150).train, RECIPE)


def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        planted(sys.argv[2])
        return
    found = {}
    for case in (*ALONE, *TOGETHER):
        model, found[case.__name__] = case(folder)
        if model is not None:
            state = {n: t.clone().contiguous() for n, t in model.state_dict().items()}
            save_file(state, folder / f"{case.__name__}{rank()}.safetensors")
    assert processes().size == world_size() == 2
    dist.destroy_process_group()
    # the first process is still the first one, and nobody waits for a second group
    found["left"] = [rank(), is_main(), world_size(), processes().size]
    (folder / f"found{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

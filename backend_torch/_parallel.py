"""What the steps of a training do together with those of other processes: data parallelism by collectives.

Gradients and figures are those of the batches of all processes together, also where their shares differ in
size. ``DistributedDataParallel`` would weigh the processes alike, needs every parameter in every backward
pass, and leaves the statistics of batch norms to one process; here one sum of all gradients follows the
backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from prunekit.backend_torch._shares import Shares, is_sharded
from prunekit.backend_torch.distributed import check_same, processes
from prunekit.backend_torch.observe import shares_of, totals
from prunekit.backend_torch.state import get_state
from prunekit.core import processes as core
from prunekit.core.errors import DataError
from prunekit.core.plan import PruningPlan
from prunekit.core.recipe import Recipe
from prunekit.core.training import Callback, steps_of

__all__ = ["Team"]

Validator = Callable[[], dict[str, float]] | None


class Team:
    """The processes of one training; alone, every method leaves things as they are."""

    def __init__(self) -> None:
        """Find out who takes part."""
        self.processes = processes()
        self.alone = self.processes.size == 1

    def share(self, loader: Iterable[Any], seed: int, sharded: bool | None) -> Iterable[Any]:
        """This process's part of a loader; one that is sharded already is taken as it is."""
        if self.alone or (is_sharded(loader) if sharded is None else sharded):
            return loader
        return Shares(loader, self.processes, seed)

    def check(
        self, model: nn.Module, plan: PruningPlan | None, teacher: nn.Module | None, recipe: Recipe, loader: Any
    ) -> None:
        """Make sure that all processes are about to do the same.

        Raises:
            PlanError: Their plans differ.
            InputError: Their weights or recipes differ.
            DataError: They would take different numbers of steps.
        """
        if self.alone:
            return
        check_same(model, plan)
        if teacher is not None:
            core.check_same(self.processes, get_state(teacher, copy=False), what="the teacher")
        self.processes.require_same(repr(recipe), "train by the same recipe", "give every process the same one")
        steps = steps_of(loader, recipe)
        self.processes.require_same(
            str(steps),
            f"take the same number of steps (here {steps} an epoch)",
            "give every process as many batches, or set steps_per_epoch",
            DataError,
        )

    def figures(self, loss: Tensor, right: Tensor, count: int) -> tuple[Tensor | None, tuple[Any, Any, Any]]:
        """Of a step: this process's weight in the loss, and (mean loss, right answers, examples) of all."""
        if self.alone:
            return None, (loss, right, count)
        if count == 0:  # an example that is there for the sake of the step alone
            loss, right = torch.zeros_like(loss), torch.zeros_like(right)
        sums = torch.stack([loss.double() * count, right.double(), torch.full_like(loss, count, dtype=torch.float64)])
        dist.all_reduce(sums)
        return count / sums[2], (sums[0] / sums[2], sums[1], sums[2])

    def add_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its sum over the processes.

        A parameter that has none in any process keeps none, so that its decay and momentum rest as well.
        """
        if self.alone:
            return
        kinds: dict[torch.dtype, list[nn.Parameter]] = {}
        for p in model.parameters():
            if p.requires_grad:
                kinds.setdefault(p.dtype, []).append(p)
        for same in kinds.values():
            _sum_gradients(same)

    def settle_buffers(self, model: nn.Module) -> None:
        """Statistics of norms as the mean over the processes, all other buffers as in process 0."""
        if self.alone:
            return
        statistics = {
            id(b) for m in model.modules() if isinstance(m, _NormBase) for b in (m.running_mean, m.running_var)
        }
        with torch.no_grad():
            for buffer in model.buffers():
                value = buffer.to(torch.uint8) if buffer.dtype == torch.bool else buffer.clone()
                dist.broadcast(value, 0)
                if id(buffer) in statistics:
                    # the mean of differences: what is equal everywhere stays exactly as it is
                    differences = buffer - value
                    dist.all_reduce(differences)
                    value += differences / self.processes.size
                buffer.copy_(value)

    def validator(self, model: nn.Module, loader: Iterable[Any] | None, seed: int, sharded: bool | None) -> Validator:
        """Evaluates the network on the shares of all processes; None without a loader."""
        if loader is None:
            return None
        share = self.share(loader, seed, sharded)

        def validate() -> dict[str, float]:
            batches = (part.batch for part in share if part.count != 0) if isinstance(share, Shares) else share
            sums = totals(model, batches)
            if not self.alone:
                dist.all_reduce(sums)
            return shares_of(sums)

        return validate

    def callbacks(self, model: nn.Module, own: Sequence[Callback]) -> list[Callback]:
        """The callbacks of a training, before which buffers are made the same in all processes."""
        return [*own] if self.alone else [_Settling(self, model), *own]


class _Settling:
    """The same buffers in all processes before anything looks at the network."""

    def __init__(self, team: Team, model: nn.Module) -> None:
        self._team, self._model = team, model

    def epoch_begin(self, epoch: int) -> None:
        """Nothing: they are the same still."""

    def epoch_end(self, epoch: int) -> None:
        """Make them the same."""
        self._team.settle_buffers(self._model)


def _sum_gradients(parameters: list[nn.Parameter]) -> None:
    there = [p.grad is not None for p in parameters]
    parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    # who has a gradient goes along, so that all of it is one collective
    flags = torch.tensor(there, dtype=parts[0].dtype, device=parts[0].device)
    flat = torch.cat([*parts, flags])
    dist.all_reduce(flat)
    if not all(there):
        there = (flat[-len(parameters) :] > 0).tolist()
    sums = flat[: -len(parameters)].split([p.numel() for p in parameters])
    for p, part, found in zip(parameters, sums, there, strict=True):
        if not found:
            continue
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        p.grad.copy_(part.view(p.shape))

"""Training and pruning by several processes, as ``torchrun`` starts them.

    torchrun --nproc-per-node 2 finetune.py

The same script runs with and without ``torchrun``: ``prune`` decides in process 0 and ``fit`` shares every
batch among the processes by themselves. All processes must make the same calls in the same order; a call
inside ``if is_main():`` that the others do not make would leave them waiting. What goes round is bytes of
text and tensors, never pickled objects.

    small = prune(model, example, macs=0.5)       # the same plan everywhere
    TorchBackend().fit(small, loader, recipe)      # every process takes its share of every batch
    if is_main():
        save(small, "out")
"""

from __future__ import annotations

import atexit
import os
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prunekit.backend_torch.state import get_state
from prunekit.core import processes as core
from prunekit.core.carried import find_plan
from prunekit.core.plan import PruningPlan
from prunekit.core.processes import Processes

__all__ = ["check_same", "is_main", "processes", "rank", "share_plan", "world_size"]

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_seen = _ended = False


def rank() -> int:
    """Number of this process, from 0; 0 where there is no other. It stays when the group is left."""
    return dist.get_rank() if _joined() else int(os.environ["RANK"]) if _ended else 0


def world_size() -> int:
    """Number of processes; 1 where none was launched beside this one, or the group was left."""
    return dist.get_world_size() if _joined() else 1


def is_main() -> bool:
    """Whether this is process 0, the one that writes files and speaks."""
    return rank() == 0


def processes() -> Processes:
    """The processes of the default group.

    Where a launcher gave ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` and the script did not
    call ``torch.distributed.init_process_group``, it is called here, with PyTorch's choice for each kind of
    device (gloo for CPUs, NCCL for CUDA), and undone when the process ends. A group that the script has left is
    not joined again.
    """
    return Processes(rank(), world_size(), _gather) if world_size() > 1 else Processes()


def share_plan(plan: PruningPlan | None) -> PruningPlan:
    """The plan of process 0, in every process; it travels as JSON. All processes must call this.

    Args:
        plan: This process's own plan; only that of process 0 counts, the others may have none.

    Raises:
        PlanError: Process 0 has no plan.
    """
    return core.share_plan(processes(), plan)


def check_same(model: nn.Module, plan: PruningPlan | None = None) -> None:
    """Make sure that all processes have the same plan and weights, by hashes. All processes must call this.

    Args:
        model: A network, pruned or not.
        plan: Its plan; by default the one that it carries, if any.

    Raises:
        PlanError: The plans differ; in every process.
        InputError: The weights or statistics differ; in every process.
    """
    if world_size() > 1:
        core.check_same(processes(), get_state(model, copy=False), plan or find_plan(model))


def _joined() -> bool:
    """Whether there is a process group, which is joined if a launcher prepared one of several processes."""
    global _seen, _ended
    if not dist.is_available():
        return False
    launched = all(os.environ.get(name) for name in _LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1
    if not dist.is_initialized():
        if _seen or not launched:  # who left a group would wait for the others in a second one
            _ended = _seen and launched
            return False
        dist.init_process_group()
        atexit.register(_leave)
    _seen = True
    return True


def _leave() -> None:
    if dist.is_initialized():
        # a process of many was once seen to abort here, at the end of the interpreter: gloo's threads may still hold
        # the last tensors for a moment after the call has returned
        time.sleep(0.2)
        dist.destroy_process_group()


def _gather(own: bytes) -> list[bytes]:
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    lengths = _gathered(torch.tensor([len(own)], dtype=torch.int64, device=device))
    longest = max(1, *(int(n) for n in lengths))
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(own)] = torch.frombuffer(bytearray(own or b"\0"), dtype=torch.uint8)[: len(own)].to(device)
    return [row[: int(n)].cpu().numpy().tobytes() for row, n in zip(_gathered(padded), lengths, strict=True)]


def _gathered(own: Tensor) -> list[Tensor]:
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, own)
    return rows

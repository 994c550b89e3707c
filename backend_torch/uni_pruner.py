"""UniPruning for a PyTorch training loop, under the names of its documentation.

    algo = UniPruner({"frequency": 2, "target_sparsity": 0.5, "input_size": (16, 3, 32, 32)})
    algo.apply(net)
    schedule, = algo.callbacks()
    for epoch in range(1, epochs + 1):
        schedule.epoch_begin(epoch)
        ...  # train one epoch
        schedule.epoch_end(epoch, epochs)
    small = algo.convert(net)

``callbacks()`` may also be handed to the Trainer of Lightning. Weights files are safetensors in place of
``.ckpt``; TorchScript and ONNX files stand in place of ``.mindir`` and ``.air``.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from prunekit.algorithms.uni_pruner import UniPrunerBase
from prunekit.algorithms.uni_schedule import UniSchedule
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core._files import check_seal, read_bytes, write_atomic
from prunekit.core.errors import CheckpointError

__all__ = ["UniPruner", "UniPruningCallback"]


class UniPruningCallback(UniSchedule):
    """The schedule with the hooks of a plain loop (``epoch_begin``, ``epoch_end``, ``train_end``)
    and of a Lightning-style trainer (``on_train_epoch_start``, ``on_train_epoch_end``, ``on_train_end``).

    Such a trainer calls every hook that it knows: those that are not needed here do nothing.
    """

    state_key = "prunekit.uni_pruning"

    def on_train_epoch_start(self, trainer: Any, module: Any = None) -> None:
        """Before an epoch; ``trainer.current_epoch`` counts from 0."""
        self.epoch_begin(int(trainer.current_epoch) + 1)

    def on_train_epoch_end(self, trainer: Any, module: Any = None) -> None:
        """After an epoch; ``trainer.max_epochs`` tells the last one, if it is set."""
        most = getattr(trainer, "max_epochs", None)
        self.epoch_end(int(trainer.current_epoch) + 1, most if most is not None and most > 0 else None)

    def on_train_end(self, trainer: Any = None, module: Any = None) -> None:
        """After the training, however it ended."""
        self.train_end()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: every step is chosen from the weights alone."""
        return {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_") or name in ("setup", "teardown", "load_state_dict"):
            return lambda *_args, **_options: None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class UniPruner(UniPrunerBase):
    """UniPruning bound to PyTorch.

    By default a converted model is exported to TorchScript, and to ONNX where that is installed.
    Checkpoints to convert are safetensors files, or state dicts written by ``torch.save``.
    """

    schedule = UniPruningCallback

    def backend(self) -> TorchBackend:
        return TorchBackend()

    def save_weights(self, model: nn.Module, path: Path) -> None:
        """The state dict under the module's own names; tied tensors are written under each name."""
        tensors: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for name, tensor in model.state_dict().items():
            if not isinstance(tensor, torch.Tensor):  # extra state is no weight
                continue
            plain = tensor.detach().cpu().contiguous()
            # the format refuses two names for one storage
            tensors[name] = plain.clone() if plain.untyped_storage().data_ptr() in seen else plain
            seen.add(plain.untyped_storage().data_ptr())
        write_atomic(path, save_tensors(tensors))

    def read_weights(self, model: nn.Module, path: Path) -> dict[str, Any]:
        """A state dict from a safetensors file, or from one of ``torch.save`` without unpickling code.

        Raises:
            CheckpointError: The file is missing, truncated, or holds something else.
        """
        try:
            data = read_bytes(path, sys.maxsize)
            check_seal(path, data)
        except (OSError, ValueError, MemoryError) as error:
            raise CheckpointError(f"a checkpoint must be a readable, whole file, got {path} ({error})") from error
        try:
            tensors = _unzipped(path, data) if data[:2] == b"PK" else load_tensors(data)
            if not isinstance(tensors, Mapping) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
                raise CheckpointError(
                    f"a checkpoint must map names to tensors, got other data in {path}; is it a state dict?"
                )
            return {
                str(n): (t.float() if t.dtype == torch.bfloat16 else t).detach().numpy() for n, t in tensors.items()
            }
        except CheckpointError:
            raise
        except Exception as error:  # each format has errors of its own
            raise CheckpointError(
                f"a checkpoint must be a safetensors file or a torch.save'd state dict, got {path} "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); is it complete?"
            ) from error


def _unzipped(path: Path, data: bytes) -> Any:
    """What ``torch.save`` wrote, which it never compresses: what is compressed may unpack to anything."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise CheckpointError(
                f"a checkpoint must be as torch.save wrote it, got a compressed one in {path}; save again"
            )
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

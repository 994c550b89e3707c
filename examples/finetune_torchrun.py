"""Prune a network to half of its multiply-accumulates and fine-tune it, by one process or by several.

    python examples/finetune_torchrun.py
    torchrun --nproc-per-node 2 examples/finetune_torchrun.py

The script is the same for both. Under torchrun, process 0 decides which channels go and the others take its plan;
every process trains on its share of each batch, and all end with the same network, which process 0 saves.

ResNet-20 on scikit-learn's digits, or with ``--data fashion-mnist`` on that. ``--base`` names a folder of trained
weights (what ``save`` wrote, or ``original`` of a run); without it a base network is trained first, by all processes.
"""

from __future__ import annotations

import argparse
import os

import torch

from prunekit.backend_torch import TorchBackend, load, plan_of, prune, save
from prunekit.backend_torch.distributed import is_main, world_size
from prunekit.core.recipe import Recipe


def main() -> None:
    """Load or train the base network, prune, fine-tune, save."""
    options = _options()
    backend = TorchBackend()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    torch.set_num_threads(max(1, torch.get_num_threads() // world_size()))

    # the batch size is that of all processes together
    data = backend.loaders(options.data, options.batch_size, **({"limit": options.limit} if options.limit else {}))
    model = backend.build_model("resnet20", seed=0, in_channels=data.shape[0], num_classes=len(data.classes))
    recipe = Recipe(epochs=options.epochs, lr=0.1, schedule="onecycle", nesterov=True)
    if options.base:
        model = load(model, options.base)
    model.to(device)
    if not options.base:
        backend.fit(model, data.train, recipe, validation=data.validation)

    small = prune(model, torch.zeros(1, *data.shape, device=device), macs=0.5)
    whole, kept = plan_of(small).achieved["macs"]
    result = backend.fit(small, data.train, recipe, validation=data.validation)

    if is_main():
        save(small, options.out)
        top1 = backend.evaluate(small, data.test)["top1"]
        print(f"{world_size()} process(es), {result.steps} steps: {kept:,} of {whole:,} MACs, top-1 {top1:.4f}")
        print(f"saved in {options.out}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="name of an image set")
    parser.add_argument("--limit", type=int, help="use only so many training images")
    parser.add_argument("--base", help="folder of trained weights")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default="outputs/finetune_torchrun")
    return parser.parse_args()


if __name__ == "__main__":
    main()

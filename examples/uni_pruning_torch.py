"""UniPruning in a plain PyTorch training loop.

python examples/uni_pruning_torch.py [--epochs 4]
"""

import argparse

import torch
import torch.nn.functional as F

from prunekit.backend_torch import TorchBackend, UniPruner, plan_of

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--limit", type=int, help="Images of each part.")
asked = parser.parse_args()

backend = TorchBackend()
data = backend.loaders("digits", 64, limit=asked.limit)
model = backend.build_model("resnet20", seed=0, in_channels=data.shape[0])

pruner = UniPruner(
    {
        "exp_name": "loop",
        "frequency": 2,  # epochs between two steps
        "target_sparsity": 0.5,  # share of the parameters that goes
        "pruning_step": 4,
        "filter_lower_threshold": 4,
        "input_size": (1, *data.shape),
        "output_path": "outputs/examples",
    },
    formats=["torchscript"],
)
pruner.apply(model)
schedule = pruner.callbacks()[0]

optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(1, asked.epochs + 1):
    schedule.epoch_begin(epoch)
    model.train()
    for images, labels in data.train:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    schedule.epoch_end(epoch, asked.epochs)

small = pruner.convert(model)
print("test accuracy", backend.evaluate(small, data.test)["top1"], plan_of(small).achieved)

"""EagleEye on Fashion-MNIST (or digits, where that is not installed), in Python instead of by a configuration.

python examples/eagle_eye.py [--candidates 20] [--epochs 2]
"""

import argparse

from prunekit.algorithms.eagle_eye import EagleEye
from prunekit.backend_torch import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.method import Task
from prunekit.core.recipe import Recipe

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--candidates", type=int, default=20)
parser.add_argument("--epochs", type=float, default=2)
parser.add_argument("--limit", type=int, help="Images of each part.")
asked = parser.parse_args()

backend = TorchBackend()
data = backend.loaders("fashion-mnist-or-digits", 128, size=14, limit=asked.limit)
model = backend.build_model("resnet20", seed=0, in_channels=data.shape[0])
recipe = Recipe(epochs=asked.epochs, lr=0.2, schedule="onecycle", weight_decay=5e-4)
backend.fit(model, data.train, recipe)

analysis = analyse(backend, model, backend.example((1, *data.shape)))
method = EagleEye(
    {"flops_target": 0.5, "candidates": asked.candidates, "bn_batches": min(5, len(data.train)), "search": "halving"}
)
outcome = method.run(Task(analysis, data, model="resnet20", finetune=recipe, say=print))

small = backend.apply(outcome.analysis, outcome.plan)
backend.fit(small, data.train, Recipe(epochs=asked.epochs, lr=0.05, schedule="linear", weight_decay=5e-4))
for name, net in (("whole", model), ("pruned", small)):
    print(f"{name:7s} {sum(p.numel() for p in net.parameters()):7d} parameters, ", end="")
    print(f"test accuracy {backend.evaluate(net, data.test)['top1']:.3f}")

"""PruneEA: a Pareto front of accuracy, multiply-accumulates and parameters, by NSGA-III.

python examples/pareto_search.py [--generations 4]
"""

import argparse

from prunekit.algorithms.prune_ea import PruneEA
from prunekit.backend_torch import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.method import Task
from prunekit.core.recipe import Recipe

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--generations", type=int, default=4)
parser.add_argument("--individuals", type=int, default=12)
parser.add_argument("--limit", type=int, help="Images of each part.")
asked = parser.parse_args()

backend = TorchBackend()
data = backend.loaders("digits", 64, limit=asked.limit)
model = backend.build_model("resnet20", seed=0, in_channels=data.shape[0])
backend.fit(model, data.train, Recipe(epochs=3, lr=0.1, schedule="onecycle"))

method = PruneEA(
    {
        "objectives": ["accuracy", "macs", "params"],
        "num_generation": asked.generations,
        "num_individual": asked.individuals,
        "random_models": asked.individuals,
        "bn_batches": 2,
        "train_front": 2,
        "macs": 0.6,
    }
)
analysis = analyse(backend, model, backend.example((1, *data.shape)))
outcome = method.run(Task(analysis, data, model="resnet20", finetune=Recipe(epochs=1, lr=0.05), say=print))
small = backend.apply(outcome.analysis, outcome.plan)
print(outcome.figures)
print("test accuracy", backend.evaluate(small, data.test)["top1"])

"""A criterion of your own: channels whose weights hardly differ from each other go first.

python examples/custom_criterion.py
"""

import numpy as np

from prunekit.backend_torch import TorchBackend, plan_of, prune


def spread(group, state):
    """One score for each channel, ``(size,)``: the standard deviation of the weights that make it."""
    parts = []
    for member in group.producers:
        weight = np.moveaxis(state[member.name], member.axis, 0)
        parts.append(weight[member.indices].reshape(group.size, -1).std(axis=1))
    return np.mean(parts, axis=0)


backend = TorchBackend()
model = backend.build_model("resnet20", seed=0).eval()
small = prune(model, backend.example((1, 3, 32, 32)), macs=0.5, importance=spread)
for name, kept in list(plan_of(small).kept.items())[:5]:
    print(f"{name}: {len(kept)} channels stay")

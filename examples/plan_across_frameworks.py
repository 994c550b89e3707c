"""A plan that was found in PyTorch cuts the same network in MindSpore; both then compute the same.

python examples/plan_across_frameworks.py
"""

from pathlib import Path

import prunekit.backend_mindspore  # isort: skip  (before mindspore)
import numpy as np

from prunekit.backend_torch import TorchBackend, plan_of, prune
from prunekit.core.analysis import analyse
from prunekit.core.plan import PruningPlan

shape = (4, 3, 32, 32)
images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
torch_backend, mindspore_backend = TorchBackend(), prunekit.backend_mindspore.MindSporeBackend()

model = torch_backend.build_model("resnet20", seed=0).eval()
small = prune(model, torch_backend.example(shape), params=0.4, importance="l1")
file = Path("outputs/examples/plan.json")
file.parent.mkdir(parents=True, exist_ok=True)
plan_of(small).save(file)

net = mindspore_backend.build_model("resnet20").set_train(False)
mindspore_backend.set_state(net, torch_backend.get_state(model))  # the trained weights, under the same names
analysis = analyse(mindspore_backend, net, mindspore_backend.example(shape))
small_net = mindspore_backend.apply(analysis, PruningPlan.load(file))

difference = np.abs(torch_backend.predict(small, images) - mindspore_backend.predict(small_net, images)).max()
print(f"largest difference between the two cut networks: {difference:.1e}")
assert difference < 1e-3

"""Prune a torchvision network in ten lines: half of its multiply-accumulates go, and the folder loads anywhere.

python examples/prune_torchvision.py
"""

from pathlib import Path

import torch

from prunekit.backend_torch import TorchBackend, inspect, load, prune, save

build = TorchBackend().build_model  # or torchvision.models.resnet18(weights="DEFAULT"), for a trained one
image = torch.randn(1, 3, 224, 224)
model = build("torchvision:resnet18").eval()
print(inspect(model, image))
small = prune(model, image, macs=0.5)
out = Path("outputs/examples/resnet18")
save(small, out)
again = load(build("torchvision:resnet18").eval(), out)
torch.testing.assert_close(again(image), small.eval()(image))
print(sum(p.numel() for p in model.parameters()), "->", sum(p.numel() for p in small.parameters()), "parameters")

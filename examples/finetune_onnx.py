"""Train, prune, fine-tune, export to ONNX, and run the file by ONNX Runtime.

python examples/finetune_onnx.py [--epochs 3] [--data fashion-mnist-or-digits]
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

from prunekit.backend_torch import TorchBackend, export, prune
from prunekit.core.recipe import Recipe

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=float, default=3)
parser.add_argument("--data", default="fashion-mnist-or-digits")
parser.add_argument("--limit", type=int, help="Images of each part.")
asked = parser.parse_args()

backend = TorchBackend()
data = backend.loaders(asked.data, 64, size=14, limit=asked.limit)
model = backend.build_model("resnet20", seed=0, in_channels=data.shape[0], num_classes=len(data.classes))
recipe = Recipe(epochs=asked.epochs, lr=0.2, schedule="onecycle", weight_decay=5e-4)
backend.fit(model, data.train, recipe)
before = backend.evaluate(model, data.test)["top1"]

image = backend.example((1, *data.shape))
small = prune(model, image, macs=0.5)
backend.fit(small, data.train, Recipe(epochs=asked.epochs, lr=0.05, schedule="linear", weight_decay=5e-4))
path = export(small, image, Path("outputs/examples/resnet20.onnx"))

session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
right = total = 0
for images, labels in data.test:
    for start in range(len(images)):  # the file was exported for one image
        (logits,) = session.run(None, {session.get_inputs()[0].name: np.asarray(images[start : start + 1])})
        right += int(logits.argmax(1)[0] == int(labels[start]))
    total += len(images)
    if total >= 500:
        break
print(f"test accuracy {before:.3f} before, {right / total:.3f} by ONNX Runtime with half of the MACs")

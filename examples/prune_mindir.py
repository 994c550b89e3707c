"""Prune a MindSpore network and export it to MINDIR, which MindSpore Lite converts for a phone or an Ascend card.

python examples/prune_mindir.py
"""

from pathlib import Path

from prunekit.backend_mindspore import MindSporeBackend, export, plan_of, prune  # isort: skip  (before mindspore)
import mindspore as ms
import numpy as np

backend = MindSporeBackend()
image = backend.example((1, 3, 32, 32))
net = backend.build_model("resnet20", seed=0).set_train(False)
small = prune(net, image, macs=0.5)
path = export(small, image, Path("outputs/examples/resnet20.mindir"))

loaded = ms.nn.GraphCell(ms.load(str(path)))  # what another program does with the file
np.testing.assert_allclose(loaded(image).asnumpy(), small(image).asnumpy(), rtol=1e-3, atol=1e-4)
print(path, path.stat().st_size, "bytes;", plan_of(small).achieved)

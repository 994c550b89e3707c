"""UniPruning in a MindSpore script: `Model.train` with a callback, as with Golden Stick.

python examples/uni_pruning_mindspore.py [--epochs 2]
"""

import argparse

from prunekit.backend_mindspore import MindSporeBackend, UniPruner, plan_of  # isort: skip  (before mindspore)
import mindspore as ms
from mindspore import nn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--limit", type=int, help="Images of each part.")
asked = parser.parse_args()

ms.set_context(mode=ms.PYNATIVE_MODE)
backend = MindSporeBackend()
data = backend.loaders("digits", 64, limit=asked.limit)
net = backend.build_model("resnet20", seed=0, in_channels=data.shape[0])

pruner = UniPruner(
    {
        "exp_name": "model-train",
        "frequency": 1,
        "target_sparsity": 0.5,
        "pruning_step": 4,
        "filter_lower_threshold": 4,
        "input_size": (1, *data.shape),
        "output_path": "outputs/examples",
    }
)
pruner.apply(net)

loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
optimizer = nn.Momentum(net.trainable_params(), learning_rate=0.05, momentum=0.9)
batches = ms.dataset.GeneratorDataset(list(data.train), ["image", "label"], shuffle=False)
ms.Model(net, loss, optimizer).train(asked.epochs, batches, callbacks=pruner.callbacks(), dataset_sink_mode=False)

small = pruner.convert(net)
print("test accuracy", backend.evaluate(small, data.test)["top1"], plan_of(small).achieved)

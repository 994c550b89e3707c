"""UniPruning with Lightning: the pruner's callbacks go to the Trainer.

pip install lightning
python examples/uni_pruning_lightning.py [--epochs 3]
"""

import argparse

import lightning
import torch
import torch.nn.functional as F

from prunekit.backend_torch import TorchBackend, UniPruner, plan_of

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--limit", type=int, help="Images of each part.")
asked = parser.parse_args()

backend = TorchBackend()
data = backend.loaders("digits", 64, limit=asked.limit)


class Classifier(lightning.LightningModule):
    """A network, its loss and its optimizer."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


module = Classifier(backend.build_model("resnet20", seed=0, in_channels=data.shape[0]))
pruner = UniPruner(
    {
        "exp_name": "lightning",
        "frequency": 1,
        "target_sparsity": 0.5,
        "pruning_step": 4,
        "filter_lower_threshold": 4,
        "input_size": (1, *data.shape),
        "output_path": "outputs/examples",
    },
    formats=["torchscript"],
)
pruner.apply(module.net)
trainer = lightning.Trainer(
    max_epochs=asked.epochs, callbacks=pruner.callbacks(), accelerator="cpu", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(module, data.train)
small = pruner.convert(module.net)
print("test accuracy", backend.evaluate(small, data.test)["top1"], plan_of(small).achieved)

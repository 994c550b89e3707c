"""An op of your own is unknown, so its channels stay, until prunekit is taught what it does to them.

python examples/custom_op.py
"""

import torch
from torch import nn

from prunekit.backend_torch import TorchBackend, inspect, prune, register_op
from prunekit.core.verification import verify


@torch.library.custom_op("example::swish", mutates_args=())
def swish(x: torch.Tensor) -> torch.Tensor:
    """A kernel that PyTorch cannot look into."""
    return x * torch.sigmoid(x)


swish.register_fake(torch.empty_like)


class Net(nn.Module):
    """Two layers with the op between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(swish(self.one(x)))


example = torch.randn(3, 6)
print("before:", [f"{row.name} stays: {row.reason}" for row in inspect(Net(), example).frozen])
register_op("example::swish", "elementwise")
print("after: ", [f"{group.name} may be cut" for group in inspect(Net(), example).groups])
print("law:   ", verify(TorchBackend(), Net(), example).status)
print(prune(Net(), example, ratio=0.5))

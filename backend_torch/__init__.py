"""prunekit for PyTorch: trace, cut, mask, train, measure, save and export."""

if __name__ != "prunekit.backend_torch":  # a second copy would have classes of its own, and isinstance would fail
    raise ImportError(
        f"this package must be imported as prunekit.backend_torch, got {__name__}; "
        "take the repository root off sys.path and install it with `pip install -e .`"
    )

from prunekit.core._optional import import_optional

import_optional("torch", "networks of PyTorch", "'prunekit[torch]'")

from prunekit.backend_torch.backend import TorchBackend  # noqa: E402
from prunekit.backend_torch.uni_pruner import UniPruner  # noqa: E402
from prunekit.core.custom_ops import register_op  # noqa: E402
from prunekit.core.face import Face  # noqa: E402

_face = Face(TorchBackend())
inspect = _face.inspect
prune = _face.prune
plan_of = _face.plan_of
save = _face.save
load = _face.load
export = _face.export

__all__ = ["TorchBackend", "UniPruner", "export", "inspect", "load", "plan_of", "prune", "register_op", "save"]

"""prunekit for MindSpore: trace, cut, mask, train, measure, save and export."""

if __name__ != "prunekit.backend_mindspore":  # a second copy would have classes of its own
    raise ImportError(
        f"this package must be imported as prunekit.backend_mindspore, got {__name__}; "
        "take the repository root off sys.path and install it with `pip install -e .`"
    )

from prunekit.backend_mindspore._runtime import limit_threads, prepare
from prunekit.core._optional import import_optional

prepare()  # before MindSpore is imported
import_optional("mindspore", "networks of MindSpore", "'prunekit[mindspore]'")

from prunekit.backend_mindspore.backend import MindSporeBackend  # noqa: E402
from prunekit.backend_mindspore.uni_pruner import UniPruner  # noqa: E402
from prunekit.core.custom_ops import register_op  # noqa: E402
from prunekit.core.face import Face  # noqa: E402

limit_threads()

_face = Face(MindSporeBackend())
inspect = _face.inspect
prune = _face.prune
plan_of = _face.plan_of
save = _face.save
load = _face.load
export = _face.export

__all__ = ["MindSporeBackend", "UniPruner", "export", "inspect", "load", "plan_of", "prune", "register_op", "save"]

"""torchvision, also where its compiled operators do not fit the installed torch."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

from prunekit.core.errors import MissingDependencyError

__all__ = ["import_torchvision"]

_libraries: list[Any] = []  # a library's operators live as long as it does


def import_torchvision() -> Any:
    """The module ``torchvision``.

    A torchvision that was built against another torch (a CUDA build beside a CPU torch) cannot load its
    compiled operators, and its import fails for want of two of them. Their bare declarations are enough
    for models, transforms and datasets, so they are declared where, and only where, the import fails.

    Raises:
        MissingDependencyError: torchvision is not installed, or does not work with the installed torch.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise MissingDependencyError(
            "torchvision's models and image transforms need torchvision, which is not installed; "
            "run `pip install prunekit[torch]`"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise MissingDependencyError(f"torchvision must fit torch {torch.__version__}, got {error}") from error
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # the failed import left half a package behind
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
    return importlib.import_module("torchvision")

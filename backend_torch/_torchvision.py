"""torchvision, also where its compiled operators do not fit the installed torch."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import torch

from prunekit.core._optional import import_optional
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
        return import_optional("torchvision", "torchvision's models and image transforms", "'prunekit[torch]'")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise MissingDependencyError(f"torchvision must fit torch {torch.__version__}, got {error}") from error
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # the failed import left half a package behind
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )
    library.impl("nms", _nms, "CompositeExplicitAutograd")
    _libraries.append(library)
    torchvision = importlib.import_module("torchvision")
    aligning = sys.modules["torchvision.ops.roi_align"]
    plain = inspect.unwrap(aligning._roi_align)  # not the one that torch.compile gets to see
    library.impl("roi_align", plain, "CompositeExplicitAutograd")
    # what detectors ask before they call the two
    for module in (sys.modules["torchvision.extension"], aligning):
        module._has_ops = lambda: True  # type: ignore[attr-defined]
    return torchvision


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of boxes ``(N, 4)``, best score first, that overlap no better one by more than a threshold."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    areas = sides[:, 0] * sides[:, 1]
    gone = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    kept = []
    for k in range(len(boxes)):
        if gone[k]:
            continue
        kept.append(k)
        low = torch.maximum(boxes[k, :2], boxes[:, :2])
        overlap = (torch.minimum(boxes[k, 2:], boxes[:, 2:]) - low).clamp(min=0)
        shared = overlap[:, 0] * overlap[:, 1]
        gone |= shared > iou_threshold * (areas[k] + areas - shared)
    return order[torch.tensor(kept, dtype=torch.int64, device=boxes.device)]

"""Which public networks the law is checked on: one small network of each family, from the libraries' own lists."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["LISTS", "Check"]


@dataclass(frozen=True)
class Check:
    """One call of `prunekit verify`."""

    library: str
    family: str
    model: str
    backend: str = "torch"
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return " ".join((self.model, *(o for o in self.options if o == "head_dim")))

    def arguments(self) -> list[str]:
        return ["--backend", self.backend, *self.options]


def _smallest(names: Iterable[str], size: Callable[[str], float]) -> str:
    return min(names, key=lambda name: (size(name), len(name), name))


def timm() -> Iterator[Check]:
    """Of each module of timm, and each stem of a name in it, the network with the fewest parameters."""
    import torch

    from prunekit.backend_torch._torchvision import import_torchvision

    warnings.simplefilter("ignore")
    import_torchvision()
    import timm
    from timm.models._registry import _module_to_models

    def size(name: str) -> float:
        try:
            with torch.device("meta"):
                return sum(p.numel() for p in timm.create_model(name).parameters())
        except (NotImplementedError, RuntimeError):  # values are needed while it is built
            return sum(p.numel() for p in timm.create_model(name).parameters())

    known = set(timm.list_models())  # without the names that are kept for old scripts
    for module, names in sorted(_module_to_models.items()):
        stems: dict[str, list[str]] = {}
        for name in sorted(names & known):
            if not name.startswith("test_"):
                stems.setdefault(re.match(r"[a-z]+(?:v\d+)?[a-z]*", name).group(0), []).append(name)
        for stem, family in sorted(stems.items()):
            yield Check("timm", f"{module}/{stem}", f"timm:{_smallest(_likely(family), size)}")


def _likely(names: list[str]) -> list[str]:
    """The few whose names sound small; to build all would take an hour."""
    words = re.compile("zepto|atto|femto|pico|nano|xxs|tiny|xs|mini|small|_s|_0|18|26|00mf")
    return sorted(
        names,
        key=lambda n: (
            words.search(n) is None,
            any(w in n for w in ("huge", "giant", "_1b", "_3b", "_7b")),
            len(n),
            n,
        ),
    )[:6]


def mindcv() -> Iterator[Check]:
    """Of each module of mindcv, and each stem of a name in it, the network with the fewest parameters."""
    warnings.simplefilter("ignore")
    import prunekit.backend_mindspore  # noqa: F401, I001  (before MindSpore: it sets what its kernels read)
    import mindcv
    from mindcv.models.registry import _module_to_models
    from mindspore.nn.utils import no_init_parameters

    def size(name: str) -> float:
        try:
            with no_init_parameters():
                return sum(p.size for p in mindcv.create_model(name, pretrained=False).get_parameters())
        except Exception:  # values are needed while it is built, or mindcv cannot build it
            return float("inf")

    for module, names in sorted(_module_to_models.items()):
        stems: dict[str, list[str]] = {}
        for name in sorted(names):
            stems.setdefault(_mindcv_stem(name), []).append(name)
        for stem, family in sorted(stems.items()):
            likely = _likely(family)[:3]
            name = min(likely, key=size) if len(likely) > 1 else likely[0]  # the likeliest of equals
            yield Check("mindcv", f"{module}/{stem}", f"mindcv:{name}", "mindspore", ("--mode-seeds", "1"))


def _mindcv_stem(name: str) -> str:
    """What is left of a name without sizes: ``coat_lite`` of ``coat_lite_tiny``, ``regnet_y`` of ``regnet_y_200mf``."""
    sizes = ("tiny", "small", "medium", "base", "large", "huge", "mini", "nano", "pico", "femto", "atto", "plus")
    words = re.sub(r"_x+_?(small|large)", "", name.lower()).split("_")
    named = (re.match(r"v\d\w*|[xy]$|res2net|[a-z]+v\d|[a-z]{3,}", word) for word in words if word not in sizes)
    return "_".join(word.group() for word in named if word)


def torchvision() -> Iterator[Check]:
    """All of torchvision, quantised networks apart; transformers under both policies for attention."""
    from prunekit.backend_torch._torchvision import import_torchvision

    models = import_torchvision().models
    for home in ("classification", "segmentation", "detection", "video", "optical_flow"):
        module = models if home == "classification" else getattr(models, home)
        for name in models.list_models(module):
            given = _settings(name) if home == "detection" else ()
            if name in _GIANTS:
                given = ("--seeds", "1")
            yield Check("torchvision", home, f"torchvision:{name}", options=given)
            if re.match(r"(vit|swin|maxvit|mvit)", name) and name not in _GIANTS:
                yield Check("torchvision", home, f"torchvision:{name}", options=("--attention", "head_dim"))


def _settings(name: str) -> tuple[str, ...]:
    """Untrained detectors find nothing above the usual scores, and networks that return nothing are all alike."""
    if "rcnn" in name:
        options = ["box_score_thresh=0", "rpn_pre_nms_top_n_test=200", "rpn_post_nms_top_n_test=40"]
    else:
        # of equal scores, of which there are many further down, rounding decides which comes first
        options = ["score_thresh=0", "topk_candidates=50", "detections_per_img=10"]
    return tuple(part for option in options for part in ("--set", option))


_GIANTS = {"regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32"}


def transformers() -> Iterator[Check]:
    """The families that are asked for most, with a head where there is one, so that hidden widths are free."""
    for name, options in _TRANSFORMERS.items():
        given = tuple(part for key, value in options.items() for part in ("--set", f"{key}={value}"))
        yield Check("transformers", name, f"transformers:{name}", options=given)


_TEXT = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 200,
}
_IMAGE = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "image_size": 64,
}
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": _TEXT,
    "BertForMaskedLM": _TEXT,
    "RobertaForSequenceClassification": _TEXT,
    "DistilBertForSequenceClassification": {
        "dim": 96,
        "hidden_dim": 192,
        "n_heads": 4,
        "n_layers": 2,
        "vocab_size": 200,
    },
    "ViTForImageClassification": _IMAGE,
    "DeiTForImageClassification": _IMAGE,
    "SwinForImageClassification": {"image_size": 224},
    "ConvNextForImageClassification": {},
    "SegformerForSemanticSegmentation": {},
    "SegformerForImageClassification": {},
    "DetrForObjectDetection": {"encoder_layers": 2, "decoder_layers": 2},
    "GPT2LMHeadModel": {"n_embd": 96, "n_head": 4, "n_layer": 2, "vocab_size": 200},
    "GPT2ForSequenceClassification": {"n_embd": 96, "n_head": 4, "n_layer": 2, "vocab_size": 200, "pad_token_id": 0},
    "LlamaForCausalLM": _TEXT | {"num_key_value_heads": 2},
    "T5ForConditionalGeneration": {},
}


LISTS: dict[str, Callable[[], Iterator[Check]]] = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
    "mindcv": mindcv,
}

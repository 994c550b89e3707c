"""Vega's own configuration of PruneEA, ``prune.yml``, as a configuration of prunekit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError

__all__ = ["is_vega", "translate"]

_MODELS = {20: "resnet20", 32: "resnet32", 56: "resnet56"}
_WIDTHS = (16, 32, 64)  # of the stages
_TYPES = {
    "search_algorithm.type": "PruneEA",
    "search_algorithm.codec": "PruneCodec",
    "search_space.type": "SearchSpace",
    "search_space.modules": ["backbone", "head"],
    "backbone.type": "ResNetGeneral",
    "backbone.stage": len(_WIDTHS),
    "backbone.base_channel": _WIDTHS[0],
    "head.type": "LinearClassificationHead",
    "head.base_channel": _WIDTHS[-1],
}
_KEYS = {
    "nas": ("search_algorithm", "search_space"),
    "search_algorithm": ("type", "codec", "policy"),
    "search_space": ("type", "modules", "backbone", "head"),
    "backbone": ("type", "stage", "base_depth", "base_channel"),
    "head": ("type", "base_channel", "num_classes"),
}
# such a file says nothing of the trainings that prunekit needs: short ones, for --set to change
_TRAINING = {"epochs": 5, "lr": 0.2, "schedule": "onecycle", "weight_decay": 5e-4, "channels_last": True}
_FINETUNE = {"epochs": 2, "lr": 0.05, "schedule": "linear", "weight_decay": 5e-4, "channels_last": True}
_METHOD = {"bn_batches": 10}  # as many as the smallest data set has


def is_vega(data: Mapping[str, Any]) -> bool:
    """Whether a configuration is written as Vega has it."""
    return "nas" in data


def translate(data: Mapping[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The same search in prunekit's words.

    Vega's sections for its pipeline, trainers and data sets are passed over, with one warning that names them.

    Args:
        data: What the file holds.
        own: Sections of prunekit, which may stand beside ``nas`` and are taken as they are.

    Raises:
        ConfigError: A section is missing, a key is misspelt, or the network is none that the method knows.
    """
    passed = [str(key) for key in data if key != "nas" and key not in own]
    nas = _section(data, "nas", "", passed)
    algorithm = _section(nas, "search_algorithm", "nas.", passed)
    space = _section(nas, "search_space", "nas.", passed)
    backbone = _section(space, "backbone", "nas.search_space.", passed)
    head = _section(space, "head", "nas.search_space.", passed)
    policy = algorithm.get("policy") or {}
    if not isinstance(policy, Mapping):
        raise ConfigError(f"policy must be a section of keys and values, got {policy!r}; indent its keys under it")
    model = {"name": _model(backbone, policy), "options": _options(head)}
    if passed:
        logging.getLogger("prunekit").warning(
            f"of Vega's keys these are passed over, as prunekit has its own for them: {', '.join(passed)}"
        )
    mine = {key: value for key, value in data.items() if key in own}
    return {
        "training": dict(_TRAINING),
        "finetune": dict(_FINETUNE),
        **mine,
        "model": {**model, **_own(mine, "model")},
        "method": {"name": "prune_ea", **_METHOD, **policy, **_own(mine, "method")},
    }


def _own(mine: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of prunekit's own that stands beside Vega's."""
    section = mine.get(name) or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name} must be a section of keys and values, got {section!r}; indent its keys under it")
    return section


def _section(data: Mapping[str, Any], name: str, inside: str, passed: list[str]) -> dict[str, Any]:
    """A section, its keys checked; keys that are none of the method's are noted and left out."""
    section = data.get(name)
    if not isinstance(section, Mapping):
        what = "nothing" if section is None else repr(section)
        raise ConfigError(f"{inside}{name} must be a section of keys and values, got {what}; see Vega's prune.yml")
    known = _KEYS[name]
    for key, value in section.items():
        wanted = _TYPES.get(f"{name}.{key}", value)
        if value != wanted:
            raise ConfigError(f"{inside}{name}.{key} must be {wanted!r} for PruneEA, got {value!r}; change it")
        if key not in known:
            if get_close_matches(str(key), known, cutoff=0.8):
                raise ConfigError(f"{inside}{name} has no key {key!r}; {nearest(str(key), known)}")
            passed.append(f"{inside}{name}.{key}")
    return {key: value for key, value in section.items() if key in known}


def _model(backbone: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    """The zoo's name of the network; its encoding must be as long as the policy says."""
    depth, length = backbone.get("base_depth"), policy.get("length")
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 8 or (depth - 2) % 6:
        raise ConfigError(f"base_depth must be 6 n + 2, got {depth!r}; use one of {', '.join(map(str, _MODELS))}")
    if depth not in _MODELS:
        raise ConfigError(
            f"base_depth must be one of {', '.join(map(str, _MODELS))}, got {depth}; for another network write a "
            "configuration of prunekit with a function of your own as model.name"
        )
    bits = _WIDTHS[0] + sum(((depth - 2) // 6 + 1) * width for width in _WIDTHS)
    if length is not None and length != bits:
        raise ConfigError(f"length must be {bits} for base_depth={depth}, got length={length!r}; change one of them")
    return _MODELS[depth]


def _options(head: Mapping[str, Any]) -> dict[str, Any]:
    classes = head.get("num_classes")
    if classes is None:
        return {}
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise ConfigError(f"head.num_classes must be a whole number of at least 1, got {classes!r}; change it")
    return {"num_classes": classes}

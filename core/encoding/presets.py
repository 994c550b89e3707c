"""Which layers the published vectors speak of, for networks named as those of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from prunekit.core._names import nearest
from prunekit.core.errors import ConfigError

__all__ = ["eagleeye_layers", "metapruning_genes"]

_Layers = TypeVar("_Layers")

_RESNET50_BLOCKS = (3, 4, 6, 3)


def metapruning_genes(model: str) -> list[list[str]]:
    """Layers that share each id of MetaPruning's vectors.

    ``mobilenetv1``: 13 ids (the last layer is fixed). ``mobilenetv2_metapruning``: 18 of the stages,
    an id for each block, then 17 of the middle layers. ``resnet50``: 4 of the stem and the stages
    (the last is fixed), then 16 of the blocks, each shared by two layers.

    Raises:
        ConfigError: No vector is known for that model.
    """
    return _find(model, _GENES)()


def eagleeye_layers(model: str) -> list[str]:
    """The layer that stands for each rate of EagleEye's strategies: ``mobilenetv1`` 14, ``resnet50`` 37.

    Raises:
        ConfigError: No strategy is known for that model.
    """
    return _find(model, _RATES)()


def _find(model: str, table: Mapping[str, Callable[[], _Layers]]) -> Callable[[], _Layers]:
    if model not in table:
        raise ConfigError(f"model must be one with a published vector, got {model!r}; {nearest(str(model), table)}")
    return table[model]


def _mobilenetv1() -> list[str]:
    return ["conv1", *(f"layers.{block}.conv2" for block in range(13))]


def _mobilenetv2_genes() -> list[list[str]]:
    stages = [["conv1"], *([f"blocks.{block}.conv3"] for block in range(17))]
    return [*stages, *([f"blocks.{block}.conv1"] for block in range(17))]


def _resnet50() -> list[str]:
    layers = ["conv1"]
    for stage, blocks in enumerate(_RESNET50_BLOCKS, start=1):
        layers += [f"layer{stage}.{block}.conv{k}" for block in range(blocks) for k in (1, 2)]
        layers.append(f"layer{stage}.0.conv3")
    return layers


def _resnet50_genes() -> list[list[str]]:
    stages = [["conv1"], *([f"layer{stage}.0.conv3"] for stage in (1, 2, 3))]
    mids = [
        [f"layer{stage}.{block}.conv1", f"layer{stage}.{block}.conv2"]
        for stage, blocks in enumerate(_RESNET50_BLOCKS, start=1)
        for block in range(blocks)
    ]
    return [*stages, *mids]


_RATES: Mapping[str, Callable[[], list[str]]] = {"mobilenetv1": _mobilenetv1, "resnet50": _resnet50}
_GENES: Mapping[str, Callable[[], list[list[str]]]] = {
    "mobilenetv1": lambda: [[layer] for layer in _mobilenetv1()[:-1]],
    "mobilenetv2_metapruning": _mobilenetv2_genes,
    "resnet50": _resnet50_genes,
}

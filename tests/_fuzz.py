"""What is fuzzed: each target hands any bytes to a reader of prunekit, and lets only prunekit's errors pass."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from nets import Mixed

from prunekit.algorithms.uni_pruning import check_mask
from prunekit.algorithms.uni_schedule import read_mask
from prunekit.backend_torch.backend import TorchBackend
from prunekit.cli._yaml import dump, parse
from prunekit.cli.config import RunConfig, load_config
from prunekit.cli.meta import parse_vector
from prunekit.core._json import parse_json
from prunekit.core.coupling.couple import couple
from prunekit.core.coupling.groups import Coupling
from prunekit.core.encoding import ChannelScaleEncoding, PreserveRatioEncoding, PruningRateEncoding, ZeroOneEncoding
from prunekit.core.errors import PrunekitError
from prunekit.core.plan import PruningPlan
from prunekit.core.settings import check
from prunekit.core.strategies import best_first, read_strategies, strategy_line

__all__ = ["ODD", "TARGETS", "coupling", "mutated", "valid"]


@cache
def coupling() -> Coupling:
    """A small network with shortcuts, a concatenation and grouped convs."""
    return couple(TorchBackend().trace(Mixed(), torch.zeros(1, 3, 12, 12)))


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="prunekit-fuzz-"))


def _file(data: bytes, name: str) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


def plan(data: bytes) -> None:
    """A plan that is read can be written, read again, and asked whether it fits a network."""
    with contextlib.suppress(PrunekitError):
        found = PruningPlan.load(_file(data, "plan.json"))
        text = json.dumps(found.to_dict())
        text.encode()
        assert PruningPlan.from_dict(parse_json(text)) == found
        with contextlib.suppress(PrunekitError):
            found.check(coupling())
            found.widths(coupling())
            found.mask(coupling())
        with contextlib.suppress(PrunekitError):
            found.compose(found)


def mask(data: bytes) -> None:
    """A mask that is read is one, and makes a plan where it fits a network."""
    with contextlib.suppress(PrunekitError):
        found = read_mask(_file(data, "mask.json"))
        assert check_mask(parse_json(json.dumps(found))) == found
        made = PruningPlan.from_mask(coupling(), found)
        assert PruningPlan.from_mask(coupling(), made.mask(coupling())).kept == made.kept


def config(data: bytes) -> None:
    """A configuration that is read is written and read as the same one."""
    with contextlib.suppress(PrunekitError):
        found = load_config(_file(data, "config.yml"))
        text = dump(found.to_mapping())
        text.encode()
        json.dumps(found.to_mapping()).encode()
        again: RunConfig = check(RunConfig, parse(text, "again"), "again")
        assert again == found


@cache
def _encodings() -> tuple[ZeroOneEncoding | ChannelScaleEncoding | PreserveRatioEncoding | PruningRateEncoding, ...]:
    kinds = (ZeroOneEncoding, ChannelScaleEncoding, PreserveRatioEncoding, PruningRateEncoding)
    return tuple(kind(coupling()) for kind in kinds)


def encoding(data: bytes) -> None:
    """Vectors, from JSON, from a file of strategies and from a command line, and plans give one another back."""
    with contextlib.suppress(PrunekitError):
        for strategy in best_first(read_strategies(_file(data, "strategies.txt"))):
            strategy_line(strategy).encode()
            _decode(strategy.vector)
    with contextlib.suppress(PrunekitError, UnicodeDecodeError):
        assert all(number >= 0 for number in parse_vector(data.decode()))
    with contextlib.suppress(ValueError):
        _decode(parse_json(data.decode()))


def _decode(vector: object) -> None:
    for one in _encodings():
        with contextlib.suppress(PrunekitError):
            one.widths(vector)  # type: ignore[arg-type]
        with contextlib.suppress(PrunekitError):
            made = one.decode(vector)  # type: ignore[arg-type]
            assert one.decode(one.encode(made)).kept == made.kept
            assert np.array_equal(one.widths([vector])[0], made.widths(coupling()))  # type: ignore[list-item]


TARGETS: dict[str, Callable[[bytes], None]] = {"plan": plan, "mask": mask, "config": config, "encoding": encoding}


def valid(target: str) -> list[bytes]:
    """Documents that the target takes: where fuzzers begin."""
    if target == "config":
        home = Path(__file__).resolve().parent.parent / "configs"
        return [path.read_bytes() for path in sorted(home.glob("*.yml"))] + [_VEGA]
    full = PruningPlan.full(coupling(), model="a network", achieved={"macs": [2, 1]})
    group = max(coupling().groups, key=lambda g: g.size)
    cut = PruningPlan.of(coupling(), {group.name: range(1, group.size)})
    if target == "plan":
        return [json.dumps(one.to_dict()).encode() for one in (full, cut)]
    if target == "mask":
        return [json.dumps(one.mask(coupling())).encode() for one in (full, cut)]
    lines = [{"index": k, "score": 0.5, "ratio": 0.4, "rates": [0.1] * len(coupling().groups)} for k in range(2)]
    vectors = [one.encode(full).tolist() for one in _encodings()]
    return [
        b"rngs = [18, 23, 2]",
        "\n".join(map(json.dumps, lines)).encode(),
        *(json.dumps(v).encode() for v in vectors),
    ]


_VEGA = b"""
nas:
  search_algorithm: {type: PruneEA, codec: PruneCodec, policy: {length: 464, num_generation: 2, num_individual: 4}}
  search_space:
    type: SearchSpace
    modules: [backbone, head]
    backbone: {type: ResNetGeneral, stage: 3, base_depth: 20, base_channel: 16}
    head: {type: LinearClassificationHead, base_channel: 64, num_classes: 10}
"""


ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 63, 2**31, 2**63 - 1, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1.0, 1e300,
    float("inf"), float("nan"), "", "a", "0", "1e3", ".", "..", "/etc/passwd", "../../x", "a/b", "os:system", "x:y:z",
    "\x1b[31mred", "<script>alert(1)</script>", "$x_1$", "[red]x[/]", "\ud800", "\0", "\u202e", "\ufeff", "{0}", "%s",
    "x" * 300, [], {}, [[]], [None], [0, 0], {"": 0}, {"name": "x"}, ["x"], [1e308, 1e308], [[[[[[[[[[1]]]]]]]]]],
]  # fmt: skip
"""Values that readers may not expect."""


def mutated(document: bytes, random: random.Random) -> bytes:
    """The same document, JSON or YAML, with a few of its values changed, moved, doubled or gone."""
    try:
        data = yaml.safe_load(document) if document[:1] not in b"[{" else json.loads(document)
    except (ValueError, yaml.YAMLError, RecursionError):
        return document
    holder = [copy.deepcopy(data)]
    for _ in range(random.choice([1, 1, 1, 2, 3, 6])):
        places = _places(holder)
        inside, key = random.choice(places)
        other, name = random.choice(places)
        kind = random.randrange(6)
        if kind == 0 and inside is not holder:
            del inside[key]
        elif kind == 1:
            inside[key] = copy.deepcopy(other[name])
        elif kind == 2 and isinstance(inside, dict):
            inside[random.choice([name, *filter(lambda odd: isinstance(odd, str), ODD)])] = inside.pop(key)
        elif kind == 3 and isinstance(inside, list) and inside is not holder:
            inside.insert(key, copy.deepcopy(inside[key]))
        elif kind == 4 and isinstance(inside[key], (int, float)) and abs(inside[key]) < 2**70:
            inside[key] += random.choice([-1, 1, 0.5, 10])
        else:
            inside[key] = copy.deepcopy(random.choice(ODD))
    return json.dumps(holder[0]).encode()


def _places(data: Any, most: int = 400) -> list[tuple[Any, Any]]:
    """Where values stand: what they are in, and their key there."""
    found: list[tuple[Any, Any]] = []
    queue = [data]
    while queue and len(found) < most:
        here = queue.pop(0)
        found += [(here, key) for key in (range(len(here)) if isinstance(here, list) else here)]
        queue += [v for v in (here if isinstance(here, list) else here.values()) if isinstance(v, (list, dict))]
    return found[:most]

"""What was decided: which channels of each group stay."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunekit.core._files import MOST_JSON, read_text, write_atomic
from prunekit.core._json import parse_json
from prunekit.core.coupling.groups import Coupling
from prunekit.core.errors import PlanError

__all__ = ["FORMAT_VERSION", "PruningPlan", "plan_checksum"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class PruningPlan:
    """The channels that stay, group by group: plain data, the same for every framework.

    Attributes:
        kept: Sorted indices of the channels that stay, by group name. A group that is not named
            keeps everything.
        sizes: Full size of every group named in ``kept``.
        fingerprint: Hash of the architecture it was made for (``Graph.fingerprint()``).
        model: Name of the network, as the user or the zoo calls it.
        inputs: Shape of each example input.
        options: How the groups were found: ``attention``, ``grouped`` where it is not usual.
        achieved: Figures before and after, e.g. ``{"macs": [before, after]}``.
    """

    kept: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    fingerprint: str = ""
    model: str = ""
    inputs: tuple[tuple[int, ...], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    achieved: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, coupling: Coupling, kept: Mapping[str, Sequence[int]], **fields: Any) -> PruningPlan:
        """A plan for a coupled network; ``kept`` names the groups that lose channels.

        Raises:
            PlanError: A group is unknown, an index is out of range or repeated, or a group would
                lose all its channels.
        """
        plan = cls(
            kept={name: tuple(int(i) for i in sorted(kept[name])) for name in kept},
            sizes={name: coupling.groups[coupling.index[name]].size for name in kept if name in coupling.index},
            fingerprint=coupling.graph.fingerprint(),
            inputs=tuple(coupling.graph.tensors[i].shape for i in coupling.graph.inputs),
            **{"options": _options(coupling), **fields},
        )
        plan.check(coupling)
        return plan

    @classmethod
    def full(cls, coupling: Coupling, **fields: Any) -> PruningPlan:
        """The plan that keeps everything."""
        return cls.of(coupling, {g.name: range(g.size) for g in coupling.groups}, **fields)

    def check(self, coupling: Coupling) -> None:
        """Make sure that this plan can cut that network.

        Raises:
            PlanError: The network is another one, or the plan is malformed.
        """
        theirs = coupling.graph.fingerprint()
        if self.fingerprint and self.fingerprint != theirs:
            raise PlanError(
                f"a plan cuts only the architecture it was made for (fingerprint {self.fingerprint}), "
                f"got a model with fingerprint {theirs}; build the unpruned model with the same arguments"
            )
        for name, kept in self.kept.items():
            if name not in coupling.index:
                raise PlanError(
                    f"a plan may name only groups of the model, got {name!r}; "
                    f"the model has {_shorten(list(coupling.index))}"
                )
            size = coupling.group(name).size
            if self.sizes.get(name, size) != size:
                raise PlanError(
                    f"group {name!r} has {size} channels, got a plan for {self.sizes[name]}; use the plan's own model"
                )
            _check_indices(name, kept, size)

    def widths(self, coupling: Coupling) -> NDArray[np.int64]:
        """Channels kept in each group, shape ``(G,)``, in the order of ``coupling.groups``."""
        return np.array([len(self.kept.get(g.name, range(g.size))) for g in coupling.groups], dtype=np.int64)

    def mask(self, coupling: Coupling) -> dict[str, list[int]]:
        """The UniPruning view: producer layer → indices of its output channels that go."""
        result: dict[str, list[int]] = {}
        for group in coupling.groups:
            gone = np.setdiff1d(np.arange(group.size), self.kept.get(group.name, np.arange(group.size)))
            for m in group.producers:
                result.setdefault(m.layer, []).extend(int(i) for i in m.indices[gone].ravel())
        return {layer: sorted(gone) for layer, gone in result.items()}

    @classmethod
    def from_mask(cls, coupling: Coupling, mask: Mapping[str, Sequence[int]], **fields: Any) -> PruningPlan:
        """The plan that a UniPruning mask describes: layer → output channels that go.

        Coupled layers may be named all, or one of them alone; where several are named they
        must agree.

        Raises:
            PlanError: A layer or index is not the model's, coupled layers disagree, or the mask
                asks for channels that are frozen.
        """
        layers: dict[str, list[tuple[str, dict[int, int]]]] = {}
        for group in coupling.groups:
            for m in group.producers:
                unit = {int(i): u for u in range(group.size) for i in m.indices[u]}
                layers.setdefault(m.layer, []).append((group.name, unit))
        gone: dict[str, set[int]] = {g.name: set() for g in coupling.groups}
        named: dict[str, dict[str, set[int]]] = {}
        for layer, indices in mask.items():
            if layer not in layers:
                if len(indices) == 0:
                    continue
                raise PlanError(
                    f"a mask may name only layers whose outputs can be cut, got {layer!r}; "
                    f"the model has {_shorten(list(layers))}"
                )
            left = {int(i) for i in indices}
            for group_name, unit in layers[layer]:
                units = {unit[i] for i in left if i in unit}
                named.setdefault(group_name, {})[layer] = units
                gone[group_name] |= units
                left -= set(unit)
            if left:
                raise PlanError(
                    f"a mask may name only channels that can be cut, got {sorted(left)[:8]} for layer {layer!r}; "
                    "was the mask made for another model?"
                )
        for group_name, views in named.items():
            if any(v and v != gone[group_name] for v in views.values()):
                raise PlanError(
                    f"coupled layers must lose the same channels, got different ones for {sorted(views)}; "
                    "name one of them alone"
                )
        kept = {name: [i for i in range(coupling.group(name).size) if i not in g] for name, g in gone.items()}
        return cls.of(coupling, kept, **fields)

    def compose(self, later: PruningPlan) -> PruningPlan:
        """The plan of pruning by this one, then by ``later`` (made on the smaller network).

        Raises:
            PlanError: The two plans were made with different policies, or their groups do not match.
        """
        if all(len(kept) == self.sizes[name] for name, kept in self.kept.items()):
            return later  # the first one cut nothing, as that of a saved, unpruned network
        first, second = self._policies(), later._policies()
        if first != second:
            raise PlanError(
                f"a second pruning must use the policies of the first, got {second} after {first}; "
                f"pass {first}, or prune the original model once"
            )
        kept = dict(self.kept)
        for name, indices in later.kept.items():
            mine = kept.get(name)
            if mine is None or len(mine) != later.sizes[name]:
                raise PlanError(
                    f"a second pruning must find the groups of the first, got {name!r} with {later.sizes[name]} "
                    f"channels after {len(mine) if mine is not None else 'none'}; prune the original model once instead"
                )
            kept[name] = tuple(mine[i] for i in indices)
        return replace(self, kept=kept, achieved=later.achieved)

    def _policies(self) -> str:
        """How the groups were found, as arguments."""
        return ", ".join(f"{key}={self.options.get(key, usual)!r}" for key, usual in _USUAL.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "format": "prunekit.plan",
            "version": FORMAT_VERSION,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "inputs": [list(shape) for shape in self.inputs],
            "options": dict(self.options),
            "achieved": dict(self.achieved),
            "groups": {n: {"size": self.sizes[n], "kept": list(k)} for n, k in self.kept.items()},
        }

    @classmethod
    def from_dict(cls, data: Any) -> PruningPlan:
        """The plan that :meth:`to_dict` wrote.

        Raises:
            PlanError: The data are not those of a plan of a version we know, or not those of their ``checksum``.
        """
        if not isinstance(data, dict) or data.get("format") != "prunekit.plan":
            raise PlanError("a plan is a JSON object with format 'prunekit.plan', got something else; is it a mask?")
        if data.get("version") != FORMAT_VERSION:
            raise PlanError(f"plan version must be {FORMAT_VERSION}, got {data.get('version')!r}; update prunekit")
        if data.get("checksum", (sound := plan_checksum(data))) != sound:
            raise PlanError(
                "a plan must be as prunekit wrote it, got a changed one; copy it again, or remove its 'checksum' if "
                "you edited it"
            )
        try:
            groups = data["groups"]
            kept = {str(n): tuple(_integer(i) for i in g["kept"]) for n, g in groups.items()}
            sizes = {str(n): _integer(g["size"]) for n, g in groups.items()}
            inputs = tuple(tuple(_integer(i) for i in shape) for shape in data["inputs"])
            plan = cls(
                kept, sizes, str(data["fingerprint"]), str(data["model"]), inputs,
                dict(data["options"]), dict(data["achieved"]),
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PlanError(f"a plan file must hold what prunekit wrote, got a malformed one ({error!r})") from error
        for name, indices in kept.items():
            _check_indices(name, indices, sizes[name])
        return plan

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the plan as JSON, with its checksum: to a temporary name first, then renamed.

        Raises:
            OutputError: The file cannot be written.
        """
        data = self.to_dict()
        return write_atomic(path, json.dumps({**data, "checksum": plan_checksum(data)}, indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PruningPlan:
        """Read a plan.

        Raises:
            PlanError: There is no such file, or it is not a plan as it was written.
        """
        try:
            data = parse_json(read_text(path, MOST_JSON))
        except (OSError, ValueError) as error:
            raise PlanError(f"a plan must be a readable JSON file, got {os.fspath(path)} ({error})") from error
        return cls.from_dict(data)


def plan_checksum(data: Mapping[str, Any]) -> str:
    """The checksum of a plan's data, with or without one in them."""
    rest = {key: value for key, value in data.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise TypeError(f"expected an integer, got {str(value)[:60]}")
    return value


def _check_indices(name: str, kept: Sequence[int], size: int) -> None:
    if len(kept) == 0:
        raise PlanError(f"every group keeps at least one channel, got none for {name!r}; keep one or leave it out")
    if any(b <= a for a, b in zip(kept, kept[1:], strict=False)):
        raise PlanError(f"kept channels must be sorted and distinct, got {list(kept)[:8]}… for {name!r}")
    if kept[0] < 0 or kept[-1] >= size:
        raise PlanError(f"kept channels of {name!r} must lie in [0, {size}), got {kept[0]}…{kept[-1]}")


def _shorten(names: list[str], most: int = 6) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


_USUAL = {"attention": "heads", "grouped": "within"}


def _options(coupling: Coupling) -> dict[str, str]:
    unusual = {} if coupling.grouped == _USUAL["grouped"] else {"grouped": coupling.grouped}
    return {"attention": coupling.attention, **unusual}

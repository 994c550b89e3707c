"""Which of torchvision's classifiers are cut, and how long that takes, beside Torch-Pruning in the same run.

    python benchmarks/zoo.py [NAME …] [--rounds 3] [--giants] [--json FILE]

One thread; seconds are medians of alternating rounds, from a network in hand to half of every group cut by L2 norm:
ours trace + groups + trial cut + ranking + cut, Torch-Pruning's dependency graph + ranking + cut. Each network has a
process of its own. Ours is *exact* where it equals the masked network in double precision. Torch-Pruning's is where
it equals the network whose readers of the removed channels are zero; with norms over the channels that were cut
that cannot be said, and it is *runs*. ``--giants`` analyses networks of 600 million parameters without their weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from prunekit.backend_torch._torchvision import import_torchvision
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.budget import Budget
from prunekit.core.importance import score
from prunekit.core.prune import select
from prunekit.core.verification import TOLERANCE, randomised, relative_error, verify

BACKEND = TorchBackend()
_GIANTS = ("regnet_y_128gf", "vit_h_14")
_LEFT_OUT = {*_GIANTS, "vit_l_16", "vit_l_32"}  # 300 million parameters and more: --giants tells of them
_SECONDS = 900
_LIMIT = 120  # seconds for one cut by Torch-Pruning


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A classifier in inference mode, norms randomised, and an image ``(1, 3, H, W)``."""
    name = f"torchvision:{name}"
    model, image = BACKEND.build_model(name, seed=0).eval(), BACKEND.example(BACKEND.default_input(name))
    return randomised(Analysis(BACKEND, model, image, analyse(BACKEND, model, image, probe=False).coupling)), image


def ours(model: nn.Module, image: torch.Tensor) -> nn.Module:
    """Half of every group, by prunekit."""
    analysis = analyse(BACKEND, model, image)
    scores = score(analysis.coupling, "l2", BACKEND.get_state(model, copy=False))
    return BACKEND.apply(analysis, select(analysis, Budget.of(ratio=0.5), scores, scope="layer"))


def theirs(model: nn.Module, image: torch.Tensor, seen: list[Any] | None = None) -> nn.Module:
    """Half of every group, by Torch-Pruning, in place; ``seen`` takes the groups that it cuts."""
    import torch_pruning as tp

    pruner = tp.pruner.BasePruner(
        model, image, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
        ignored_layers=[m for m in model.modules() if getattr(m, "out_features", 0) == 1000],
    )  # fmt: skip
    if seen is None:
        pruner.step()
        return model
    for group in pruner.step(interactive=True):
        seen.append([(dep.target.name, dep.handler.__name__, list(idxs)) for dep, idxs in group])
        group.prune()
    return model


def rival_status(name: str, neutral: bool) -> str:
    """What comes of Torch-Pruning's network: ``exact``, ``differs``, ``runs``, ``uncut``, ``failed`` or ``stopped``."""
    model, image = build(name)
    model, image = model.double(), image.double()
    seen: list[Any] = []
    before = sum(p.numel() for p in model.parameters())
    masked, _ = build(name)
    masked = masked.double()
    try:
        with limited(_LIMIT):
            theirs(model, image, seen)
        with torch.inference_mode():
            found = model(image)
    except TimeoutError:
        return "stopped"
    except Exception:
        return "failed"
    if sum(p.numel() for p in model.parameters()) == before:
        return "uncut"
    if not neutral:
        return "runs"
    with torch.inference_mode():
        _zero_readers(masked, seen)
        expected = masked(image)
    if found.shape != expected.shape:
        return "differs"
    return "exact" if relative_error(found, expected) <= TOLERANCE else "differs"


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _zero_readers(model: nn.Module, groups: Iterable[Any]) -> None:
    """Zero the weights that read removed channels; a group's indices are those of the layers as they then were."""
    left: dict[tuple[str, str], torch.Tensor] = {}
    modules = dict(model.named_modules())
    for group in groups:
        for target, handler, removed in group:
            layer = modules.get(target.split(" ")[0])
            if handler != "prune_in_channels" and "in_channels" not in handler:
                continue
            if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
                continue
            each, groups = layer.weight.shape[1], getattr(layer, "groups", 1)
            ids = left.get((target, "in"), torch.arange(groups * each))
            rows = layer.weight.shape[0] // groups
            for channel in ids[removed].tolist():
                begin = channel // each * rows
                layer.weight[begin : begin + rows, channel % each] = 0
            left[target, "in"] = ids[[k for k in range(len(ids)) if k not in set(removed)]]


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Seconds and statuses of one network."""
    model, image = build(name)
    found = verify(BACKEND, model, image, name=name, seeds=1)
    row: dict[str, Any] = {"model": name, "ours": found.status, "groups": found.groups}
    row["theirs"] = rival_status(name, found.status == "exact")
    samples: dict[str, list[float]] = {"ours": [], "theirs": []}
    for k in range(rounds + 1):  # the first warms up
        for title, prune in (("ours", ours), ("theirs", theirs)):
            if title == "theirs" and row["theirs"] in ("failed", "stopped"):
                continue
            fresh, image = build(name)
            seconds = _timed(lambda run=prune, net=fresh, x=image: run(net, x))
            if k or rounds == 0:
                samples[title].append(seconds)
    for title, values in samples.items():
        if values:
            row[f"{title} seconds"] = statistics.median(values)
    if "theirs seconds" in row:
        row["ratio"] = row["ours seconds"] / row["theirs seconds"]
    return row


def _timed(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def giant(name: str) -> dict[str, Any]:
    """Seconds and peak memory to analyse a network whose tensors hold no data."""
    full = f"torchvision:{name}"
    with _WithoutWeights():
        model = BACKEND.build_model(full).eval().to("meta")
    image = torch.empty(BACKEND.default_input(full), device="meta")
    begin = time.perf_counter()
    analysis = analyse(BACKEND, model, image)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"model": name, "seconds": seconds, "peak GB": peak / 2**30, "groups": len(analysis.groups)}


class _WithoutWeights(TorchFunctionMode):
    """Layers get no weights; all else has values, as RegNet works out its widths by tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {})
        return func(*args, **kwargs)


def in_process(name: str, *arguments: str) -> dict[str, Any]:
    """What this script prints for one network, from a fresh process; one that gives nothing is no network's fault."""
    command = [sys.executable, str(Path(__file__).resolve()), name, *arguments, "--one"]
    nothing = {"model": name, "ours": "unknown", "theirs": "unknown"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return nothing | {"message": f"no answer in {_SECONDS} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        print(done.stderr[-2000:], file=sys.stderr, flush=True)
        return nothing | {"message": f"exit status {done.returncode}"}
    return dict(json.loads(lines[-1]))


def classifiers() -> list[str]:
    """Names of torchvision's classifiers, the largest apart."""
    models = import_torchvision().models
    return [name for name in models.list_models(models) if name not in _LEFT_OUT]


def main() -> None:
    """Measure, a process for each network, and print a line each and the figures over all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--giants", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if asked.one:
        (name,) = asked.names
        print(json.dumps(giant(name) if asked.giants else measure(name, asked.rounds)))
        return
    rows = []
    for name in asked.names or classifiers():
        row = in_process(name, "--rounds", str(asked.rounds))
        rows.append(row)
        print(_line(row), flush=True)
    figures = {"rows": rows, "all": summary(rows)}
    print("\n".join(f"{key}: {_short(value)}" for key, value in figures["all"].items()))
    if asked.giants:
        figures["giants"] = [in_process(name, "--giants") for name in _GIANTS]
        for row in figures["giants"]:
            print(", ".join(f"{key}: {_short(value)}" for key, value in row.items()))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares and the median ratio over all networks that both cut."""
    good, cut = ("exact", "non-neutral exact"), ("exact", "differs", "runs")
    ratios = [row["ratio"] for row in rows if "ratio" in row and row["ours"] in good and row["theirs"] in cut]
    return {
        "networks": len(rows),
        "ours, cut and exact": sum(row["ours"] in good for row in rows),
        "theirs, exact": sum(row["theirs"] == "exact" for row in rows),
        "theirs, run but not comparable": sum(row["theirs"] == "runs" for row in rows),
        "theirs, differ": sum(row["theirs"] == "differs" for row in rows),
        "theirs, fail or take over 120 s": sum(row["theirs"] in ("failed", "stopped", "uncut") for row in rows),
        "unknown, as the check broke off": sum(row["ours"] == "unknown" for row in rows),
        "cut by both": len(ratios),
        "median ratio ours / theirs": statistics.median(ratios) if ratios else None,
    }


def _short(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else value


def _line(row: dict[str, Any]) -> str:
    def number(key: str) -> str:
        return f"{row[key]:8.2f}" if key in row else "       –"

    return (
        f"{row['model']:24s} ours {row['ours']:18s}{number('ours seconds')} s   "
        f"Torch-Pruning {row['theirs']:8s}{number('theirs seconds')} s   ratio{number('ratio')}"
    )


if __name__ == "__main__":
    main()

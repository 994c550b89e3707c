"""What pruning gives on an NVIDIA GPU: the law, latency, UniPruning by a device profile, and exported files.

    python benchmarks/gpu.py [--parts law latency uni_pruning export] [--networks NAME …] [--families NAME …]
        [--batch 64] [--size 224] [--runs 50] [--epochs 8] [--json FILE]

Without a GPU it says so and does nothing. Seconds are medians of passes timed each by itself, from the call until the
device is done, after warm-up; networks that are compared take turns. TF32 is off: fp32 is fp32.

- *law*: networks of torchvision, cut at random, beside the same with the removed channels masked; largest error
  relative to the largest output, in double precision (three cuts) and in single precision (one cut).
- *latency*: half of the MACs, the same share of every layer by L2 norm, widths as they come (*unaligned*) and by the
  profile ``cuda-fp16``; *ratio* is to the unpruned network, in the same precision and memory format, *× 8* how many
  of the convolutions give channels in multiples of 8.
- *uni_pruning*: ResNet-20 trained on digits on the GPU, half of its parameters pruned in steps of the profile.
- *export*: the aligned network and the unpruned one written to files, loaded again, compared and timed on the GPU.

``--device cpu`` tries the code itself without a GPU; ``--json`` is refused then.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunekit.backend_torch import UniPruner
from prunekit.backend_torch.backend import TorchBackend
from prunekit.core._timing import compare_latency, time_passes
from prunekit.core.analysis import Analysis, analyse
from prunekit.core.budget import Budget, alignment
from prunekit.core.errors import ExportError, MissingDependencyError
from prunekit.core.importance import score
from prunekit.core.prune import select
from prunekit.core.recipe import Recipe
from prunekit.core.verification import TOLERANCE, random_plan, randomised, relative_error, verify

BACKEND = TorchBackend()
PROFILE = "cuda-fp16"
FAMILIES = (
    "resnet18", "vgg11_bn", "densenet121", "googlenet", "inception_v3", "mobilenet_v3_small", "mnasnet0_5",
    "efficientnet_b0", "shufflenet_v2_x1_0", "squeezenet1_1", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip
NETWORKS = ("resnet50", "mobilenet_v2", "vgg16_bn")
FORMATS = {
    "fp32": (torch.float32, torch.contiguous_format),
    "fp32, channels_last": (torch.float32, torch.channels_last),
    "fp16": (torch.float16, torch.contiguous_format),
    "fp16, channels_last": (torch.float16, torch.channels_last),
}
_WARMUP = 10

Row = dict[str, Any]


def build(name: str, device: torch.device) -> tuple[nn.Module, torch.Tensor]:
    """A network of torchvision in inference mode, and an image, both on a device."""
    name = f"torchvision:{name}"
    model, image = BACKEND.build_model(name, seed=0).eval(), BACKEND.example(BACKEND.default_input(name))
    return model.to(device), image.to(device)


def law(device: torch.device, options: argparse.Namespace) -> Iterator[Row]:
    """Cut and masked networks, in double and in single precision."""
    for name in options.families:
        model, image = build(name, device)
        found = verify(BACKEND, model, image, name=name)
        single = single_error(model, image)
        said = "differs" if found.holds and not single <= TOLERANCE else found.status
        yield {"network": name, "law": said, "float64": found.error, "float32": single, "cut": found.lost}
        if not found.holds:
            print(found.message)


def single_error(model: nn.Module, image: torch.Tensor) -> float:
    """Largest relative difference of one cut network from the masked one, in single precision."""
    analysis = analyse(BACKEND, model, image)
    analysis = replace(analysis, model=randomised(analysis))
    plan = random_plan(analysis)
    with BACKEND.masked(analysis, plan):
        expected = BACKEND.outputs(analysis.model, image)
    found = BACKEND.outputs(BACKEND.apply(analysis, plan), image)
    return max(relative_error(a, b) for a, b in zip(found, expected, strict=True))


def halves(model: nn.Module, image: torch.Tensor, *aligns: str | None) -> list[tuple[nn.Module, float]]:
    """For each alignment the network with at most half of the MACs, and the share that it keeps."""
    analysis: Analysis = analyse(BACKEND, model, image)
    scores = score(analysis.coupling, "l2", BACKEND.get_state(model, copy=False))
    found = []
    for align in aligns:
        plan = select(analysis, Budget.of(macs=0.5), scores, scope="layer", align=align)
        before, after = plan.achieved["macs"]
        found.append((BACKEND.apply(analysis, plan), after / before))
    return found


def latency(device: torch.device, options: argparse.Namespace) -> Iterator[Row]:
    """Unpruned, pruned, and pruned to aligned widths, in each format."""
    for name in options.networks:
        model, image = build(name, device)
        (free, free_macs), (aligned, aligned_macs) = halves(model, image, None, PROFILE)
        shape = (options.batch, 3, options.size, options.size)
        for title, (kind, layout) in FORMATS.items():
            batch = BACKEND.example(shape).to(device, kind, memory_format=layout)
            each = [
                BACKEND.clone(net).to(device=device, dtype=kind, memory_format=layout) for net in (model, free, aligned)
            ]
            taken = compare_latency(BACKEND, each, batch, runs=options.runs, warmup=_WARMUP)
            whole, unaligned, even = (1000 * t.median for t in taken)
            yield {
                "network": name, "format": title, "unpruned ms": whole, "unaligned ms": unaligned, "aligned ms": even,
                "ratio unaligned": unaligned / whole, "ratio aligned": even / whole,
                "MACs unaligned": free_macs, "MACs aligned": aligned_macs,
                "× 8 unaligned": multiples(free), "× 8 aligned": multiples(aligned),
            }  # fmt: skip


def multiples(model: nn.Module) -> str:
    """How many convolutions give channels in multiples of the profile's number."""
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    return f"{sum(w % alignment(PROFILE) == 0 for w in widths)}/{len(widths)}"


def uni_pruning(device: torch.device, options: argparse.Namespace) -> Iterator[Row]:
    """A training on the device with zeroing steps, and the network that is left."""
    loaders = BACKEND.loaders("digits", 64, seed=0)
    model = BACKEND.build_model("resnet20", seed=0, in_channels=1).to(device)
    params = sum(p.numel() for p in model.parameters())
    step = alignment(PROFILE)
    recipe = Recipe(epochs=options.epochs, lr=0.1, schedule="onecycle", weight_decay=5e-4)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "frequency": 2, "target_sparsity": 0.5, "pruning_step": step, "filter_lower_threshold": step,
            "input_size": (16, 1, 8, 8), "output_path": folder, "epoch_size": options.epochs, "device_target": "GPU",
        }  # fmt: skip
        pruner = UniPruner(settings, formats=())
        pruner.apply(model)
        begin = time.perf_counter()
        BACKEND.fit(model, loaders.train, recipe, callbacks=pruner.callbacks(), show=False)
        seconds = time.perf_counter() - begin
        small = pruner.convert(model)
    images, _ = next(iter(loaders.test))
    error = relative_error(BACKEND.predict(small, images), BACKEND.predict(model, images))
    zeroed = BACKEND.evaluate(model, loaders.test)["top1"]
    BACKEND.fit(small, loaders.train, replace(recipe, epochs=2, lr=0.02), show=False)
    yield {
        "network": "resnet20, digits", "profile": PROFILE, "× 8": multiples(small),
        "params kept": sum(p.numel() for p in small.parameters()) / params, "error": error,
        "top1 zeroed": zeroed, "top1 fine-tuned": BACKEND.evaluate(small, loaders.test)["top1"],
        "training s": seconds,
    }  # fmt: skip


def export(device: torch.device, options: argparse.Namespace) -> Iterator[Row]:
    """Files of the unpruned and of the aligned network, loaded on the device."""
    name = options.networks[0]
    model, image = build(name, device)
    ((small, _),) = halves(model, image, PROFILE)
    batch = BACKEND.example((options.batch, 3, options.size, options.size)).to(device)
    with tempfile.TemporaryDirectory() as folder:
        for format_, kind in (("torchscript", torch.float32), ("torchscript", torch.float16), ("onnx", torch.float32)):
            row: Row = {"network": name, "format": format_, "kind": str(kind).removeprefix("torch.")}
            try:
                runners = []
                for title, net in (("unpruned", model), ("aligned", small)):
                    path = BACKEND.export(net, batch[:1], Path(folder) / f"{title}-{format_}", format_)
                    load = torchscript if format_ == "torchscript" else onnx
                    runners.append(load(path, batch.to(kind), device))
            except (ExportError, MissingDependencyError) as error:
                yield row | {"runs on": f"not here: {error}"}
                continue
            with torch.inference_mode():
                expected = BACKEND.clone(small).to(kind)(batch.to(kind)).float().cpu()
                error = relative_error(runners[1][1](), expected)
                whole, pruned = (1000 * s for s in by_turns([r[0] for r in runners], device, options.runs))
            yield row | {
                "unpruned ms": whole, "aligned ms": pruned, "ratio": pruned / whole, "error": error,
                "runs on": runners[1][2],
            }  # fmt: skip


Runner = tuple[Callable[[], Any], Callable[[], Any], str]
"""A pass, a pass with its output as an array, and what it runs on."""


def torchscript(path: Path, batch: torch.Tensor, device: torch.device) -> Runner:
    """A TorchScript file on the device, in the batch's precision."""
    loaded = torch.jit.load(str(path), map_location=device).to(batch.dtype)
    return lambda: loaded(batch), lambda: loaded(batch).float().cpu(), str(device)


def onnx(path: Path, batch: torch.Tensor, device: torch.device) -> Runner:
    """An ONNX file, by CUDA where ONNX Runtime has that; inputs and outputs stay on its device."""
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        getattr(onnxruntime, "preload_dlls", lambda: None)()  # those that came with PyTorch
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    session = onnxruntime.InferenceSession(str(path), providers=providers)
    provider = session.get_providers()[0]  # it falls back by itself
    where = "cuda" if provider.startswith("CUDA") else "cpu"
    binding = session.io_binding()
    given = onnxruntime.OrtValue.ortvalue_from_numpy(batch.cpu().numpy(), where, 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, given)
    binding.bind_output(session.get_outputs()[0].name, where)

    def output() -> Any:
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    return lambda: session.run_with_iobinding(binding), output, provider


def by_turns(passes: Sequence[Callable[[], Any]], device: torch.device, runs: int, rounds: int = 5) -> list[float]:
    """Median seconds of each, timed by turns."""
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    timed: list[list[float]] = [[] for _ in passes]
    for _ in range(rounds):
        for forward, mine in zip(passes, timed, strict=True):
            one = time_passes(forward, runs=-(-runs // rounds), warmup=_WARMUP, device="", shape=(), wait=wait)
            mine.append(one.median)
    return [statistics.median(mine) for mine in timed]


PARTS = {"law": law, "latency": latency, "uni_pruning": uni_pruning, "export": export}


def line(row: Row, *, head: bool = False) -> str:
    """A line of a table, or the names above it."""
    shown = []
    for name, value in row.items():
        width = max(len(name), 0 if isinstance(value, float) else 19)
        shown.append(f"{name if head else f'{value:.3g}' if isinstance(value, float) else value:<{width}}")
    return "  ".join(shown).rstrip()


def main() -> int:
    """Run the parts, print a table each; 1 where one of them broke off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="of latency; the first is exported")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), help="of the law")
    for name, value in (("batch", 64), ("size", 224), ("runs", 50), ("epochs", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type != "cuda" and options.json:
        parser.error("--device is for trying the code out: leave --json away")
    if device.type == "cuda" and not torch.cuda.is_available():
        built = "" if torch.version.cuda else f" (PyTorch {torch.__version__} is built without CUDA)"
        print(f"no CUDA device{built}: the GPU benchmarks are skipped")
        return 0
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else options.device
    print(f"{card}, CUDA {torch.version.cuda}, batch {options.batch} of {options.size} pixels, {options.runs} passes")
    figures: dict[str, Any] = {"gpu": card, "cuda": torch.version.cuda, "batch": options.batch, "size": options.size}
    broken = []
    for part in options.parts:
        rows = figures.setdefault(part, [])
        try:
            for row in PARTS[part](device, options):
                print(line(row) if rows else f"\n{part}\n{line(row, head=True)}\n{line(row)}", flush=True)
                rows.append(row)
        except Exception:  # the other parts are worth having
            broken.append(part)
            print(f"\n{part} broke off", flush=True)
            traceback.print_exc()
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Write a module for another runtime, and make sure that the file computes what the module does.

A file is written under a temporary name, loaded again by its own runtime (TorchScript,
``torch.export``, ONNX Runtime), compared with the module on random inputs it has not seen, also at
another batch size, and renamed only then.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import inspect
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from prunekit.core._files import produce_atomic
from prunekit.core.backend import ExportFormat
from prunekit.core.errors import ExportError, MissingDependencyError
from prunekit.core.export_files import export_target

__all__ = ["FORMATS", "export"]

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

Arguments = tuple[Any, ...]
Runner = Callable[[Arguments], list[np.ndarray]]


FORMATS: dict[str, ExportFormat] = {
    "torchscript": ExportFormat("torchscript", (".ts", ".pt", ".torchscript"), "torch.jit.load"),
    "pt2": ExportFormat("pt2", (".pt2",), "torch.export.load"),
    "onnx": ExportFormat("onnx", (".onnx",), "onnxruntime.InferenceSession"),
}


def export(
    model: nn.Module, example: Any, path: str | os.PathLike[str], format: str, *, dynamic_batch: bool = True
) -> Path:
    """Write a module to a file that its own runtime runs, and check the file.

    The module itself is left as it is; a copy on the CPU in inference mode is written.

    Args:
        model: Any module.
        example: One input, a tuple of positional inputs, or a dict of keyword inputs.
        path: Where to; a suffix is added if there is none.
        format: ``"torchscript"``, ``"pt2"`` or ``"onnx"``; see :data:`FORMATS`.
        dynamic_batch: Whether the file must run at any batch size. A module that itself runs at
            one batch size only gives a file of that size.

    Returns:
        The path written.

    Raises:
        ExportError: The format is unknown, the module cannot be written in it, or the file does
            not compute what the module does. Nothing is left behind.
        MissingDependencyError: The format's library is not installed.
        OutputError: The file cannot be written.
    """
    target = export_target(path, format, FORMATS)
    copied = copy.deepcopy(model).cpu().eval()
    arguments = _positional(copied, example)
    with _quiet(), torch.no_grad():
        expected = _run(copied, arguments)
        other = _other_batch(copied, arguments) if dynamic_batch else None
        return produce_atomic(target, lambda path: _write(copied, format, path, arguments, other, expected))


def _write(
    model: nn.Module,
    format: str,
    path: Path,
    arguments: Arguments,
    other: Arguments | None,
    expected: list[np.ndarray],
) -> None:
    """Write a file by the first of the format's ways that gives a right one.

    Raises:
        ExportError: None does.
    """
    failures: list[str] = []
    # a batch of one would be taken for a constant
    traced = arguments if other is None else other
    for writer in _WRITERS[format]:
        try:
            writer(model, traced, path, other is not None)
            _check(model, _READERS[format](path), arguments, other, expected)
            return
        except (MissingDependencyError, OSError):
            raise
        except ExportError as error:
            failures.append(str(error))
        except Exception as error:  # exporters raise of every kind
            failures.append(f"{type(error).__name__}: {_first_line(error)}")
    raise ExportError(
        f"a {format} file must compute what the model does, got {'; then '.join(failures)}; "
        f"try another format ({', '.join(f for f in FORMATS if f != format)})"
        + (", or dynamic_batch=False" if other is not None else "")
    )


def _positional(model: nn.Module, example: Any) -> Arguments:
    """The example as positional arguments on the CPU."""
    if isinstance(example, dict):
        try:
            bound = inspect.signature(model.forward).bind(**example)
        except TypeError as error:
            raise ExportError(f"an example must fit the model's forward, got {sorted(example)} ({error})") from error
        if bound.kwargs:
            raise ExportError(f"exported models take positional inputs, got keyword-only {sorted(bound.kwargs)}")
        values = bound.args
    else:
        values = tuple(example) if isinstance(example, tuple | list) else (example,)
    return tree_map_only(torch.Tensor, lambda t: t.detach().cpu(), values)  # type: ignore[no-any-return]


def _run(model: Callable[..., Any], arguments: Arguments) -> list[np.ndarray]:
    try:
        outputs = [t.detach().float().numpy() for t in tree_leaves(model(*arguments)) if isinstance(t, torch.Tensor)]
    except Exception as error:
        raise ExportError(
            f"a model must run on the example before it is exported, got {type(error).__name__}: "
            f"{_first_line(error)}; give an example of the shape and type that it expects"
        ) from error
    if not outputs or not all(np.isfinite(o).all() for o in outputs):
        raise ExportError("a model must give finite tensors on the example, got none or NaN; check its weights")
    return outputs


def _other_batch(model: nn.Module, arguments: Arguments) -> Arguments | None:
    """The inputs at another batch size above one, if the model itself runs at that size."""
    tensors = [t for t in tree_leaves(arguments) if isinstance(t, torch.Tensor) and t.dim() > 0]
    if not tensors:
        return None
    batch = tensors[0].shape[0]
    size = 2 if batch != 2 else 3

    def resize(t: torch.Tensor) -> torch.Tensor:
        return t[torch.arange(size) % batch] if t.dim() > 0 and t.shape[0] == batch else t

    other: Arguments = tree_map_only(torch.Tensor, resize, arguments)
    try:
        model(*other)
    except Exception:  # whatever it is, the model is made for one batch size
        return None
    return other


def _fresh(arguments: Arguments, seed: int) -> Arguments:
    """Random inputs like the given ones; whole numbers stay within the range they had."""
    generator = torch.Generator().manual_seed(seed)

    def like(t: torch.Tensor) -> torch.Tensor:
        if t.is_floating_point():
            return torch.randn(t.shape, generator=generator, dtype=torch.float32).to(t.dtype)
        if t.dtype == torch.bool or t.numel() == 0:
            return t
        return torch.randint(int(t.min()), int(t.max()) + 1, t.shape, generator=generator).to(t.dtype)

    return tree_map_only(torch.Tensor, like, arguments)  # type: ignore[no-any-return]


def _check(
    model: nn.Module, runner: Runner, arguments: Arguments, other: Arguments | None, expected: list[np.ndarray]
) -> None:
    """Compare a loaded file with the module.

    Raises:
        ExportError: They differ.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    tolerance = _TOLERANCE.get(dtype, 1e-4)
    cases = [(arguments, expected)]
    for seed, like in enumerate(a for a in (arguments, other) if a is not None):
        fresh = _fresh(like, seed)
        cases.append((fresh, _run(model, fresh)))
    for inputs, right in cases:
        got = runner(inputs)
        shapes = [tuple(t.shape) for t in tree_leaves(inputs) if isinstance(t, torch.Tensor)]
        if [g.shape for g in got] != [r.shape for r in right]:
            raise ExportError(f"outputs of shape {[g.shape for g in got]} for {[r.shape for r in right]} at {shapes}")
        for mine, theirs in zip(right, got, strict=True):
            gap = float(np.abs(mine - theirs).max(initial=0.0)) / max(float(np.abs(mine).max(initial=0.0)), 1e-6)
            if not gap <= tolerance:
                raise ExportError(f"outputs that differ by {gap:.2g} (relative; at most {tolerance:g}) at {shapes}")


def _write_traced(model: nn.Module, arguments: Arguments, path: Path, dynamic: bool) -> None:
    torch.jit.save(torch.jit.trace(model, arguments, check_trace=False), str(path))


def _write_scripted(model: nn.Module, arguments: Arguments, path: Path, dynamic: bool) -> None:
    torch.jit.save(torch.jit.script(model), str(path))


def _read_torchscript(path: Path) -> Runner:
    loaded = torch.jit.load(str(path), map_location="cpu")
    return lambda inputs: _run(loaded, inputs)


def _batch_axes(arguments: Arguments, axis: Any) -> Any:
    """For each input tensor, a mark on the axis that is as long as the first tensor's first."""
    first = next(t for t in tree_leaves(arguments) if isinstance(t, torch.Tensor) and t.dim() > 0)

    def mark(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {0: axis} if value.dim() > 0 and value.shape[0] == first.shape[0] else {}
        return [mark(v) for v in value] if isinstance(value, list | tuple) else None

    return tuple(mark(value) for value in arguments)


def _write_pt2(model: nn.Module, arguments: Arguments, path: Path, dynamic: bool) -> None:
    shapes = _batch_axes(arguments, torch.export.Dim.DYNAMIC) if dynamic else None
    program = torch.export.export(model, arguments, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, str(path))


def _read_pt2(path: Path) -> Runner:
    loaded = torch.export.load(str(path)).module()
    return lambda inputs: _run(loaded, inputs)


def _write_onnx(model: nn.Module, arguments: Arguments, path: Path, dynamic: bool) -> None:
    _need("onnx", "onnxscript", "onnxruntime")
    shapes = _batch_axes(arguments, torch.export.Dim.DYNAMIC) if dynamic else None
    torch.onnx.export(
        model, arguments, str(path), dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
    )


def _write_onnx_traced(model: nn.Module, arguments: Arguments, path: Path, dynamic: bool) -> None:
    names = [f"input_{i}" for i, value in enumerate(arguments) if isinstance(value, torch.Tensor)]
    axes = dict(zip(names, _batch_axes(arguments, "batch"), strict=False)) if dynamic else None
    torch.onnx.export(model, arguments, str(path), dynamo=False, input_names=names, dynamic_axes=axes, verbose=False)


def _read_onnx(path: Path) -> Runner:
    _need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(inputs: Arguments) -> list[np.ndarray]:
        tensors = [t.numpy() for t in tree_leaves(inputs) if isinstance(t, torch.Tensor)]
        if len(tensors) != len(names):
            raise ExportError(f"a file with {len(names)} inputs for {len(tensors)} tensors")
        return [np.asarray(o, dtype=np.float32) for o in session.run(None, dict(zip(names, tensors, strict=True)))]

    return run


_WRITERS: dict[str, tuple[Callable[[nn.Module, Arguments, Path, bool], None], ...]] = {
    "torchscript": (_write_traced, _write_scripted),
    "pt2": (_write_pt2,),
    "onnx": (_write_onnx, _write_onnx_traced),
}
_READERS: dict[str, Callable[[Path], Runner]] = {
    "torchscript": _read_torchscript,
    "pt2": _read_pt2,
    "onnx": _read_onnx,
}


def _need(*modules: str) -> None:
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        raise MissingDependencyError(f"ONNX files need {', '.join(missing)}; run `pip install 'prunekit[onnx]'`")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own chatter, and with attention written out op by op."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        torch.backends.mha.set_fastpath_enabled(fast)

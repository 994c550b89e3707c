"""Write a network for another runtime, and make sure that the file computes what the network does.

A file is written under a temporary name, loaded again by its own runtime (MindSpore in both of its
modes, ONNX Runtime), compared with the network on random inputs it has not seen, and renamed only
then. Beside it stands a text file with the commands that turn it into a model for Ascend.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import dtype as mstype
from mindspore import nn
from numpy.typing import NDArray

from prunekit.backend_mindspore._conversion import commands
from prunekit.backend_mindspore._mindir import clear_caches
from prunekit.backend_mindspore.cut import clone
from prunekit.backend_mindspore.state import to_array
from prunekit.backend_mindspore.trace import positional
from prunekit.core._files import produce_atomic, write_atomic
from prunekit.core.backend import ExportFormat
from prunekit.core.errors import ExportError, MissingDependencyError
from prunekit.core.export_files import export_target

__all__ = ["FORMATS", "export"]

_TOLERANCE = {mstype.float32: 1e-4, mstype.float16: 2e-2, mstype.bfloat16: 1e-1}
_FLAGS = {"fp16": mstype.float16, "bf16": mstype.bfloat16}
_UNKNOWN_OP = re.compile(r"find key (\w+) in convert map")
_FAILED_OP = re.compile(r"(?:PrimFunc_|DoSignaturePrimitive::S-Prim-|[Oo]perator )(\w+)")

Arguments = tuple[Any, ...]
Array = NDArray[Any]
Runner = Callable[[Arguments], list[Array]]
Writer = Callable[[nn.Cell, Arguments, Path], None]


FORMATS: dict[str, ExportFormat] = {
    "mindir": ExportFormat("mindir", (".mindir",), "mindspore.nn.GraphCell"),
    "onnx": ExportFormat("onnx", (".onnx",), "onnxruntime.InferenceSession"),
    "air": ExportFormat("air", (".air",), "atc"),
}


def export(
    model: nn.Cell,
    example: Any,
    path: str | os.PathLike[str],
    format: str,
    *,
    dynamic_batch: bool = False,
    soc_version: str = "Ascend310P3",
) -> Path:
    """Write a network to a file that its own runtime runs, and check the file.

    The network itself is left as it is; a copy in inference mode is written. A second file, with
    ``.convert.txt`` after the name, holds the command lines of the Ascend tools.

    Args:
        model: Any cell.
        example: One input, a tuple of positional inputs, or a dict of keyword inputs.
        path: Where to; a suffix is added if there is none.
        format: ``"mindir"``, ``"onnx"``, or on Ascend ``"air"``; see :data:`FORMATS`.
        dynamic_batch: Whether a MINDIR file must run at any batch size. By default a file has the
            shape of the example, as the Ascend tools want it.
        soc_version: The processor in the command lines, as ``npu-smi info`` names it.

    Returns:
        The path written.

    Raises:
        ExportError: The format is unknown, the network cannot be written in it, or the file does
            not compute what the network does. Nothing is left behind.
        MissingDependencyError: The format's library is not installed.
        OutputError: The file cannot be written.
    """
    target = export_target(path, format, FORMATS)
    if format == "air" and ms.get_context("device_target") != "Ascend":
        raise ExportError(
            f"air files can be written on Ascend only, got device_target={ms.get_context('device_target')!r}; export "
            "'mindir' for MindSpore Lite (converter_lite) or 'onnx' for ATC: the commands are written beside either"
        )
    if dynamic_batch and format != "mindir":
        raise ExportError(f"dynamic_batch needs format 'mindir', got {format!r}; leave it out")
    if format == "onnx":
        _need("onnxruntime")
    arguments = _positional(model, example)
    lines = commands(target, _named_shapes(model, arguments), soc_version)
    copied = clone(model).set_train(False)
    with _quiet():
        expected = _run(copied, arguments)
        others = [_at_batch(arguments, n) for n in (1, 3)] if dynamic_batch else []
        produce_atomic(target, lambda path: _write(copied, format, path, arguments, others, expected))
    write_atomic(target.with_name(target.name + ".convert.txt"), lines)
    return target


def _write(
    model: nn.Cell,
    format: str,
    path: Path,
    arguments: Arguments,
    others: Sequence[Arguments],
    expected: list[Array],
) -> None:
    """Write a file by the first of the format's ways that gives a right one.

    Raises:
        ExportError: None does.
    """
    failures: list[str] = []
    written = tuple(_open_batch(x, arguments) for x in arguments) if others else arguments
    for writer in _WRITERS[format]:
        clear_caches(model)
        try:
            # MindSpore changes the rights of the folder it writes to
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / f"model{path.suffix}"
                writer(model, written, made)
                path.write_bytes(_only_file(made).read_bytes())
            for runner in _READERS[format](path):
                _check(model, runner, arguments, others, expected)
            return
        except (MissingDependencyError, OSError):
            raise
        except ExportError as error:
            failures.append(str(error))
        except Exception as error:  # exporters raise of every kind
            failures.append(_reason(format, error))
        finally:
            clear_caches(model)
    raise ExportError(
        f"a {format} file must compute what the model does, got {'; then '.join(dict.fromkeys(failures))}; "
        + ("try dynamic_batch=False" if others else "try another format (" + _other_formats(format) + ")")
    )


def _only_file(made: Path) -> Path:
    found = sorted(p.name for p in made.parent.iterdir())
    if found != [made.name]:
        raise ExportError(f"a network that takes one file, got {found} (MindSpore splits those over 1 GB)")
    return made


def _reason(format: str, error: Exception) -> str:
    """What went wrong, with the name of the op where the message tells it."""
    text = str(error)
    unknown, failed = _UNKNOWN_OP.search(text), _FAILED_OP.search(text)
    if unknown:
        return f"the op {unknown[1]}, which MindSpore cannot write in {format}"
    return f"{type(error).__name__}{f' at the op {failed[1]}' if failed else ''}: {_first_line(error)}"


def _other_formats(format: str) -> str:
    """The other formats that this machine can write."""
    ascend = ms.get_context("device_target") == "Ascend"
    return ", ".join(f for f in FORMATS if f != format and (ascend or f != "air"))


def _positional(model: nn.Cell, example: Any) -> Arguments:
    try:
        return positional(model, example)
    except TypeError as error:
        raise ExportError(
            f"an example must fit the model's construct, got {sorted(example)} ({error}); name its arguments"
        ) from error


def _run(model: Callable[..., Any], arguments: Arguments) -> list[Array]:
    try:
        outputs = [to_array(t).astype(np.float32) for t in _leaves(model(*arguments)) if isinstance(t, ms.Tensor)]
    except Exception as error:
        raise ExportError(
            f"a model must run on the example before it is exported, got {type(error).__name__}: "
            f"{_first_line(error)}; give an example of the shape and type that it expects"
        ) from error
    if not outputs or not all(np.isfinite(o).all() for o in outputs):
        raise ExportError("a model must give finite tensors on the example, got none or NaN; check its weights")
    return outputs


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _inputs(arguments: Arguments) -> list[ms.Tensor]:
    return [x for x in _leaves(arguments) if isinstance(x, ms.Tensor)]


def _named_shapes(model: nn.Cell, arguments: Arguments) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs under the names that they have in the files: those of ``construct``."""
    names = list(inspect.signature(model.construct).parameters)
    return {
        names[i] if i < len(names) and names[i] not in ("args", "kwargs") else f"input_{i}": tuple(x.shape)
        for i, x in enumerate(_inputs(arguments))
    }


def _batch(arguments: Arguments) -> int:
    return next((x.shape[0] for x in _inputs(arguments) if x.ndim), 0)


def _at_batch(arguments: Arguments, size: int) -> Arguments:
    """The inputs at another batch size."""
    batch = _batch(arguments)

    def resize(x: Any) -> Any:
        if not isinstance(x, ms.Tensor) or x.ndim == 0 or x.shape[0] != batch:
            return x
        return ms.Tensor(to_array(x)[np.arange(size) % batch], x.dtype)

    return tuple(resize(x) for x in arguments)


def _open_batch(x: Any, arguments: Arguments) -> Any:
    """A stand-in for an input whose first axis may be of any length."""
    if not isinstance(x, ms.Tensor) or x.ndim == 0 or x.shape[0] != _batch(arguments):
        return x
    return ms.Tensor(shape=(None, *x.shape[1:]), dtype=x.dtype)


def _fresh(arguments: Arguments, seed: int) -> Arguments:
    """Random inputs like the given ones; whole numbers stay within the range they had."""
    generator = np.random.default_rng(seed)

    def like(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(like(part) for part in x)
        if not isinstance(x, ms.Tensor) or x.dtype == mstype.bool_ or x.size == 0:
            return x
        if x.is_floating_point():
            return ms.Tensor(generator.standard_normal(x.shape, dtype=np.float32), x.dtype)
        values = to_array(x)
        return ms.Tensor(generator.integers(values.min(), values.max() + 1, x.shape), x.dtype)

    return tuple(like(x) for x in arguments)


def _check(
    model: nn.Cell, runner: Runner, arguments: Arguments, others: Sequence[Arguments], expected: list[Array]
) -> None:
    """Compare a loaded file with the network.

    Raises:
        ExportError: They differ.
    """
    tolerance = _tolerance(model)
    cases = [(arguments, expected)]
    for seed, like in enumerate((arguments, *others)):
        fresh = _fresh(like, seed)
        cases.append((fresh, _run(model, fresh)))
    for inputs, right in cases:
        got = runner(inputs)
        shapes = [tuple(x.shape) for x in _inputs(inputs)]
        if [g.shape for g in got] != [r.shape for r in right]:
            raise ExportError(f"outputs of shape {[g.shape for g in got]} for {[r.shape for r in right]} at {shapes}")
        for mine, theirs in zip(right, got, strict=True):
            gap = float(np.abs(mine - theirs).max(initial=0.0)) / max(float(np.abs(mine).max(initial=0.0)), 1e-6)
            if not gap <= tolerance:
                raise ExportError(f"outputs that differ by {gap:.2g} (relative; at most {tolerance:g}) at {shapes}")


def _tolerance(model: nn.Cell) -> float:
    """What the coarsest type of the network allows; mixed precision marks the cells that it casts."""
    dtypes = {p.dtype for p in model.get_parameters()} | {mstype.float32}
    for _, cell in model.cells_and_names():
        dtypes |= {t for flag, t in _FLAGS.items() if cell.get_flags().get(flag)}
    return max(_TOLERANCE.get(t, 0.0) for t in dtypes)


def _writer(format: str) -> Writer:
    def write(model: nn.Cell, arguments: Arguments, path: Path) -> None:
        ms.export(model, *arguments, file_name=str(path), file_format=format)

    return write


def _write_onnx_anew(model: nn.Cell, arguments: Arguments, path: Path) -> None:
    exporter = getattr(ms, "onnx", None)
    if exporter is None:  # versions before it
        raise ExportError("no other ONNX exporter in this version of MindSpore")
    exporter.export(model, *arguments, file_name=str(path))


def _read_mindir(path: Path) -> Iterator[Runner]:
    """The file as a cell, run in each of the framework's modes."""

    def runner(mode: int) -> Runner:
        cell = nn.GraphCell(ms.load(str(path)))

        def run(inputs: Arguments) -> list[Array]:
            before = ms.get_context("mode")
            ms.set_context(mode=mode)
            try:
                return _run(cell, tuple(_inputs(inputs)))
            finally:
                ms.set_context(mode=before)

        return run

    yield from (runner(mode) for mode in (ms.PYNATIVE_MODE, ms.GRAPH_MODE))


def _read_onnx(path: Path) -> Iterator[Runner]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(inputs: Arguments) -> list[Array]:
        tensors = [to_array(x) for x in _inputs(inputs)]
        if len(tensors) != len(names):
            raise ExportError(f"a file with {len(names)} inputs for {len(tensors)} tensors")
        return [np.asarray(o, dtype=np.float32) for o in session.run(None, dict(zip(names, tensors, strict=True)))]

    yield run


_WRITERS: dict[str, tuple[Writer, ...]] = {
    "mindir": (_writer("MINDIR"),),
    "onnx": (_writer("ONNX"), _write_onnx_anew),
    "air": (_writer("AIR"),),
}
_READERS: dict[str, Callable[[Path], Iterator[Runner]]] = {
    "mindir": _read_mindir,
    "onnx": _read_onnx,
    "air": lambda path: iter(()),  # nothing but a device runs these files
}


def _need(*modules: str) -> None:
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        raise MissingDependencyError(f"ONNX files need {', '.join(missing)}; run `pip install 'prunekit[onnx]'`")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own chatter."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)

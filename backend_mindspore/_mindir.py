"""A network as MindSpore's own compiler sees it: the one place that calls private functions."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn
from mindspore.train.mind_ir_pb2 import ModelProto

__all__ = ["clear_caches", "compiled", "first_lines", "in_mode"]


def compiled(net: nn.Cell, inputs: tuple[Any, ...]) -> Any:
    """The MindIR of a network in the mode (training or inference) in which it is; nothing of it changes.

    The two calls stand behind ``mindspore.export``; where a version lacks them, the file is written.
    """
    clear_caches(net)
    try:
        executor, proto = _executor(), ModelProto()
        if executor is None:
            return _exported(net, inputs)
        with _reports_elsewhere():
            graph, _ = executor.compile(net, *inputs, phase="export.mindir", do_convert=False)
        proto.ParseFromString(executor._get_func_graph_proto(net, graph, "mind_ir"))
        return proto
    finally:
        # a later compile of a renamed or resized network would take the graph of this one
        clear_caches(net)


@contextlib.contextmanager
def _reports_elsewhere() -> Iterator[None]:
    """Within the context the compiler does not write what it cannot compile into the working directory."""
    if "MS_OM_PATH" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MS_OM_PATH"] = folder
        try:
            yield
        finally:
            del os.environ["MS_OM_PATH"]


def clear_caches(net: nn.Cell) -> None:
    """Forget every graph that was compiled for a network."""
    for _, cell in net.cells_and_names():
        cell.compile_cache.clear()


@contextlib.contextmanager
def in_mode(net: nn.Cell, training: bool) -> Iterator[None]:
    """All cells in training or in inference mode; afterwards each is as it was."""
    before = [(cell, cell.training) for _, cell in net.cells_and_names()]
    net.set_train(training)
    try:
        yield
    finally:
        for cell, flag in before:
            cell.training = flag


def first_lines(error: Exception) -> str:
    """What an error of the framework's says, without its own inner places."""
    said = str(error).partition("\n----")[0] or str(error)  # then come places in its own code
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " ".join(lines[:3])[:400]


def _executor() -> Any:
    for module in ("mindspore.graph.api", "mindspore.common.api"):  # newer versions first
        try:
            executor = getattr(importlib.import_module(module), "_cell_graph_executor", None)
        except ImportError:
            continue
        if hasattr(executor, "compile") and hasattr(executor, "_get_func_graph_proto"):
            return executor
    return None


def _exported(net: nn.Cell, inputs: tuple[Any, ...]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.mindir"
        ms.export(net, *inputs, file_name=str(path.with_suffix("")), file_format="MINDIR")
        proto = ModelProto()
        proto.ParseFromString(path.read_bytes())
        return proto

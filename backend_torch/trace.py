"""Trace a PyTorch network into a Graph: one forward pass under a dispatch mode.

Under ``torch.inference_mode`` composite ops (linear, layer_norm, attention) arrive whole. The pass
runs on a copy without data (the meta device), or on real tensors where a model needs values.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit.backend_torch._aten import describe
from prunekit.backend_torch._copying import deep_copy
from prunekit.backend_torch._double import in_double
from prunekit.backend_torch._nested import map_tensors
from prunekit.backend_torch._sizeless import SIZELESS, follows_cuts
from prunekit.core.errors import PrunekitError, TraceError
from prunekit.core.graph import Graph, Op, Tensor
from prunekit.core.graph_builder import GraphBuilder

__all__ = ["PartialTrace", "call", "inference", "leaves", "meta_copy", "trace", "trace_copy"]


class PartialTrace(TraceError):
    """A pass broke off; ``graph`` holds the ops that ran before ``where``."""

    def __init__(self, message: str, graph: Graph, where: str) -> None:
        super().__init__(message)
        self.graph = graph
        self.where = where


def trace(model: nn.Module, example: Any) -> Graph:
    """Run ``model`` once and write down what it computes.

    Args:
        model: Any module; a copy is traced.
        example: One input, a tuple of positional inputs, or a dict of keyword inputs.

    Returns:
        The graph of inference; ops of training mode are added where they reach more parameters.

    Raises:
        TraceError: The model does not run on the example.
    """
    lazy = next((name for name, p in model.named_parameters() if nn.parameter.is_lazy(p)), None)
    if lazy is not None:
        raise TraceError(
            f"a network must have all of its parameters, got {lazy!r} of a lazy module; run the network once, as in "
            "model(example), and give it then"
        )
    try:
        return trace_copy(meta_copy(model), to_meta(example))
    except PartialTrace:
        # values are needed somewhere (.item(), a mask, a constant kept outside of buffers)
        return replace(trace_copy(deep_copy(model), example), valued=True)


def trace_copy(model: nn.Module, example: Any) -> Graph:
    """As :func:`trace`, on a copy that may be changed."""
    model.eval()
    before = _held(model)
    recorder = _Recorder(model)
    recorder.run(example)
    if _held(model) != before:  # it keeps what it worked out for the next call, which goes another way
        recorder = _Recorder(model)
        recorder.run(example)
    if recorder.unreached():
        _trace_training(model, example, recorder)
    return recorder.graph()


def _held(model: nn.Module) -> list[tuple[str, int]]:
    """The buffers of a network and other tensors that its modules keep, by ``id``."""
    return [
        (key, id(value))
        for module in model.modules() for table in (vars(module), module._buffers) for key, value in table.items()
        if isinstance(value, torch.Tensor)
    ]  # fmt: skip


def _trace_training(model: nn.Module, example: Any, recorder: _Recorder) -> None:
    """Add the ops of training mode; norms over 1×1 maps need two images, so try both."""
    model.train()
    for batch in (example, _doubled(example)):
        attempt = recorder.fork()
        try:
            attempt.run(batch)
        except PartialTrace:
            continue
        if len(attempt.unreached()) < len(recorder.unreached()):
            recorder.adopt(attempt)
            recorder.sizes_read |= attempt.sizes_read
        return


def call(model: nn.Module, example: Any) -> Any:
    """Call a model with an example: a tensor, a tuple of arguments or a dict of keywords."""
    if isinstance(example, dict):
        return model(**example)
    if isinstance(example, tuple | list):
        return model(*example)
    return model(example)


def meta_copy(model: nn.Module, tensors: dict[int, torch.Tensor] | None = None) -> nn.Module:
    """A copy of a model whose tensors hold no data.

    Args:
        model: The model.
        tensors: Replacements by ``id`` of parameter or buffer, e.g. of other shapes.
    """
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        other = None if tensors is None else tensors.get(id(tensor))
        bare = (tensor.detach() if other is None else other).to("meta")
        memo[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare
    with _DeepcopyToMeta():
        return deep_copy(model, memo)


class _DeepcopyToMeta(TorchFunctionMode):
    """Tensors kept outside of parameters and buffers lose their data too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            return args[0].detach().to("meta")
        return func(*args, **(kwargs or {}))


def to_meta(example: Any) -> Any:
    """An example without data."""
    return map_tensors(lambda t: t.to("meta"), example)


def _doubled(example: Any) -> Any:
    return map_tensors(lambda t: torch.cat([t, t]) if t.dim() else t, example)


@contextlib.contextmanager
def inference() -> Iterator[None]:
    """Inference mode, with attention written out op by op instead of its fused fast path."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _SizesRead(TorchFunctionMode):
    """Sees whether the user's own code asks how large a tensor is: it may go another way for another width."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asks = func in _SIZES or getattr(func, "__self__", None) is torch.Tensor.shape
        if asks and not self._recorder.sizes_read:
            self._recorder.sizes_read = _foreign(sys._getframe(1).f_code.co_filename)
        return func(*args, **(kwargs or {}))


_SIZES = frozenset([torch.Tensor.size, torch.Tensor.numel, torch.Tensor.__len__])


class _Recorder(GraphBuilder, TorchDispatchMode):
    """Writes down each op as it is dispatched."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(name for name, _ in model.named_parameters())
        self.model = model
        self.ids: dict[int, int] = {}
        self.alive: list[Any] = []
        self.named: dict[str, int] = {}
        self.scopes: list[str] = [""]
        self.sizeless: list[bool] = [False]
        self.sizes_read = False
        self.modules = {id(m): name for name, m in model.named_modules()}
        for name, tensor in model.named_parameters():
            self._known(tensor, "parameter", name)
        for name, tensor in model.named_buffers():
            self._known(tensor, "buffer", name)

    def graph(self) -> Graph:
        """What was gathered so far; no op counts as sizeless in a network that asks for sizes."""
        if self.sizes_read:
            for op in self.ops:
                op.attrs.pop("sizeless", None)
        return super().graph()

    def fork(self) -> _Recorder:
        """A recorder that continues this one on another pass."""
        # parameters keep their numbers: both recorders list them first, in the same order
        return self.continue_in(_Recorder(self.model))

    def run(self, example: Any) -> None:
        """Record one pass."""
        first = self.inference_ops is None
        for tensor in leaves(example):
            number = self._known(tensor, "input", "")
            if first:
                self.inputs.append(number)
        try:
            with inference(), self._follow_modules(), self, in_double(self.model), _SizesRead(self):
                result = call(self.model, example)
        except PrunekitError:  # of ours, not the model's
            raise
        except Exception as error:
            where = _user_line(error.__traceback__)
            raise PartialTrace(_failure(example, error, where), replace(self.graph(), broken=True), where) from error
        self.outputs += [self.ids[id(t)] for t in leaves(result) if id(t) in self.ids]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = None if kwargs else _known_shape(func, args)
        if out is None:
            out = func(*args, **kwargs)
        seen = describe(func, args, kwargs, out)
        if seen is not None:
            if self.sizeless[-1] or (func._schema.name in SIZELESS and not seen.attrs.get("numbers")):
                seen.attrs["sizeless"] = True
            inputs = tuple(self._id(t) for t in seen.inputs)
            outputs = tuple(self._new(t) for t in seen.outputs)
            self.ops.append(
                Op(seen.kind, inputs, outputs, seen.operands, seen.attrs, self.scopes[-1], str(func), _source())
            )
        return out

    def _id(self, tensor: torch.Tensor) -> int:
        number = self.ids.get(id(tensor))
        return self._known(tensor, "constant", "") if number is None else number

    def _new(self, tensor: torch.Tensor) -> int:
        return self._known(tensor, "activation", "", again=True)

    def _known(self, tensor: torch.Tensor, role: Any, name: str, again: bool = False) -> int:
        """Number a tensor. An op in place gives the same object: it gets a new number."""
        if not again and id(tensor) in self.ids:
            return self.ids[id(tensor)]
        learned = role in ("parameter", "buffer")
        number = self.named.get(name, len(self.tensors)) if learned else len(self.tensors)
        if number == len(self.tensors):
            self.tensors.append(Tensor(number, tuple(tensor.shape), role, name, tensor.element_size()))
            if learned:
                self.named[name] = number
        self.ids[id(tensor)] = number
        self.alive.append(tensor)  # else its id could be given to another
        return number

    @contextlib.contextmanager
    def _follow_modules(self) -> Iterator[None]:
        def enter(module: nn.Module, _: Any) -> None:
            self.scopes.append(self.modules.get(id(module), self.scopes[-1]))
            self.sizeless.append(follows_cuts(module))

        def leave(module: nn.Module, *_: Any) -> None:
            self.scopes.pop()
            self.sizeless.pop()

        hooks = nn.modules.module
        first = hooks.register_module_forward_pre_hook(enter)
        last = hooks.register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            first.remove()
            last.remove()


# the framework works out these shapes in Python, op by op; without data the answer is known
_KEEPERS = frozenset(
    f"aten::{name}"
    for name in [
        "batch_norm",
        "dropout",
        "relu",
        "hardtanh",
        "silu",
        "sigmoid",
        "hardswish",
        "hardsigmoid",
        "gelu",
        "tanh",
        "leaky_relu",
        "elu",
    ]
)
_PAIRS = frozenset(f"aten::{name}" for name in ["add", "sub", "mul"])


def _known_shape(func: Any, args: tuple[Any, ...]) -> torch.Tensor | None:
    """The output of an op without data where it is plain to see, or None."""
    if not args or not isinstance(args[0], torch.Tensor) or args[0].device.type != "meta":
        return None
    name = func._schema.name
    if name in _KEEPERS:
        return _alike(args[0])
    if name.endswith("_") and name[:-1] in _KEEPERS:
        return args[0]
    if name == "aten::linear":
        return _linear(*args)
    if name == "aten::layer_norm":
        return _alike(args[0]) if _norm_fits(*args) else None
    if name == "aten::adaptive_avg_pool2d" and args[0].dim() == 4 and len(args[1]) == 2:
        return args[0].new_empty((*args[0].shape[:2], *args[1]))
    if name in _PAIRS and func._schema.overload_name == "Tensor":
        return _larger(args[0], args[1])
    return None


def _alike(x: torch.Tensor) -> torch.Tensor:
    # the framework works out even this in Python, unless it is told the shape
    return x.new_empty(x.shape) if x.is_contiguous() else torch.empty_like(x)


def _larger(x: torch.Tensor, other: Any) -> torch.Tensor | None:
    """What an op of two tensors gives of which one is repeated along axes of length one, if any."""
    if not isinstance(other, torch.Tensor) or other.dtype != x.dtype or other.dim() != x.dim():
        return None
    if all(b in (a, 1) for a, b in zip(x.shape, other.shape, strict=True)):
        return _alike(x)
    return _alike(other) if all(a in (b, 1) for a, b in zip(x.shape, other.shape, strict=True)) else None


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor | None:
    fits = weight.dim() == 2 and x.dim() > 1 and x.shape[-1] == weight.shape[1] and x.dtype == weight.dtype
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _norm_fits(x: torch.Tensor, shape: Any, weight: Any = None, bias: Any = None, *_: Any) -> bool:
    own = tuple(x.shape[x.dim() - len(shape) :])
    return own == tuple(shape) and all(p is None or tuple(p.shape) == own for p in (weight, bias))


def leaves(result: Any) -> list[torch.Tensor]:
    """Tensors in whatever a model takes or returns: nested containers, mappings, dataclasses, objects; caches apart."""
    return list(_leaves(result, set()))


_WHOLE = (type, enum.Enum, ModuleType, nn.Module)  # what they hold is none of the answer


def _leaves(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
        return
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, tuple | list):
        parts = value
    # keys and values kept for the next token are the network's own: as wide as its heads
    elif hasattr(value, "__dict__") and type(value).__module__ != "transformers.cache_utils":
        parts = () if isinstance(value, _WHOLE) else vars(value).values()
    if id(value) not in seen:  # parts of an answer may point at the whole
        seen.add(id(value))
        for part in parts:
            yield from _leaves(part, seen)


_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep


def _foreign(filename: str) -> bool:
    return not filename.startswith((_TORCH, _HERE, "<"))


def _source() -> str:
    """``file:line`` of the nearest frame that is neither PyTorch's nor ours."""
    frame = sys._getframe(2)
    while frame is not None:
        if _foreign(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if frame.f_code.co_name == "run" and frame.f_code.co_filename == __file__:
            return ""
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _failure(example: Any, error: Exception, where: str) -> str:
    """What to say of a model that does not run on an example."""
    shapes = [tuple(t.shape) for t in leaves(example)]
    if not shapes:
        kind = type(example).__name__
        return (
            f"an example must hold tensors of PyTorch, got a {kind} without any; give torch.randn(1, 3, 224, 224) or so"
        )
    place = "" if where == _UNKNOWN else f" at {where}"
    return (
        f"the model must run on the example (shapes {shapes}), got {type(error).__name__}: {error}{place}; "
        "give an example of the shape and type that the model expects"
    )


_UNKNOWN = "an unknown place"


def _user_line(traceback: Any) -> str:
    """``file:line`` of the innermost user frame of an error."""
    where = ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if _foreign(code.co_filename):
            where = f"{code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return where or _UNKNOWN

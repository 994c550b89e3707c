"""Make a smaller model: a copy in which parameters are sliced and layers know their new widths."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from prunekit.backend_torch._copying import deep_copy
from prunekit.backend_torch._hf_config import follow_config
from prunekit.backend_torch.trace import PartialTrace, meta_copy, to_meta, trace_copy
from prunekit.core.analysis import Analysis, check_cut
from prunekit.core.carried import hand_on_plan
from prunekit.core.graph import Graph
from prunekit.core.numbers import set_numbers, whole_numbers
from prunekit.core.plan import PruningPlan

__all__ = ["apply", "integers", "sliced", "trace_cut"]


def apply(analysis: Analysis, plan: PruningPlan, *, check: bool = True) -> nn.Module:
    """A new, smaller model; see ``core.backend.Backend.apply``."""
    plan.check(analysis.coupling)
    if check:
        check_cut(analysis, plan, lambda: trace_cut(analysis, plan))
    small = _cut(analysis, plan)
    if check:
        follow_config(small, analysis, plan)
    hand_on_plan(analysis.model, small, plan)
    return small


def _cut(analysis: Analysis, plan: PruningPlan) -> nn.Module:
    model, cuts = analysis.model, analysis.coupling.cuts(plan)
    memo: dict[int, Any] = {}
    room: Room = {}
    for name, tensor in _tensors(model).items():
        if name in cuts:
            value = sliced(tensor.detach(), cuts[name], room)
            memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
    small = deep_copy(model, memo)
    _follow(small, analysis, plan)
    return small


def trace_cut(analysis: Analysis, plan: PruningPlan) -> Graph:
    """Trace of the model as the plan would cut it, without data."""
    cuts = analysis.coupling.cuts(plan)
    empty: dict[int, torch.Tensor] = {}
    for name, tensor in _tensors(analysis.model).items():
        if name in cuts:
            shape = list(tensor.shape)
            for axis, kept in cuts[name].items():
                shape[axis] = len(kept)
            empty[id(tensor)] = torch.empty(shape, dtype=tensor.dtype, device="meta")
    small = meta_copy(analysis.model, empty)
    _follow(small, analysis, plan)
    try:
        return trace_copy(small, to_meta(analysis.example))
    except PartialTrace as error:
        if not analysis.graph.valued:
            return error.graph
    try:
        return trace_copy(_cut(analysis, plan), analysis.example)
    except PartialTrace as error:
        return error.graph


Room = dict[tuple[torch.dtype, torch.device], torch.Tensor]
"""Memory for what lies between two cuts of a tensor; new memory costs more than the cut itself."""


def sliced(tensor: torch.Tensor, cuts: Mapping[int, Any], room: Room | None = None) -> torch.Tensor:
    """A contiguous copy with the kept indices of each axis."""
    left = len(cuts)
    for axis, kept in cuts.items():
        index = torch.as_tensor(kept, device=tensor.device)
        left -= 1
        between = None if room is None or left != 1 else _between(tensor, axis, len(index), room)
        tensor = torch.index_select(tensor, axis, index, out=between)
    return tensor.contiguous() if cuts else tensor.clone()


def _between(tensor: torch.Tensor, axis: int, length: int, room: Room) -> torch.Tensor:
    shape = [length if a == axis else n for a, n in enumerate(tensor.shape)]
    size, key = prod(shape), (tensor.dtype, tensor.device)
    if key not in room or room[key].numel() < size:
        room[key] = tensor.new_empty(size)
    return room[key][:size].view(shape)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def integers(model: nn.Module) -> dict[str, tuple[type, dict[str, int]]]:
    """Whole numbers of all modules but the framework's own; see ``core.backend.Backend.integers``."""
    found = {}
    for name, module in model.named_modules():
        ours = isinstance(module, nn.MultiheadAttention)  # it follows its weights, but code of its own ties widths
        if ours or not type(module).__module__.startswith("torch.nn."):
            numbers = {} if ours else whole_numbers(vars(module))
            found[name] = type(module), numbers
    return found


def _follow(small: nn.Module, analysis: Analysis, plan: PruningPlan) -> None:
    """Make all that a cut model knows of its widths follow them."""
    update_layers(small, analysis.coupling.attention, analysis.coupling.grouped)
    _update_bare_norms(small, analysis, plan)
    set_numbers(dict(small.named_modules(remove_duplicate=False)), analysis.coupling.integers(plan))


def update_layers(model: nn.Module, attention: str, grouped: str = "within") -> None:
    """Make the framework's own layers say the widths that their parameters have."""
    for module in model.modules():
        _refresh(module)
        if isinstance(module, nn.MultiheadAttention):
            _multihead(module, attention)
            continue
        if isinstance(module, nn.modules.conv._ConvNd):
            _conv(module, grouped == "whole")
            continue
        for kind, update in _UPDATES:
            if isinstance(module, kind):
                update(module)
                break


def _refresh(module: nn.Module) -> None:
    """Work out anew what the older weight and spectral norms keep beside the parameters that were cut."""
    for hook in module._forward_pre_hooks.values():
        with torch.no_grad():
            if isinstance(hook, WeightNorm):
                setattr(module, hook.name, hook.compute_weight(module))
            elif isinstance(hook, SpectralNorm):
                setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))


def _update_bare_norms(small: nn.Module, analysis: Analysis, plan: PruningPlan) -> None:
    """Norms without parameters: what they normalise tells their widths."""
    bare = [op for op in analysis.graph.all_ops if op.kind in _NORMS and len(op.inputs) == 1]
    if not bare:
        return
    forms = analysis.coupling.forms
    lengths = forms.lengths(plan.widths(analysis.coupling)[None])[0]
    for op in bare:
        module: Any = small.get_submodule(op.scope)
        shape = forms.shape(op.inputs[0], lengths)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and op.kind == "layer_norm":
            module.normalized_shape = tuple(shape[a] for a in op.attrs["axes"])
        elif isinstance(module, nn.GroupNorm) and op.kind == "group_norm":
            module.num_channels = shape[op.attrs["axis"]]
        elif isinstance(module, nn.modules.batchnorm._NormBase) and op.kind == "channel_affine":
            module.num_features = shape[op.attrs["axis"]]


_NORMS = ("layer_norm", "group_norm", "channel_affine")


def _conv(m: Any, whole_groups: bool) -> None:
    depthwise = m.groups > 1 and m.weight.shape[1] == 1 and not m.transposed and m.in_channels == m.groups
    transposed_depthwise = m.transposed and m.groups > 1 and m.weight.shape[1] == 1 and m.in_channels == m.groups
    if depthwise or (whole_groups and m.groups > 1 and not m.transposed):
        m.groups = m.weight.shape[0] * m.groups // m.out_channels
    elif transposed_depthwise:
        m.groups = m.weight.shape[0]
    first, second = m.weight.shape[0], m.weight.shape[1] * m.groups
    m.in_channels, m.out_channels = (first, second) if m.transposed else (second, first)


def _linear(m: Any) -> None:
    m.out_features, m.in_features = m.weight.shape


def _batch_norm(m: Any) -> None:
    known = m.weight if m.weight is not None else m.running_mean
    if known is not None:
        m.num_features = known.shape[0]


def _layer_norm(m: Any) -> None:
    if m.weight is not None:
        m.normalized_shape = tuple(m.weight.shape)


def _group_norm(m: Any) -> None:
    if m.weight is not None:
        m.num_channels = m.weight.shape[0]


def _prelu(m: Any) -> None:
    m.num_parameters = m.weight.shape[0]


def _multihead(m: Any, attention: str) -> None:
    width = m.out_proj.weight.shape[0]
    if m.kdim == m.embed_dim:
        m.kdim = width
    if m.vdim == m.embed_dim:
        m.vdim = width
    if attention == "heads":
        m.num_heads = max(1, width // m.head_dim)
    else:
        m.head_dim = width // m.num_heads
    m.embed_dim = width


def _embedding(m: Any) -> None:
    m.num_embeddings, m.embedding_dim = m.weight.shape


_UPDATES = (
    (nn.Linear, _linear),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.PReLU, _prelu),
    (nn.Embedding, _embedding),
)

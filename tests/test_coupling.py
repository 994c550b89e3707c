"""Labels, groups and verification, on small networks whose groups can be told by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import Mixed, randomise
from torch import nn

from prunekit.backend_torch.backend import TorchBackend
from prunekit.core.analysis import analyse
from prunekit.core.coupling import LabelSpace, couple
from prunekit.core.errors import InputError
from prunekit.core.plan import PruningPlan
from prunekit.core.testing import random_plan, relative_error

BACKEND = TorchBackend()


class Code(nn.Module):
    """Two convs with the user's own code between them."""

    def __init__(self, body: Any, channels: int = 12, after: int = 12, **layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.last = nn.Conv2d(after, 5, 1)
        self.body = body
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(self, self.first(x)))


def look(model: nn.Module, shape: tuple[int, ...] = (2, 3, 6, 6), **options: Any) -> Any:
    return analyse(BACKEND, model.double().eval(), torch.randn(*shape).double(), **options)


def check(analysis: Any) -> None:
    for seed in range(2):
        plan = random_plan(analysis, seed=seed)
        with torch.inference_mode():
            found = BACKEND.apply(analysis, plan)(analysis.example)
            with BACKEND.masked(analysis, plan):
                expected = analysis.model(analysis.example)
        assert relative_error(found, expected) < 1e-9


edges = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60)


@given(edges)
def test_labels_unite_as_a_plain_union_find_does(pairs: list[tuple[int, int]]) -> None:
    space = LabelSpace()
    labels = space.fresh(30)
    expected = list(range(30))
    for a, b in pairs:
        space.unite(labels[[a]], labels[[b]])
        low, high = sorted((expected[a], expected[b]))
        expected = [low if e == high else e for e in expected]
    assert space.find(labels).tolist() == expected


def test_labels_grow_and_keep_their_unions() -> None:
    space = LabelSpace()
    a = space.fresh(1000)
    space.unite(a[:500], a[500:])
    space.find(a)
    b = space.fresh(100_000)
    assert np.array_equal(space.find(a[:500]), space.find(a[500:]))
    assert len(np.unique(space.find(b))) == 100_000


def test_groups_of_a_mixed_network() -> None:
    groups = {g.name: g for g in look(Mixed(), (2, 3, 16, 16)).groups}
    # position i of all four parts of the grouped conv goes at once: for i < 4 these are two
    # channels of `left` and two of `right`, after that one and three
    sizes = {"stem.0": 16, "squeeze": 8, "left": 4, "left#1": 4, "grouped": 6, "hidden": 20}
    assert {n: g.size for n, g in groups.items()} == sizes
    stem = {(m.layer, m.role) for m in groups["stem.0"].members}
    for layer, role in [("a", "out"), ("a", "in"), ("depthwise", "out"), ("excite", "out"), ("left", "in")]:
        assert (layer, role) in stem
    dense = next(m for m in groups["grouped"].members if m.layer == "hidden")
    assert dense.indices.shape == (6, 16), "4 groups × 4 positions go with each"


def test_the_classifier_is_frozen_with_its_reason() -> None:
    frozen = look(Mixed(), (2, 3, 16, 16)).coupling.frozen
    assert [(f.name, f.size, f.reason) for f in frozen] == [("fc", 10, "output of the network")]


def test_ignored_layers_stay() -> None:
    analysis = look(Mixed(), (2, 3, 16, 16), ignore=("stem*",))
    assert "stem.0" not in analysis.coupling.index
    assert any("ignored by the user" in f.reason for f in analysis.coupling.frozen)
    with pytest.raises(InputError, match="nosuch"):
        look(Mixed(), (2, 3, 16, 16), ignore=("nosuch",))
    with pytest.raises(InputError, match="head_dim"):
        couple(analysis.graph, attention="tails")


CASES = {
    "relu and residual": lambda m, x: torch.relu(x) + x,
    "in place": lambda m, x: x.relu_().add_(1.0) * x,
    "halves swapped": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "gated halves": lambda m, x: torch.cat([x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid()] * 2, 1),
    "shuffle": lambda m, x: x.view(x.shape[0], 3, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    "channels last": lambda m, x: nn.functional.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "mean over channels": lambda m, x: x - x.mean(1, keepdim=True),
    "softmax over channels": lambda m, x: x.softmax(1),
    "global context": lambda m, x: x * x.flatten(2).max(2)[0][:, :, None, None],
    "expand": lambda m, x: x * x.mean((2, 3), keepdim=True).expand_as(x).sigmoid(),
    "stack": lambda m, x: torch.stack([x, x.abs()]).sum(0),
    "einsum": lambda m, x: torch.einsum("nchw,ncxy->nchw", x, x),
    "upsample": lambda m, x: nn.functional.interpolate(x, scale_factor=2),
    "spatial pad": lambda m, x: nn.functional.pad(x, (1, 1)),
    "reflected": lambda m, x: nn.functional.pad(x, (1, 2, 1, 0), mode="reflect"),
    "replicated": lambda m, x: nn.functional.pad(x, (1, 2, 1, 0), mode="replicate"),
    "wrapped around": lambda m, x: nn.functional.pad(x, (1, 2, 1, 0), mode="circular"),
    "rows by index": lambda m, x: x.index_select(2, torch.tensor([2, 0, 2])) + x[:, :, torch.tensor([1, 0, 3])],
    "write into a slice": lambda m, x: _written(x),
}


def _written(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, :, :3] = x[:, :, :3]
    return y


@pytest.mark.parametrize("name", CASES)
def test_code_between_layers_is_cut_exactly(name: str) -> None:
    analysis = look(Code(CASES[name]))
    assert analysis.groups[0].name == "first"
    check(analysis)


LAYERS = {
    "batch norm": nn.BatchNorm2d(12), "group norm": nn.GroupNorm(3, 12), 
    "instance norm": nn.InstanceNorm2d(12, affine=True),
    "prelu": nn.PReLU(12), "grouped": nn.Conv2d(12, 12, 3, padding=1, groups=3), 
    "depthwise": nn.Conv2d(12, 12, 1, groups=12),
    "multiplier": nn.Sequential(nn.Conv2d(12, 24, 1, groups=12), nn.Conv2d(24, 12, 1)),
    "transposed": nn.ConvTranspose2d(12, 12, 2, stride=2),
    "transposed depthwise": nn.ConvTranspose2d(12, 12, 2, stride=2, groups=12),
    "transposed grouped": nn.ConvTranspose2d(12, 12, 2, stride=2, groups=3),
    "weight norm": nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 12, 1)),
    "spectral norm": nn.utils.parametrizations.spectral_norm(nn.Conv2d(12, 12, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_cut_exactly(name: str) -> None:
    check(look(randomise(Code(lambda m, x: m.layer(x), layer=LAYERS[name]))))


BARE = {
    "instance norm": (nn.InstanceNorm2d(12), lambda m, x: m.layer(x), "num_features"),
    "group norm": (nn.GroupNorm(3, 12, affine=False), lambda m, x: m.layer(x), "num_channels"),
    "layer norm": (nn.LayerNorm(12, elementwise_affine=False), lambda m, x: m.layer(x.mT).mT, "normalized_shape"),
}


@pytest.mark.parametrize("name", BARE)
def test_norms_without_parameters_learn_their_widths(name: str) -> None:
    layer, body, attribute = BARE[name]
    analysis = look(Code(lambda m, x: body(m, x.flatten(2) if name == "layer norm" else x).view_as(x), layer=layer))
    check(analysis)
    plan = random_plan(analysis)
    small = BACKEND.apply(analysis, plan)
    width, found = small.first.out_channels, getattr(small.layer, attribute)
    assert width < 12 and found == ((width,) if name == "layer norm" else width)


class Standardised(nn.Conv2d):
    """Its weights are normalised, as one row for each output, every time it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.weight.reshape(1, self.weight.shape[0], -1)
        weight = nn.functional.batch_norm(rows, None, None, training=True).reshape(self.weight.shape)
        return nn.functional.conv2d(x, weight, self.bias, padding=1)


def test_a_parameter_behind_a_function_has_the_role_of_its_layer() -> None:
    analysis = look(Code(lambda m, x: m.layer(x), after=8, layer=Standardised(12, 8, 3)))
    check(analysis)
    groups = {g.name: {(m.name, m.axis, m.role) for m in g.members} for g in analysis.groups}
    assert set(groups) == {"first", "layer"}
    assert ("layer.weight", 1, "in") in groups["first"]
    assert ("layer.weight", 0, "out") in groups["layer"]
    assert [f.name for f in analysis.coupling.frozen] == ["last"], "kernel axes are nothing to report"


def test_channels_that_a_conv_slides_over_are_named() -> None:
    """Efficient channel attention takes channels for positions."""
    layer = nn.Conv1d(1, 1, 3, padding=1)
    analysis = look(Code(lambda m, x: x * m.layer(x.mean((2, 3)).unsqueeze(1)).mT.unsqueeze(3), layer=layer))
    assert not analysis.groups
    (first,) = [f for f in analysis.coupling.frozen if f.name == "first"]
    assert first.reason == "position in the image for layer"


FREEZING = {
    "literal view": (lambda m, x: x.view(2, 12, -1).view(2, 12, 6, 6), "a number in the code"),
    "literal slice": (lambda m, x: torch.cat([x[:, :5] * 2, x[:, 5:]], 1), "a number in the code"),
    "one channel": (lambda m, x: x * x[:, 3].unsqueeze(1), "indexed one by one"),
    "unknown op": (lambda m, x: torch.fft.fft(x, dim=1).real, "unknown operation"),
}


@pytest.mark.parametrize("name", FREEZING)
def test_what_cannot_be_cut_is_frozen_by_name(name: str) -> None:
    body, reason = FREEZING[name]
    analysis = look(Code(body))
    assert "first" not in analysis.coupling.index
    frozen = {f.name: f for f in analysis.coupling.frozen}
    assert reason in frozen["first"].reason
    if reason.startswith("a number"):
        assert "test_coupling.py:" in frozen["first"].where
    if analysis.groups:
        check(analysis)


def _put(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, torch.arange(0, x.shape[1], 2)] = 1.0
    return y


ODD = {
    "divided by the width": lambda m, x: x / x.shape[1] ** 0.5,
    "divided by a tensor of the width": lambda m, x: x / torch.tensor(float(x.shape[1])),
    "divided by a filled tensor": lambda m, x: x / torch.full((1,), x.shape[1]),
    "constant power": lambda m, x: x.abs().clamp(0.1, x.shape[1] / 8),
    "a ramp over channels": lambda m, x: x * torch.arange(x.shape[1]).view(-1, 1, 1),
    "a linspace over channels": lambda m, x: x * torch.linspace(0, 1, x.shape[1]).view(-1, 1, 1),
    "strongest channel": lambda m, x: x * x.argmax(1, keepdim=True),
    "value and place of the maximum": lambda m, x: x + x.max(1, keepdim=True)[1],
    "maximum alone": lambda m, x: x + x.max(1, keepdim=True)[0],
    "top channels": lambda m, x: x + x.topk(3, 1)[0].sum(1, keepdim=True),
    "sorted": lambda m, x: x.sort(1)[0],
    "cumulated": lambda m, x: x.cumsum(1),
    "flipped": lambda m, x: x.flip(1) * 2 + x,
    "rolled": lambda m, x: x.roll(1, 1),
    "written by index": lambda m, x: _put(x),
    "scattered": lambda m, x: torch.zeros_like(x).scatter(1, x.argsort(1), x),
    "gathered": lambda m, x: x.gather(1, (x > 0).long()),
    "masked fill": lambda m, x: x.masked_fill(x < 0, -1.0),
    "gram": lambda m, x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).softmax(-1).matmul(x.flatten(2)).view_as(x),
    "normalised": lambda m, x: nn.functional.normalize(x, dim=1),
    "spread": lambda m, x: x / x.std(1, keepdim=True),
    "product": lambda m, x: x * x.tanh().prod(1, keepdim=True),
    "pixel shuffle": lambda m, x: nn.functional.pixel_unshuffle(nn.functional.pixel_shuffle(x, 2), 2),
    "padded channels": lambda m, x: nn.functional.pad(x, (0, 0, 0, 0, 0, 4))[:, :12],
    "repeated": lambda m, x: x.repeat(1, 2, 1, 1)[:, ::2],
    "repeated each": lambda m, x: x.repeat_interleave(2, 1)[:, ::2],
    "unfolded": lambda m, x: nn.functional.fold(nn.functional.unfold(x, 2), (6, 6), 2),
    "channel pooling": lambda m, x: nn.functional.max_pool3d(x.unsqueeze(1), (3, 1, 1), 1, (1, 0, 0)).squeeze(1),
    "local response": lambda m, x: nn.functional.local_response_norm(x, 3),
    "layer norm over all": lambda m, x: nn.functional.layer_norm(x, x.shape[1:]),
    "distance of channels": lambda m, x: x * torch.cdist(x.flatten(2), x.flatten(2)).mean(2)[..., None, None],
    "outer product": lambda m, x: torch.einsum("nchw,ndhw->ncd", x, x).softmax(2).sum(2)[..., None, None] * x,
    "one buffer per channel": lambda m, x: x * m.layer.gain.view(-1, 1, 1),
    "a constant of the class": lambda m, x: x * GAIN.view(-1, 1, 1),
    "boolean mask": lambda m, x: x[:, torch.arange(x.shape[1]) % 2 == 0].repeat(1, 2, 1, 1),
    "moved axes": lambda m, x: x.movedim(1, -1).unflatten(-1, (3, -1)).flatten(-2).movedim(-1, 1),
    "group mean": lambda m, x: (x.unflatten(1, (4, 3)) - x.unflatten(1, (4, 3)).mean(2, keepdim=True)).flatten(1, 2),
    "channels by index": lambda m, x: x.index_select(1, torch.arange(12)) + x[:, torch.arange(11, -1, -1)],
    "causal over channels": lambda m, x: x * torch.ones(x.shape[1], x.shape[1]).tril().sum(1).view(-1, 1, 1),
    "count of channels": lambda m, x: x * (x > 0).sum(1, keepdim=True),
}
GAIN = torch.linspace(1, 2, 12)


class Gain(nn.Module):
    """A buffer with one number for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.linspace(1, 2, 12))


@pytest.mark.parametrize("name", ODD)
def test_odd_code_is_cut_exactly_or_frozen(name: str) -> None:
    analysis = look(Code(ODD[name], layer=Gain()))
    assert analysis.groups or any(group.reason for group in analysis.coupling.frozen)
    if analysis.groups:
        check(analysis)


def test_a_channel_picked_out_by_number_stays() -> None:
    """The first channel of any cut starts at 0, so only its label can tell that another took its place."""
    analysis = look(Code(lambda m, x: x * x[:, :1]))
    (group,) = analysis.groups
    assert group.size == 11
    assert 0 not in group.members[0].indices
    assert any("picked out by number" in f.reason for f in analysis.coupling.frozen)
    check(analysis)


def test_tied_weights_are_cut_together() -> None:
    model = Code(lambda m, x: m.twin(m.layer(x)), layer=nn.Conv2d(12, 12, 1), twin=nn.Conv2d(12, 12, 1))
    model.twin.weight = model.layer.weight
    analysis = look(model)
    assert [g.size for g in analysis.groups] == [12]
    check(analysis)
    small = BACKEND.apply(analysis, random_plan(analysis))
    assert small.twin.weight is small.layer.weight


def test_widths_of_all_axes_follow_the_plan() -> None:
    analysis = look(Mixed(), (2, 3, 16, 16))
    plan = random_plan(analysis)
    lengths = analysis.coupling.forms.lengths(plan.widths(analysis.coupling)[None])[0]
    small = BACKEND.trace(BACKEND.apply(analysis, plan), analysis.example)
    for before, after in zip(analysis.graph.ops, small.ops, strict=True):
        for old, new in zip(before.outputs, after.outputs, strict=True):
            assert analysis.coupling.forms.shape(old, lengths) == small.tensors[new].shape


def test_parameters_that_nothing_reads_are_named() -> None:
    analysis = look(Code(lambda m, x: x, spare=nn.Linear(4, 4)))
    assert analysis.graph.unreached == ("spare.weight", "spare.bias")
    assert any(f.name == "spare.weight" and f.reason == "reached by no trace" for f in analysis.coupling.frozen)
    assert PruningPlan.full(analysis.coupling).kept.keys() == {"first"}

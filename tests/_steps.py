"""Steps of random networks: layers, and code between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from _designs import SIDE, Design, divisor
from torch import nn
from torch.nn import functional as F

Code = Callable[["Step", torch.Tensor, torch.Tensor], torch.Tensor]


class Step(nn.Module):
    """One step of a network: a function of two earlier tensors, with layers of its own."""

    def __init__(self, out: int, code: Code, **layers: nn.Module | nn.Parameter | torch.Tensor) -> None:
        super().__init__()
        self.out = out
        self.code = code
        for name, layer in layers.items():
            if isinstance(layer, torch.Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.code(self, x, y)


KINDS: dict[str, Callable[[int, int, int], Step]] = {}
"""How each kind of step is made from the widths of its two inputs and a wish for its own."""


def kind(function: Callable[[int, int, int], Step]) -> Callable[[int, int, int], Step]:
    KINDS[function.__name__] = function
    return function


def plane(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=(SIDE, SIDE))


@kind
def conv(x: int, y: int, n: int) -> Step:
    return Step(n, lambda m, x, y: m.layer(x), layer=nn.Conv2d(x, n, 3, padding=1))


@kind
def strided(x: int, y: int, n: int) -> Step:
    return Step(n, lambda m, x, y: plane(m.layer(x)), layer=nn.Conv2d(x, n, 2, stride=2, bias=False))


@kind
def grouped(x: int, y: int, n: int) -> Step:
    return Step(n, lambda m, x, y: m.layer(x), layer=nn.Conv2d(x, n, 3, padding=1, groups=divisor(x, n)))


@kind
def depthwise(x: int, y: int, n: int) -> Step:
    times = 1 + n % 3 % 2
    return Step(x * times, lambda m, x, y: m.layer(x), layer=nn.Conv2d(x, x * times, 3, padding=1, groups=x))


@kind
def transposed(x: int, y: int, n: int) -> Step:
    layer = nn.ConvTranspose2d(x, n, 2, stride=2)
    return Step(n, lambda m, x, y: F.avg_pool2d(m.layer(x), 2), layer=layer)


@kind
def transposed_grouped(x: int, y: int, n: int) -> Step:
    layer = nn.ConvTranspose2d(x, n, 3, padding=1, groups=divisor(x, n))
    return Step(n, lambda m, x, y: m.layer(x), layer=layer)


@kind
def transposed_depthwise(x: int, y: int, n: int) -> Step:
    times = 1 + n % 3 % 2
    layer = nn.ConvTranspose2d(x, x * times, 3, padding=1, groups=x)
    return Step(x * times, lambda m, x, y: m.layer(x), layer=layer)


@kind
def batch_norm(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: torch.relu(m.layer(x)), layer=nn.BatchNorm2d(x))


@kind
def group_norm(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: m.layer(x), layer=nn.GroupNorm(divisor(x), x))


@kind
def group_norm_of_one(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: m.layer(x), layer=nn.GroupNorm(1, x))


@kind
def instance_norm(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: m.layer(x), layer=nn.InstanceNorm2d(x, affine=n % 4 == 0))


@kind
def layer_norm(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: m.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), layer=nn.LayerNorm(x))


@kind
def prelu(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: m.layer(x), layer=nn.PReLU(x))


@kind
def activated(x: int, y: int, n: int) -> Step:
    if n % 2 == 0:
        return Step(x, lambda m, x, y: F.silu(x))
    return Step(x, lambda m, x, y: F.leaky_relu(F.elu(x) + F.relu6(x), 0.1))


@kind
def add(x: int, y: int, n: int) -> Step:
    if x == y:
        return Step(x, lambda m, x, y: x + y)
    return Step(y, lambda m, x, y: m.layer(x).add_(y), layer=nn.Conv2d(x, y, 1))


@kind
def multiply(x: int, y: int, n: int) -> Step:
    if x == y:
        return Step(x, lambda m, x, y: x * y.sigmoid())
    return Step(y, lambda m, x, y: torch.tanh(m.layer(x)) * y, layer=nn.Conv2d(x, y, 1))


@kind
def concat(x: int, y: int, n: int) -> Step:
    return Step(x + y, lambda m, x, y: torch.cat([x, y], 1))


@kind
def dense(x: int, y: int, n: int) -> Step:
    return Step(x + n, lambda m, x, y: torch.cat([x, m.layer(F.relu(x))], 1), layer=nn.Conv2d(x, n, 1))


@kind
def swapped(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: torch.cat(x.chunk(divisor(x.shape[1]), 1)[::-1], 1) if m.out % 2 == 0 else -x)


@kind
def gated(x: int, y: int, n: int) -> Step:
    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        left, right = m.layer(x).chunk(2, 1)
        return left * right.sigmoid()

    return Step(n, code, layer=nn.Conv2d(x, 2 * n, 1))


@kind
def listed(x: int, y: int, n: int) -> Step:
    """Split by numbers that only the code knows."""

    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        left, right = m.layer(x).split([n, y.shape[1]], 1)
        return torch.cat([torch.tanh(right), left], 1)

    return Step(n + y, code, layer=nn.Conv2d(x, n + y, 1))


class SplitAt(Step):
    """Split at a number that the code holds."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n + 4, Step.forward, layer=nn.Conv2d(x, n + 4, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        return torch.cat([torch.tanh(x[:, 4:]), x[:, :4]], 1)


KINDS["split_at"] = SplitAt


@kind
def shuffle(x: int, y: int, n: int) -> Step:
    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], parts, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)

    parts = divisor(x)
    return Step(x, code)


@kind
def pixel_shuffle(x: int, y: int, n: int) -> Step:
    return Step(n, lambda m, x, y: F.max_pool2d(F.pixel_shuffle(m.layer(x), 2), 2), layer=nn.Conv2d(x, 4 * n, 1))


@kind
def squeeze_excite(x: int, y: int, n: int) -> Step:
    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * m.excite(torch.relu(m.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()

    return Step(x, code, squeeze=nn.Conv2d(x, n, 1), excite=nn.Conv2d(n, x, 1))


@kind
def pooled(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: plane(F.max_pool2d(F.pad(x, (0, 1, 1, 0)), 2, 1)) - x)


@kind
def flattened(x: int, y: int, n: int) -> Step:
    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * m.last(torch.relu(m.first(F.adaptive_avg_pool2d(x, 2).flatten(1))))[:, :, None, None]

    return Step(x, code, first=nn.Linear(4 * x, n), last=nn.Linear(n, x))


@kind
def linear(x: int, y: int, n: int) -> Step:
    layers = nn.Sequential(nn.Linear(x, 2 * n), nn.GELU(), nn.Linear(2 * n, n))
    return Step(n, lambda m, x, y: m.layers(x.permute(0, 2, 3, 1)).movedim(-1, 1), layers=layers)


@kind
def tokens(x: int, y: int, n: int) -> Step:
    """Positions mixed with each other, channel by channel."""
    layers = {"first": nn.Linear(SIDE * SIDE, 2 * n), "last": nn.Linear(2 * n, SIDE * SIDE)}
    return Step(x, lambda m, x, y: x + m.last(torch.relu(m.first(x.flatten(2)))).reshape(x.shape), **layers)


@kind
def einsum(x: int, y: int, n: int) -> Step:
    weight = nn.Parameter(torch.randn(n, x))
    return Step(n, lambda m, x, y: torch.einsum("nchw,oc->nohw", x, m.weight), weight=weight)


@kind
def attention(x: int, y: int, n: int) -> Step:
    """Heads cut out of one projection, as vision transformers do."""

    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(2).transpose(1, 2)
        parts = m.project(rows).reshape(*rows.shape[:2], 3, 2, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        seen = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        return m.out_project(seen.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (SIDE, SIDE))

    return Step(n, code, project=nn.Linear(x, 6 * n), out_project=nn.Linear(2 * n, n))


class SelfAttention(Step):
    """The same in a method, whose numbers a cut can set."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n, Step.forward, project=nn.Linear(x, 6 * n), out_project=nn.Linear(2 * n, n))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(2).transpose(1, 2)
        parts = self.project(rows).reshape(x.shape[0], SIDE * SIDE, 3, 2, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        seen = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        return self.out_project(seen.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (SIDE, SIDE))


KINDS["self_attention"] = SelfAttention


@kind
def cross_attention(x: int, y: int, n: int) -> Step:
    """What one tensor asks and the other answers, by layers of their own, in heads whose number is an attribute."""

    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        asking, asked = (t.flatten(2).transpose(1, 2) for t in (x, y))
        query = m.query(asking).unflatten(2, (m.heads, -1)).transpose(1, 2)
        key = m.key(asked).unflatten(2, (m.heads, -1)).transpose(1, 2)
        value = m.value(asked).unflatten(2, (m.heads, -1)).transpose(1, 2)
        seen = (query @ key.transpose(-2, -1) * 0.5).softmax(-1) @ value
        return m.out_project(seen.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (SIDE, SIDE))

    layers = {"query": nn.Linear(x, 3 * n), "key": nn.Linear(y, 3 * n), "value": nn.Linear(y, 3 * n)}
    step = Step(n, code, **layers, out_project=nn.Linear(3 * n, n))
    step.heads = 3
    return step


@kind
def in_heads(x: int, y: int, n: int) -> Step:
    """Softmax over positions, head by head, with the number of heads in the code."""

    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(x.shape[0], parts, -1, SIDE * SIDE)
        return (heads.softmax(-1) * heads.mean(2, keepdim=True)).reshape(x.shape)

    parts = divisor(x)
    return Step(x, code)


@kind
def twice(x: int, y: int, n: int) -> Step:
    """One layer used twice."""
    return Step(x, lambda m, x, y: m.layer(torch.relu(m.layer(x))), layer=nn.Conv2d(x, x, 1))


@kind
def tied(x: int, y: int, n: int) -> Step:
    """Two layers with one weight."""
    one, two = nn.Conv2d(x, n, 1), nn.Conv2d(x, n, 1)
    two.weight = one.weight
    return Step(n, lambda m, x, y: m.one(x) + m.two(x.tanh()), one=one, two=two)


@kind
def shared(x: int, y: int, n: int) -> Step:
    """One layer for two tensors."""
    fit = nn.Identity() if x == y else nn.Conv2d(y, x, 1)
    layer = nn.Conv2d(x, n, 1)
    return Step(2 * n, lambda m, x, y: torch.cat([m.layer(x), m.layer(m.fit(y))], 1), layer=layer, fit=fit)


@kind
def scaled(x: int, y: int, n: int) -> Step:
    """Parameters with one number for each channel, of which one is not learned."""
    gain, offset = nn.Parameter(torch.randn(x, 1, 1)), nn.Parameter(torch.randn(1, x, 1, 1), requires_grad=False)
    return Step(x, lambda m, x, y: x + m.gain * (x + m.offset), gain=gain, offset=offset)


@kind
def shifted(x: int, y: int, n: int) -> Step:
    """A buffer with one number for each channel."""
    return Step(x, lambda m, x, y: x + m.offset, offset=torch.randn(1, x, 1, 1))


@kind
def standardised(x: int, y: int, n: int) -> Step:
    """Weights normalised each time they are used."""

    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weight = m.layer.weight
        return F.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True), m.layer.bias, padding=1)

    return Step(n, code, layer=nn.Conv2d(x, n, 3, padding=1))


@kind
def centred(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: x - x.mean(1, keepdim=True))


@kind
def strongest(x: int, y: int, n: int) -> Step:
    return Step(x, lambda m, x, y: x + x.amax(1, keepdim=True) - F.softmax(x, 1))


@kind
def selective(x: int, y: int, n: int) -> Step:
    """Two branches, weighed by a softmax over them."""

    def code(m: Step, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        branches = torch.stack([m.one(x), m.two(x)], 1)
        weights = m.choose(branches.sum(1).mean((2, 3))).view(x.shape[0], 2, -1, 1, 1).softmax(1)
        return (branches * weights).sum(1)

    return Step(n, code, one=nn.Conv2d(x, n, 1), two=nn.Conv2d(x, n, 3, padding=1), choose=nn.Linear(n, 2 * n))


class Net(nn.Module):
    """A random network; each step reads two of the tensors made before it, the latest first."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.design = design
        self.stem = nn.Conv2d(3, design.stem, 3, padding=1)
        widths = [design.stem]
        self.steps = nn.ModuleList()
        for (name, _, _, n), (a, b) in zip(design.steps, design.reads, strict=True):
            self.steps.append(KINDS[name](widths[a], widths[b], n))
            widths.append(self.steps[-1].out)
        self.maps = nn.Conv2d(widths[-1], 3, 1) if "maps" in design.heads else None
        self.classes = nn.Linear(widths[-1], 5) if "classes" in design.heads else None
        self.flat = nn.Linear(widths[-1] * SIDE * SIDE, 5) if "flat" in design.heads else None
        self.auxiliary = nn.Linear(widths[len(widths) // 2], 5) if design.auxiliary else None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        made = [self.stem(x)]
        for step, (a, b) in zip(self.steps, self.design.reads, strict=True):
            made.append(step(made[a], made[b]))
        last = made[-1]
        result = {}
        if self.maps is not None:
            result["maps"] = self.maps(last)
        if self.classes is not None:
            result["classes"] = self.classes(last.mean((2, 3)))
        if self.flat is not None:
            result["flat"] = self.flat(last.flatten(1))
        if self.auxiliary is not None and self.training:
            result["auxiliary"] = self.auxiliary(made[len(made) // 2].mean((2, 3)))
        return result

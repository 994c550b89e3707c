"""Twins of the steps in ``_steps``, for MindSpore: the same layers under the same names, the same code.

A class for each, since the compiler reads ``construct`` from its source. Without a twin are ``instance_norm`` and
``einsum``, which MindSpore has no kernels for on a CPU; ``pixel_shuffle``, which it writes out as reshapes whose
channels meet positions and stay; ``shifted``, since arrays that are no parameters are constants to its compiler;
``listed`` and ``attention``, closures, whose numbers no cut can set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from _designs import SIDE, Design, divisor
from mindspore import Parameter, Tensor, nn, ops
from nets_mindspore import conv

KINDS: dict[str, Callable[[int, int, int], Step]] = {}
"""How each kind of step is made from the widths of its two inputs and a wish for its own."""


class Step(nn.Cell):
    """One step of a network: a function of two earlier tensors, with layers of its own."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.out = out


def kind(name: str) -> Callable[[type[Step]], type[Step]]:
    def register(step: type[Step]) -> type[Step]:
        KINDS[name] = step
        return step

    return register


def plane(x: Tensor) -> Tensor:
    # interpolate() comes to the same, after more code than the compiler reads for a whole network
    return ops.ResizeNearestNeighbor((SIDE, SIDE))(x)


def transposed_conv(inputs: int, outputs: int, size: int, **options: int) -> nn.Conv2dTranspose:
    return nn.Conv2dTranspose(inputs, outputs, size, pad_mode="pad", has_bias=True, **options)


class OneLayer(Step):
    """A layer on the first tensor."""

    def __init__(self, out: int, layer: nn.Cell) -> None:
        super().__init__(out)
        self.layer = layer

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x)


def one_layer(name: str) -> Callable[[Callable[[int, int, int], tuple[int, nn.Cell]]], None]:
    def register(make: Callable[[int, int, int], tuple[int, nn.Cell]]) -> None:
        KINDS[name] = lambda x, y, n: OneLayer(*make(x, y, n))

    return register


one_layer("conv")(lambda x, y, n: (n, conv(x, n, 3)))
one_layer("grouped")(lambda x, y, n: (n, conv(x, n, 3, group=divisor(x, n))))
one_layer("depthwise")(lambda x, y, n: (x * (1 + n % 3 % 2), conv(x, x * (1 + n % 3 % 2), 3, group=x)))
one_layer("transposed_grouped")(lambda x, y, n: (n, transposed_conv(x, n, 3, padding=1, group=divisor(x, n))))
one_layer("transposed_depthwise")(
    lambda x, y, n: (x * (1 + n % 3 % 2), transposed_conv(x, x * (1 + n % 3 % 2), 3, padding=1, group=x))
)
one_layer("group_norm")(lambda x, y, n: (x, nn.GroupNorm(divisor(x), x)))
one_layer("group_norm_of_one")(lambda x, y, n: (x, nn.GroupNorm(1, x)))
one_layer("prelu")(lambda x, y, n: (x, nn.PReLU(x)))


@kind("strided")
class Strided(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.layer = nn.Conv2d(x, n, 2, stride=2, pad_mode="valid")

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return plane(self.layer(x))


@kind("transposed")
class Transposed(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.layer = transposed_conv(x, n, 2, stride=2)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.avg_pool2d(self.layer(x), 2, 2)


@kind("batch_norm")
class BatchNorm(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.layer = nn.BatchNorm2d(x)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.relu(self.layer(x))


@kind("layer_norm")
class LayerNorm(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.layer = nn.LayerNorm((x,), epsilon=1e-5)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@kind("activated")
class Activated(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.smooth = n % 2 == 0

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.silu(x) if self.smooth else ops.leaky_relu(ops.elu(x) + ops.relu6(x), 0.1)


@kind("add")
class Add(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(y)
        self.layer = None if x == y else conv(x, y, 1)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        if self.layer is None:
            return x + y
        x = self.layer(x)
        x += y
        return x


@kind("multiply")
class Multiply(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(y)
        self.layer = None if x == y else conv(x, y, 1)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        if self.layer is None:
            return x * ops.sigmoid(y)
        return ops.tanh(self.layer(x)) * y


@kind("concat")
class Concat(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x + y)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.cat((x, y), 1)


@kind("dense")
class Dense(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x + n)
        self.layer = conv(x, n, 1)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.cat((x, self.layer(ops.relu(x))), 1)


@kind("swapped")
class Swapped(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        if self.out % 2 == 1:
            return -x
        width = x.shape[1]
        parts = 2 if width % 2 == 0 else 3 if width % 3 == 0 else 5 if width % 5 == 0 else 7 if width % 7 == 0 else 1
        return ops.cat(ops.chunk(x, parts, 1)[::-1], 1)


@kind("gated")
class Gated(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.layer = conv(x, 2 * n, 1)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        left, right = ops.chunk(self.layer(x), 2, 1)
        return left * ops.sigmoid(right)


@kind("split_at")
class SplitAt(Step):
    """Split at a number that the code holds."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n + 4)
        self.layer = conv(x, n + 4, 1)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.layer(x)
        return ops.cat((ops.tanh(x[:, 4:]), x[:, :4]), 1)


@kind("shuffle")
class Shuffle(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.parts = (divisor(x),)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return x.reshape((n, self.parts[0], -1, h, w)).swapaxes(1, 2).reshape(x.shape)


@kind("squeeze_excite")
class SqueezeExcite(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.squeeze, self.excite = conv(x, n, 1), conv(n, x, 1)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return x * ops.sigmoid(self.excite(ops.relu(self.squeeze(x.mean((2, 3), keep_dims=True)))))


@kind("pooled")
class Pooled(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return plane(ops.max_pool2d(ops.pad(x, (0, 1, 1, 0)), 2, 1)) - x


@kind("flattened")
class Flattened(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.first, self.last = nn.Dense(4 * x, n), nn.Dense(n, x)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        small = ops.flatten(ops.adaptive_avg_pool2d(x, 2))
        return x * self.last(ops.relu(self.first(small)))[:, :, None, None]


@kind("linear")
class Linear(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.layers = nn.SequentialCell(nn.Dense(x, 2 * n), nn.GELU(approximate=False), nn.Dense(2 * n, n))

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@kind("tokens")
class Tokens(Step):
    """Positions mixed with each other, channel by channel."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.first, self.last = nn.Dense(SIDE * SIDE, 2 * n), nn.Dense(2 * n, SIDE * SIDE)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        rows = x.reshape((x.shape[0], -1, SIDE * SIDE))
        return x + self.last(ops.relu(self.first(rows))).reshape(x.shape)


@kind("self_attention")
class SelfAttention(Step):
    """Heads cut out of one projection, as vision transformers do."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.project, self.out_project = nn.Dense(x, 6 * n), nn.Dense(2 * n, n)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        b, rows = x.shape[0], x.reshape((x.shape[0], -1, SIDE * SIDE)).swapaxes(1, 2)
        parts = self.project(rows).reshape((b, SIDE * SIDE, 3, 2, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        seen = ops.matmul(ops.softmax(ops.matmul(query, key.swapaxes(-2, -1)), -1), value)
        seen = seen.swapaxes(1, 2).reshape((b, SIDE * SIDE, -1))
        return self.out_project(seen).swapaxes(1, 2).reshape((b, -1, SIDE, SIDE))


@kind("cross_attention")
class CrossAttention(Step):
    """What one tensor asks and the other answers, by layers of their own, in heads whose number is an attribute."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.heads = 3
        self.query, self.key, self.value = nn.Dense(x, 3 * n), nn.Dense(y, 3 * n), nn.Dense(y, 3 * n)
        self.out_project = nn.Dense(3 * n, n)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        b, places = x.shape[0], SIDE * SIDE
        asking, asked = (t.reshape((b, -1, places)).swapaxes(1, 2) for t in (x, y))
        query = self.query(asking).reshape((b, places, self.heads, -1)).swapaxes(1, 2)
        key = self.key(asked).reshape((b, places, self.heads, -1)).swapaxes(1, 2)
        value = self.value(asked).reshape((b, places, self.heads, -1)).swapaxes(1, 2)
        seen = ops.matmul(ops.softmax(ops.matmul(query, key.swapaxes(-2, -1)) * 0.5, -1), value)
        seen = seen.swapaxes(1, 2).reshape((b, places, -1))
        return self.out_project(seen).swapaxes(1, 2).reshape((b, -1, SIDE, SIDE))


@kind("in_heads")
class InHeads(Step):
    """Softmax over positions, head by head, with the number of heads in the code."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.parts = (divisor(x),)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        heads = x.reshape((x.shape[0], self.parts[0], -1, SIDE * SIDE))
        return (ops.softmax(heads, -1) * heads.mean(2, keep_dims=True)).reshape(x.shape)


@kind("twice")
class Twice(Step):
    """One layer used twice."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.layer = conv(x, x, 1)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(ops.relu(self.layer(x)))


@kind("tied")
class Tied(Step):
    """Two layers with one weight."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.one, self.two = conv(x, n, 1), conv(x, n, 1)
        self.two.weight = self.one.weight

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x) + self.two(ops.tanh(x))


@kind("shared")
class Shared(Step):
    """One layer for two tensors."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(2 * n)
        self.layer = conv(x, n, 1)
        self.fit = nn.Identity() if x == y else conv(y, x, 1)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.cat((self.layer(x), self.layer(self.fit(y))), 1)


@kind("scaled")
class Scaled(Step):
    """Parameters with one number for each channel, of which one is not learned."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)
        self.gain = Parameter(np.zeros((x, 1, 1), np.float32))
        self.offset = Parameter(np.zeros((1, x, 1, 1), np.float32), requires_grad=False)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.gain * (x + self.offset)


@kind("standardised")
class Standardised(Step):
    """Weights normalised each time they are used."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.layer = conv(x, n, 3)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        weight = self.layer.weight
        weight = weight - weight.mean((1, 2, 3), keep_dims=True)
        return ops.conv2d(x, weight, self.layer.bias, pad_mode="pad", padding=1)


@kind("centred")
class Centred(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return x - x.mean(1, keep_dims=True)


@kind("strongest")
class Strongest(Step):
    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(x)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return x + ops.amax(x, 1, keepdims=True) - ops.softmax(x, 1)


@kind("selective")
class Selective(Step):
    """Two branches, weighed by a softmax over them."""

    def __init__(self, x: int, y: int, n: int) -> None:
        super().__init__(n)
        self.one, self.two, self.choose = conv(x, n, 1), conv(x, n, 3), nn.Dense(n, 2 * n)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        branches = ops.stack((self.one(x), self.two(x)), 1)
        chosen = self.choose(branches.sum(1).mean((2, 3))).reshape((x.shape[0], 2, -1, 1, 1))
        return (branches * ops.softmax(chosen, 1)).sum(1)


class Net(nn.Cell):
    """The twin of ``_steps.Net``; its results are a tuple, in the same order."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.stem = conv(3, design.stem, 3)
        self.reads = design.reads
        widths = [design.stem]
        steps = []
        for (name, _, _, n), (a, b) in zip(design.steps, design.reads, strict=True):
            steps.append(KINDS[name](widths[a], widths[b], n))
            widths.append(steps[-1].out)
        self.steps = nn.CellList(steps)
        # only those that are read: a trace looks for others in training mode, and compiles the network once more
        self.maps = conv(widths[-1], 3, 1) if "maps" in design.heads else None
        self.classes = nn.Dense(widths[-1], 5) if "classes" in design.heads else None
        self.flat = nn.Dense(widths[-1] * SIDE * SIDE, 5) if "flat" in design.heads else None
        self.middle = (len(widths) // 2,)
        self.auxiliary = nn.Dense(widths[len(widths) // 2], 5) if design.auxiliary else None

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        made = (self.stem(x),)
        for step, read in zip(self.steps, self.reads):  # noqa: B905  (the compiler knows zip without strict)
            made = (*made, step(made[read[0]], made[read[1]]))
        last, results = made[-1], ()
        if self.maps is not None:
            results = (*results, self.maps(last))
        if self.classes is not None:
            results = (*results, self.classes(last.mean((2, 3))))
        if self.flat is not None:
            results = (*results, self.flat(ops.flatten(last)))
        if self.auxiliary is not None and self.training:
            results = (*results, self.auxiliary(made[self.middle[0]].mean((2, 3))))
        return results

"""The PruningNet of MetaPruning (Liu et al., ICCV 2019) as a cell; what it is made of is ``core.pruning_net``.

A Cell cannot be called with other values for its Parameters, so every forward pass writes what is generated, and
masked, into the Parameters of an inner network. No gradient flows through what is written: ``train.fit`` takes
the gradients of the inner network's Parameters and has them pulled back to those that are trained. Both are
parts of one compiled graph in GRAPH mode, which new widths leave as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype
from numpy.typing import ArrayLike, NDArray

from prunekit.backend_mindspore._batches import pynative
from prunekit.backend_mindspore._names import parameters
from prunekit.backend_mindspore.cut import clone
from prunekit.backend_mindspore.state import get_state, to_array
from prunekit.core.analysis import Analysis
from prunekit.core.pruning_net import PruningNetSpec

__all__ = ["PruningNet", "pruning_net"]


def pruning_net(analysis: Analysis, *, hidden: int = 32, seed: int = 0) -> PruningNet:
    """A PruningNet; see ``core.backend.Backend.pruning_net``."""
    spec = PruningNetSpec.of(analysis.coupling, hidden)
    spec.warn()
    return PruningNet(spec, analysis.model, seed)


class _Generator(nn.Cell):
    """Linear(k, hidden) → ReLU → Linear(hidden, size), as the shape of a weight."""

    def __init__(self, shape: tuple[int, ...], initial: dict[str, NDArray[np.float32]], dtype: Any) -> None:
        super().__init__()
        given = {name: Tensor(values, dtype) for name, values in initial.items()}
        hidden, inputs = initial["hidden.weight"].shape
        self.shape = shape
        self.dtype = dtype
        self.hidden = nn.Dense(inputs, hidden, given["hidden.weight"], given["hidden.bias"])
        self.output = nn.Dense(hidden, int(np.prod(shape)), given["output.weight"], given["output.bias"])

    def construct(self, scales: Tensor) -> Tensor:
        """The weight for relative widths ``(k,)``."""
        row = scales.astype(self.dtype).reshape(1, -1)
        return self.output(ops.relu(self.hidden(row))).reshape(self.shape)

    def pulled_back(self, scales: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the four parameters, in their order, from that of the weight."""
        row = scales.astype(self.dtype).reshape(1, -1)
        active = ops.relu(self.hidden(row))
        given = gradient.reshape(1, -1)
        inner = ops.matmul(given, self.output.weight) * (active > 0).astype(self.dtype)
        outer = ops.matmul(given.reshape(-1, 1), active)
        return ops.matmul(inner.reshape(-1, 1), row), inner.reshape(-1), outer, given.reshape(-1)


class _Shared(nn.Cell):
    """A parameter that all widths share, whole; in the inner network it is masked."""

    def __init__(self, parameter: Parameter) -> None:
        super().__init__()
        value = Tensor(to_array(parameter).copy(), parameter.dtype)
        self.value = Parameter(value, name="value", requires_grad=parameter.requires_grad)


class PruningNet(nn.Cell):
    """A network whose conv and linear weights are generated from the widths of its channel groups.

    It takes the inputs and gives the outputs of the network that it was made for. All that is not
    generated (norms, biases, weights on no group) is shared by all widths and trained along. To train
    it, use ``fit``: differentiating it by oneself gives nothing for the generators.

    Attributes:
        spec: What is generated from what.
        network: A copy of the network; what lies on groups is overwritten by every forward pass.
        generators: One for each of ``spec.weights``.
        shared: The other parameters that lie on groups, whole.
        widths: Channels kept of each group: a Parameter that is not trained, so that it is part of the state.
    """

    def __init__(self, spec: PruningNetSpec, net: nn.Cell, seed: int = 0) -> None:
        """Make the generators, and a copy of the network.

        Args:
            spec: What is generated from what.
            net: The network; it is not changed.
            seed: Of the generators' parameters.
        """
        super().__init__()
        self.spec = spec
        self.network = clone(net)
        own = parameters(self.network)
        self.names = tuple(dict.fromkeys([*(weight.name for weight in spec.weights), *spec.spans]))
        self.generators = nn.CellList(
            [
                _Generator(w.shape, spec.initial(number, to_array(own[w.name]), seed), own[w.name].dtype)
                for number, w in enumerate(spec.weights)
            ]
        )
        self.shared = nn.CellList([_Shared(own[name]) for name in self.names[len(spec.weights) :]])
        self.widths = Parameter(Tensor(spec.widths, mstype.float32), name="widths", requires_grad=False)
        self._constants()
        # not as an attribute of a Cell, which would register the parameters a second time
        object.__setattr__(self, "targets", tuple(own[name] for name in self.names))
        for target in self.targets:
            target.requires_grad = True  # its gradient is asked for; see trainable_params for what is trained

    def _constants(self) -> None:
        """What does not change with the widths."""
        spec = self.spec
        self.full = Tensor(spec.widths, mstype.float32)
        self.group, self.seen = Tensor(spec.mask_group, mstype.int32), Tensor(spec.seen, mstype.int32)
        self.channel = Tensor(spec.mask_channel, mstype.float32)
        self.inputs = [len(weight.groups) for weight in spec.weights]
        self.sizes = [end - begin for begin, end in spec.parts]
        number = {span: k for k, span in enumerate(spec.parts)}
        own = parameters(self.network)
        self.axes = tuple(
            tuple((number[span], (-1, *[1] * (own[name].ndim - axis - 1))) for axis, span in spec.spans[name].items())
            for name in self.names
        )

    def set_widths(self, widths: ArrayLike) -> None:
        """Choose the widths of the next forward passes.

        Args:
            widths: Channels kept of each group, shape ``(G,)``.

        Raises:
            InputError: They are not widths of the groups; see ``PruningNetSpec.check``.
        """
        ops.assign(self.widths, Tensor(self.spec.check(widths), mstype.float32))

    def weights(self) -> dict[str, NDArray[Any]]:
        """State of the original network at full size, generated for the widths that are set; nothing is masked."""
        state = get_state(self.network)
        with pynative():
            scales = self.scales()
            values = [generator(scales[i]) for i, generator in enumerate(self.generators)]
            values += [shared.value for shared in self.shared]
        return {**state, **{name: to_array(v).copy() for name, v in zip(self.names, values, strict=True)}}

    def trainable_params(self, recurse: bool = True) -> list[Parameter]:
        """What is trained: generators, shared parameters, and those of the network that lie on no group."""
        written = {id(target) for target in self.targets}
        return [p for p in super().trainable_params(recurse) if id(p) not in written]

    def construct(self, *inputs: Any) -> Any:
        self.write()
        return self.network(*inputs)

    @ms.jit  # also in PYNATIVE mode: hundreds of small ops, which one by one take longer than the network itself
    def write(self) -> None:
        """Generate everything for the widths that are set, mask it, and write it into the network."""
        scales, keep, made = self.scales(), self.keep(), len(self.inputs)
        for i in range(made):
            ops.assign(self.targets[i], self.masked(i, self.generators[i](scales[i]), keep))
        for i in range(len(self.shared)):
            ops.assign(self.targets[made + i], self.masked(made + i, self.shared[i].value, keep))

    def scales(self) -> tuple[Tensor, ...]:
        """Widths divided by the full ones, as each generator sees them."""
        return ops.split(ops.gather(self.widths / self.full, self.seen, 0), self.inputs)

    def keep(self) -> tuple[Tensor, ...]:
        """The parts of the flat mask: 1 for the leading channels of each group."""
        kept = ops.gather(self.widths, self.group, 0)
        return ops.split((self.channel < kept).astype(mstype.float32), self.sizes)

    def masked(self, i: int, value: Tensor, keep: tuple[Tensor, ...]) -> Tensor:
        """What the widths leave of a target's value, or of its gradient."""
        for part, shape in self.axes[i]:
            value = value * keep[part].reshape(shape).astype(value.dtype)
        return value

    def leaves(self, weights: Sequence[Parameter]) -> tuple[ParameterTuple, tuple[int, ...]]:
        """What to differentiate the inner network by, and the order for :meth:`pulled_back`.

        Args:
            weights: The parameters whose gradients are wanted.
        """
        made = [p for cells in (self.generators, self.shared) for p in cells.get_parameters()]
        known = {id(p) for p in made}
        rest = [p for p in weights if id(p) not in known]
        position = {id(p): k for k, p in enumerate([*made, *rest])}
        return ParameterTuple((*self.targets, *rest)), tuple(position[id(p)] for p in weights)

    @ms.jit  # the gradients one by one: a tuple would be taken for a constant and compiled anew at every step
    def pulled_back(self, order: tuple[int, ...], *gradients: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the weights that :meth:`leaves` was given, from those of the leaves it named."""
        scales, keep, made = self.scales(), self.keep(), len(self.inputs)
        found = ()
        for i in range(made):
            found += self.generators[i].pulled_back(scales[i], self.masked(i, gradients[i], keep))
        for i in range(made, len(self.targets)):
            found += (self.masked(i, gradients[i], keep),)
        found += gradients[len(self.targets) :]
        wanted = ()
        for k in order:
            wanted += (found[k],)
        return wanted

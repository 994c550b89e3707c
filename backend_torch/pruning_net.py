"""The PruningNet of MetaPruning (Liu et al., ICCV 2019) as a module; what it is made of is ``core.pruning_net``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import skip_init

from prunekit.backend_torch._copying import deep_copy
from prunekit.backend_torch.state import get_state, to_array
from prunekit.core.analysis import Analysis
from prunekit.core.pruning_net import PruningNetSpec

__all__ = ["PruningNet", "pruning_net"]


def pruning_net(analysis: Analysis, *, hidden: int = 32, seed: int = 0) -> PruningNet:
    """A PruningNet; see ``core.backend.Backend.pruning_net``."""
    spec = PruningNetSpec.of(analysis.coupling, hidden)
    spec.warn()
    return PruningNet(spec, analysis.model, seed)


class _Generator(nn.Module):
    """Linear(k, hidden) → ReLU → Linear(hidden, size), as the shape of a weight."""

    def __init__(self, shape: tuple[int, ...], initial: dict[str, NDArray[np.float32]], like: Tensor) -> None:
        super().__init__()
        options = {"device": like.device, "dtype": like.dtype}
        hidden, inputs = initial["hidden.weight"].shape
        self.shape = shape
        self.hidden = skip_init(nn.Linear, inputs, hidden, **options)
        self.output = skip_init(nn.Linear, hidden, int(np.prod(shape)), **options)
        with torch.no_grad():
            for name, values in initial.items():
                self.get_parameter(name).copy_(torch.from_numpy(values))

    def forward(self, scales: Tensor) -> Tensor:
        return self.output(torch.relu(self.hidden(scales))).reshape(self.shape)


class PruningNet(nn.Module):
    """A network whose conv and linear weights are generated from the widths of its channel groups.

    It takes the inputs and gives the outputs of the network that it was made for. All that is not
    generated (norms, biases, weights on no group) is shared by all widths and trained along.

    Attributes:
        spec: What is generated from what.
        network: A copy of the network, in which the generated weights are None.
        generators: One for each of ``spec.weights``.
        widths: Channels kept of each group: a buffer, so that it is part of the state.
    """

    def __init__(self, spec: PruningNetSpec, model: nn.Module, seed: int = 0) -> None:
        """Make the generators, and a copy of the model.

        Args:
            spec: What is generated from what.
            model: The network; it is not changed.
            seed: Of the generators' parameters.
        """
        super().__init__()
        self.spec = spec
        self.network = deep_copy(model)
        self.generators = nn.ModuleList()
        self._names = tuple(get_state(self.network, copy=False))
        self._aliases = _aliases(self.network)
        for number, weight in enumerate(spec.weights):
            old = self.network.get_parameter(weight.name)
            self.generators.append(_Generator(weight.shape, spec.initial(number, to_array(old), seed), old))
        for weight in spec.weights:
            for alias in self._aliases[weight.name]:
                owner, _, attribute = alias.rpartition(".")
                self.network.get_submodule(owner)._parameters[attribute] = None
        device = self.generators[0].hidden.weight.device
        full = torch.as_tensor(spec.widths, dtype=torch.float32, device=device)
        self.register_buffer("widths", full.clone())
        self.register_buffer("_full", full, persistent=False)
        for name, values in (("_group", spec.mask_group), ("_channel", spec.mask_channel), ("_seen", spec.seen)):
            self.register_buffer(name, torch.as_tensor(values, device=device), persistent=False)
        self._inputs = [len(weight.groups) for weight in spec.weights]
        self._sizes = [end - begin for begin, end in spec.parts]
        number = {span: k for k, span in enumerate(spec.parts)}
        self._axes = {n: [(axis, number[span]) for axis, span in axes.items()] for n, axes in spec.spans.items()}

    def set_widths(self, widths: ArrayLike) -> None:
        """Choose the widths of the next forward passes.

        Args:
            widths: Channels kept of each group, shape ``(G,)``.

        Raises:
            InputError: They are not widths of the groups; see ``PruningNetSpec.check``.
        """
        with torch.no_grad():
            self.widths.copy_(torch.as_tensor(self.spec.check(widths)))

    def weights(self) -> dict[str, NDArray[Any]]:
        """State of the original network at full size, generated for the widths that are set; nothing is masked."""
        state = get_state(self.network)
        with torch.no_grad():
            for name, value in self._generated().items():
                state.update(dict.fromkeys(self._aliases[name], to_array(value)))
        return {name: state[name] for name in self._names}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs of the network of the widths that are set."""
        keep = (self._channel < self.widths[self._group]).split(self._sizes)
        tensors = self._generated()
        for name, axes in self._axes.items():
            value = tensors[name] if name in tensors else self.network.get_parameter(name)
            for axis, part in axes:
                value = value * keep[part].view(-1, *[1] * (value.dim() - axis - 1))
            tensors[name] = value
        named = {alias: value for name, value in tensors.items() for alias in self._aliases[name]}
        return functional_call(self.network, named, args, kwargs, tie_weights=False)

    def _generated(self) -> dict[str, Tensor]:
        seen = (self.widths / self._full)[self._seen].split(self._inputs)
        return {
            weight.name: generator(scales.to(generator.hidden.weight))
            for weight, generator, scales in zip(self.spec.weights, self.generators, seen, strict=True)
        }


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """All names of each parameter, by its first one: a tied weight has several."""
    first: dict[int, str] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        names[known] = (*names.get(known, ()), name)
    return names

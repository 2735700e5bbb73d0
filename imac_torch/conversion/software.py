"""The way back: software models with the weights that devices stand for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imac_torch.model.network import Chain, IMACNetwork
from imac_torch.model.positions import Positions, Vectors
from imac_torch.model.segment import Segment
from imac_torch.numeric.modes import lasting
from imac_torch.software.plain import copied

__all__ = ["to_software"]


class Applied(nn.Module):
    """A matrix that is applied at positions of a tensor: a convolution, for example.

    Args:
        weight: (M, N).
        bias: (M,).
        positions: Where.
    """

    def __init__(self, weight: Tensor, bias: Tensor, positions: Positions) -> None:
        super().__init__()
        self.weight, self.bias, self.positions = nn.Parameter(weight), nn.Parameter(bias), positions

    def forward(self, x: Tensor) -> Tensor:
        """As the layer takes it that this was."""
        return self.positions.through(x, self.weight, self.bias)


@lasting()
def to_software(network: IMACNetwork) -> nn.Module:
    """The way back: a software model with the effective weights of the devices.

    Args:
        network: A converted model.

    Returns:
        A copy of the network with linear layers, and activations between them, in the places of
        its circuits; wires and loading are not in it. Of a Sequential that became one circuit it
        is an ``nn.Sequential``. All of it is float64: give it ``x.double()``, or turn it into
        another type with ``.float()``.
    """
    if isinstance(network.model, Chain):
        digital, tail = copied([network.digital, network.tail], ["digital", "tail"])
        software: nn.Module = nn.Sequential(digital, *_modules(network.segment), tail)
    else:
        (model,) = copied([network.model], ["network"])
        software = _replaced(model)
    software = software.double()
    software.training = network.training
    return software


def _replaced(model: nn.Module) -> nn.Module:
    """A model with software in the places of segments."""
    made: dict[int, nn.Module] = {}
    for part in [model, *model.modules()]:
        for name, child in part._modules.items():
            if isinstance(child, Segment):
                if id(child) not in made:
                    made[id(child)] = nn.Sequential(*_modules(child))
                part._modules[name] = made[id(child)]
    return model


def _modules(segment: Segment) -> list[nn.Module]:
    """Software layers and activations of a segment, in order."""
    modules: list[nn.Module] = []
    for layer in segment.analog_layers():
        weight, bias = layer.effective_weights()
        factor, module = layer.activation.software()
        weight, bias = factor * weight, factor * bias
        positions = Vectors() if modules else segment.positions
        modules.append(
            _linear(weight, bias)
            if isinstance(positions, Vectors)
            else Applied(weight, bias, positions)
        )
        if module is not None:
            modules.append(module)
    for module in modules:
        module.train(segment.training)
    return modules


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    linear = nn.utils.skip_init(
        nn.Linear, inputs, outputs, dtype=torch.float64, device=weight.device
    )
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear

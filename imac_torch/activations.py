"""Software activations and the analog circuits that stand for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imac_torch.errors import ConversionError


class InverterSigmoid(nn.Module):
    """``1/(1 + exp(slope·x))``: the falling sigmoid that a CMOS inverter computes.

    Networks trained with it, as IMAC-Sim's are, map to the circuit without a change of sign.

    Args:
        slope: Steepness, > 0.

    Raises:
        ConversionError: The slope is not positive.
    """

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        if not slope > 0:
            raise ConversionError(f"slope = {slope} must be positive")
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return torch.sigmoid(-self.slope * x)

    def extra_repr(self) -> str:
        """The slope."""
        return f"slope={self.slope}"


@dataclass(frozen=True)
class Activation:
    """What a layer computes after its weights, as far as a circuit must know.

    Attributes:
        kind: ``sigmoid``, ``tanh``, ``relu`` or ``identity``.
        slope: Signed steepness: the activation is ``kind(slope·y)``; only ``sigmoid`` has one.
    """

    kind: str
    slope: float = 1.0

    def apply(self, x: Tensor) -> Tensor:
        """The software function.

        Raises:
            ConversionError: The kind is unknown.
        """
        functions = {
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "relu": torch.relu,
            "identity": lambda value: value,
        }
        if self.kind not in functions:
            raise ConversionError(
                f"no activation {self.kind!r}; there are {', '.join(functions)}"
            )
        return functions[self.kind](self.slope * x)


def activation_of(module: nn.Module) -> Activation | None:
    """The activation a module stands for, or None if it is not one that a circuit has."""
    if isinstance(module, InverterSigmoid):
        return Activation("sigmoid", -module.slope)
    kinds: tuple[tuple[type[nn.Module], str], ...] = (
        (nn.Sigmoid, "sigmoid"),
        (nn.Tanh, "tanh"),
        (nn.ReLU, "relu"),
        (nn.Identity, "identity"),
    )
    for module_type, kind in kinds:
        if type(module) is module_type:
            return Activation(kind)
    return None


CIRCUITS = {
    "sigmoid": ("finfet", "logistic", "table"),
    "tanh": ("tanh",),
    "relu": ("relu",),
    "identity": ("identity",),
}
"""Neuron kinds that compute each activation; the first is the default."""


def circuit_kind(activation: Activation, asked: str | None, *, where: str) -> str:
    """The neuron kind for an activation.

    Args:
        activation: Of the software layer.
        asked: The configuration's kind, or None for the default.
        where: The layer's path, for errors.

    Raises:
        ConversionError: The circuit asked for does not compute the activation.
    """
    allowed = CIRCUITS[activation.kind]
    if asked is None:
        return allowed[0]
    if asked not in allowed:
        if activation.kind == "identity":
            return "identity"  # a network-wide kind is about activations, not read-outs
        raise ConversionError(
            f"{where}: neuron kind {asked!r} does not compute {activation.kind}; allowed: "
            f"{', '.join(allowed)}. Set neuron.kind for this layer in Config.layers"
        )
    return asked

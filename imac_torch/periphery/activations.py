"""Software activations, and what a circuit must know of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from imac_torch.base.registry import Registry
from imac_torch.errors import ConversionError
from imac_torch.software.behaviour import computes_as


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


class ActivationFunction(ABC):
    """A function that follows a layer's weights.

    A subclass is :class:`Bounded` or :class:`Unbounded`, and says what the function is.

    Attributes:
        name: Which :class:`Activation` and files have.
        modules: Modules of these types compute it, and subclasses that add no forward of their own.
        read_out: Whether it is no activation: a kind of neuron meant for the whole network is not
            meant for it.
        clips: Whether circuits cut its output off at vdd, so that its range has to be known.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    read_out: ClassVar[bool] = False
    clips: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The function, any shape."""

    @property
    @abstractmethod
    def bounded(self) -> bool:
        """Whether its range is fixed; else the software output that is vdd is free."""

    @abstractmethod
    def ideal(self, volts: Tensor, threshold: float, slope: float, vdd: float) -> Tensor:
        """What an ideal neuron of threshold (V) and slope (1/V) makes of its input, per vdd."""

    @abstractmethod
    def steepness(self, outputs: Tensor, slope: float, vdd: float) -> Tensor:
        """Slope of that neuron where its output is ``outputs`` (V)."""

    def of(self, module: nn.Module) -> Activation | None:
        """The activation that a module computes, or None if it is not this function."""
        return Activation(self.name) if computes_as(module, *self.modules) else None

    def software(self, slope: float) -> tuple[float, nn.Module | None]:
        """The way back: a factor for the weights, and the module that follows them."""
        return 1.0, self.modules[0]()


class Bounded(ActivationFunction):
    """A function that rises from ``low`` to ``high``: they are volts at the neuron times 1/vdd.

    An ideal neuron is vdd·f(slope·(z - threshold)).
    """

    low: ClassVar[float]
    high: ClassVar[float]
    bounded = True

    @abstractmethod
    def derivative(self, value: Tensor, factor: float) -> Tensor:
        """``factor``·f′(x) where f(x) is ``value``, which is between ``low`` and ``high``."""

    @property
    def middle(self) -> float:
        """The middle of its range."""
        return (self.low + self.high) / 2

    def ideal(self, volts: Tensor, threshold: float, slope: float, vdd: float) -> Tensor:
        """See :class:`ActivationFunction`."""
        return self(slope * (volts - threshold))

    def steepness(self, outputs: Tensor, slope: float, vdd: float) -> Tensor:
        """See :class:`ActivationFunction`."""
        return self.derivative((outputs / vdd).clamp(self.low, self.high), vdd * slope)


class Unbounded(ActivationFunction):
    """A function without a scale of its own; a circuit passes volts as they are, within limits."""

    bounded = False

    def limit(self, volts: Tensor, vdd: float) -> Tensor:
        """What a circuit between the supplies makes of a voltage."""
        return volts

    def ideal(self, volts: Tensor, threshold: float, slope: float, vdd: float) -> Tensor:
        """See :class:`ActivationFunction`."""
        return self.limit(volts, vdd) / vdd

    def steepness(self, outputs: Tensor, slope: float, vdd: float) -> Tensor:
        """See :class:`ActivationFunction`."""
        return torch.ones_like(outputs)


class Sigmoid(Bounded):
    """1/(1 + exp(-x)), rising or, with a negative slope, falling."""

    name = "sigmoid"
    modules = (nn.Sigmoid,)
    low, high = 0.0, 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`ActivationFunction`."""
        return torch.sigmoid(x)

    def derivative(self, value: Tensor, factor: float) -> Tensor:
        """f·(1 - f)."""
        return factor * value * (1.0 - value)

    def of(self, module: nn.Module) -> Activation | None:
        """See :class:`ActivationFunction`; falling ones too."""
        if isinstance(module, InverterSigmoid) and computes_as(module, InverterSigmoid):
            return Activation(self.name, -module.slope)
        return super().of(module)

    def software(self, slope: float) -> tuple[float, nn.Module | None]:
        """See :class:`ActivationFunction`."""
        return (1.0, InverterSigmoid(-slope)) if slope < 0.0 else (slope, nn.Sigmoid())


class Tanh(Bounded):
    """The hyperbolic tangent."""

    name = "tanh"
    modules = (nn.Tanh,)
    low, high = -1.0, 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`ActivationFunction`."""
        return torch.tanh(x)

    def derivative(self, value: Tensor, factor: float) -> Tensor:
        """1 - f²."""
        return factor * (1.0 - value.square())


class ReLU(Unbounded):
    """max(x, 0); a circuit cuts it off at vdd."""

    name = "relu"
    modules = (nn.ReLU,)
    clips = True

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`ActivationFunction`."""
        return torch.relu(x)

    def limit(self, volts: Tensor, vdd: float) -> Tensor:
        """See :class:`Unbounded`."""
        return volts.clamp(0.0, vdd)

    def of(self, module: nn.Module) -> Activation | None:
        """See :class:`ActivationFunction`; with an end of its own (ReLU6) that is vdd."""
        if isinstance(module, nn.Hardtanh) and computes_as(module, nn.ReLU6, nn.Hardtanh):
            limit = float(module.max_val)
            return Activation(self.name, limit=limit) if module.min_val == 0.0 < limit else None
        return super().of(module)

    def steepness(self, outputs: Tensor, slope: float, vdd: float) -> Tensor:
        """See :class:`ActivationFunction`: none at the limits."""
        return ((outputs > 0.0) & (outputs < vdd)).to(outputs.dtype)


class Identity(Unbounded):
    """x: a layer that is only read out."""

    name = "identity"
    modules = (nn.Identity,)
    read_out = True

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`ActivationFunction`."""
        return x

    def software(self, slope: float) -> tuple[float, nn.Module | None]:
        """See :class:`ActivationFunction`: nothing follows the weights."""
        return 1.0, None


class Hardtanh(Unbounded):
    """x between -c and c, where it ends: a circuit's supplies are these limits."""

    name = "hardtanh"
    modules = (nn.Hardtanh,)

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`ActivationFunction`; the limits are the :class:`Activation`'s."""
        return x

    def limit(self, volts: Tensor, vdd: float) -> Tensor:
        """See :class:`Unbounded`."""
        return volts.clamp(-vdd, vdd)

    def steepness(self, outputs: Tensor, slope: float, vdd: float) -> Tensor:
        """See :class:`ActivationFunction`: none at the limits."""
        return (outputs.abs() < vdd).to(outputs.dtype)

    def of(self, module: nn.Module) -> Activation | None:
        """See :class:`ActivationFunction`: ``nn.Hardtanh(-c, c)``."""
        if not isinstance(module, nn.Hardtanh) or not computes_as(module, nn.Hardtanh):
            return None
        limit = float(module.max_val)
        return Activation(self.name, limit=limit) if module.min_val == -limit < 0.0 else None


SIGMOID: Final = Sigmoid()
TANH: Final = Tanh()
RELU: Final = ReLU()
IDENTITY: Final = Identity()
HARDTANH: Final = Hardtanh()

ACTIVATIONS: Final[Registry[ActivationFunction]] = Registry(
    "activation",
    {function.name: function for function in (SIGMOID, TANH, RELU, IDENTITY, HARDTANH)},
    error=ConversionError,
)
"""Activation functions by name; a kind of neuron brings its own, if it is not among them."""


@dataclass(frozen=True)
class Activation:
    """What a layer computes after its weights, as far as a circuit must know.

    Attributes:
        kind: ``sigmoid``, ``tanh``, ``relu``, ``hardtanh`` or ``identity``, or the name of one
            that was added.
        slope: Signed steepness: the activation is ``kind(slope·y)``; only ``sigmoid`` has one.
        limit: Where a ``relu`` or ``hardtanh`` ends, in software units: it is vdd in the circuit.
    """

    kind: str
    slope: float = 1.0
    limit: float | None = None

    @property
    def function(self) -> ActivationFunction:
        """The function.

        Raises:
            ConversionError: The kind is unknown.
        """
        return ACTIVATIONS.get(self.kind)

    def apply(self, x: Tensor) -> Tensor:
        """The software function.

        Raises:
            ConversionError: The kind is unknown.
        """
        value = self.function(self.slope * x)
        if self.limit is None:
            return value
        function = self.function
        assert isinstance(function, Unbounded)  # noqa: S101 - narrows the type only
        return function.limit(value, self.limit)

    @property
    def scale(self) -> float | None:
        """Software output that is vdd, where the function says it; None: it is free."""
        return 1.0 if self.function.bounded else self.limit

    def software(self) -> tuple[float, nn.Module | None]:
        """The way back: a factor for the weights, and the module that follows them."""
        function = self.function
        if self.limit is None or not isinstance(function, Unbounded):
            return function.software(self.slope)
        low = function.limit(torch.tensor(-self.limit, device="cpu"), self.limit)
        return 1.0, nn.Hardtanh(float(low), self.limit)


def activation_of(module: nn.Module) -> Activation | None:
    """The activation a module stands for, or None if it is not one that a circuit has."""
    found = (function.of(module) for function in ACTIVATIONS)
    return next((item for item in found if item is not None), None)

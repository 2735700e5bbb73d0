"""Behavioural neurons: a shape behind a resistance."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN
from imac_torch.errors import NetlistError
from imac_torch.periphery.neuron.base import COMMON_FIELDS, NeuronKind, NeuronSpec
from imac_torch.periphery.neuron.core import (
    CPU,
    Core,
    CoreCurrents,
    CoreValues,
    NoiseCurrents,
)


@dataclass(frozen=True)
class BehaviouralCore:
    """An ideal shape ``f(gate)`` behind an output resistance; draws nothing from gate and vdd.

    Attributes:
        curve: Gate voltage (V), vdd and slope to ``f`` (V) and its derivative.
        vdd: V, 0-dimensional.
        slope: 1/V, 0-dimensional; not every shape has one.
        output_resistance: Ω, 0-dimensional, > 0.
    """

    curve: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    vdd: Tensor
    slope: Tensor
    output_resistance: Tensor

    def shape(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """``f`` and its derivative."""
        return self.curve(gate, self.vdd, self.slope)

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        """See :class:`Core`."""
        value, derivative = self.shape(gate)
        conductance = 1.0 / self.output_resistance
        zero = torch.zeros_like(output + gate)
        return CoreCurrents(
            (value - output) * conductance,
            zero,
            derivative * conductance + zero,
            zero - conductance,
            zero,
            zero,
        )

    def values(self, gate: Tensor, output: Tensor) -> CoreValues:
        """See :class:`Core`; vdd gives nothing: the source of the shape is ideal."""
        zero = torch.zeros_like(gate + output)
        return CoreValues((self.shape(gate)[0] - output) / self.output_resistance, zero, zero)

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        """See :class:`Core`: everywhere."""
        return torch.isfinite(gate) & torch.isfinite(output)

    def start(self) -> tuple[float, float, float]:
        """See :class:`Core`: the gate is known, the output is linear."""
        return -torch.inf, torch.inf, float(self.vdd) / 2


class BehaviouralNeuron(NeuronKind):
    """An ideal shape behind ``neuron.output_resistance``, without resistors and charges."""

    reads = COMMON_FIELDS | {"output_resistance"}
    ideal = True
    cut: ClassVar[tuple[float, float] | None] = None
    """Where the shape is the gate's voltage within limits: these, times vdd."""

    @abstractmethod
    def curve(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The shape.

        Args:
            gate: V, any shape.
            vdd: V, 0-dimensional.
            slope: 1/V, 0-dimensional, ``neuron.slope``.

        Returns:
            Output (V) and its derivative by the gate, differentiable in everything.
        """

    def core(self, spec: NeuronSpec, *, device: torch.device = CPU) -> Core:
        """See :class:`NeuronKind`."""
        values = (spec.vdd, spec.options.slope, spec.options.output_resistance)
        return BehaviouralCore(
            self.curve,
            *(torch.tensor(value, dtype=torch.float64, device=device) for value in values),
        )

    def noise(self, spec: NeuronSpec, gates: Tensor, outputs: Tensor) -> NoiseCurrents:
        """See :class:`NeuronKind`: its output resistance; the shape is ideal."""
        zero = torch.zeros_like(gates + outputs)
        thermal = 4.0 * BOLTZMANN * spec.temperature / spec.options.output_resistance
        return NoiseCurrents(zero + thermal, zero, zero)

    def subcircuit(self, spec: NeuronSpec) -> str:
        """See :class:`NeuronKind`."""
        if spec.input_resistance != 0.0 or spec.feedback_resistance != math.inf:
            raise NetlistError(
                f"the behavioural neuron {self.name!r} has no input or feedback resistor, got "
                f"{spec.input_resistance} and {spec.feedback_resistance} Ω"
            )
        return super().subcircuit(spec)

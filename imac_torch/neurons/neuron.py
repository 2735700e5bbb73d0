"""Activation circuits: a nonlinear core between gate and output, and the resistors around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from imac_torch.circuit import NeuronSpec
from imac_torch.errors import SolverError


class CoreValues(NamedTuple):
    """Currents of a core; all of one shape.

    Attributes:
        output: A delivered to the output node.
        gate: A drawn from the gate node.
        supply: A drawn from vdd.
    """

    output: Tensor
    gate: Tensor
    supply: Tensor


class CoreCurrents(NamedTuple):
    """Currents of a core with their derivatives; all of one shape.

    Attributes:
        output: A delivered to the output node.
        gate: A drawn from the gate node.
        output_by_gate: S, derivative of ``output`` with respect to the gate voltage.
        output_by_output: S, derivative of ``output`` with respect to the output voltage.
        gate_by_gate: S.
        gate_by_output: S.
    """

    output: Tensor
    gate: Tensor
    output_by_gate: Tensor
    output_by_output: Tensor
    gate_by_gate: Tensor
    gate_by_output: Tensor


class Core(Protocol):
    """What the solver needs of an activation circuit; add your own by providing these."""

    def values(self, gate: Tensor, output: Tensor) -> CoreValues:
        """Currents at gate and output voltages (V, one shape), differentiable in everything."""
        ...

    def currents(self, gate: Tensor, output: Tensor) -> CoreCurrents:
        """Currents and derivatives; derivatives need no graph."""
        ...

    def start(self) -> tuple[float, float, float]:
        """Where Newton's method starts: gate voltages between two bounds, an output voltage."""
        ...

    def inside(self, gate: Tensor, output: Tensor) -> Tensor:
        """Whether the core is valid at these voltages, elementwise bool."""
        ...


def differentiate(core: Core, gate: Tensor, output: Tensor) -> CoreCurrents:
    """:meth:`Core.currents` by automatic differentiation of :meth:`Core.values`."""
    tracked = torch.is_grad_enabled()
    with torch.enable_grad():
        gate = gate.detach().requires_grad_()
        output = output.detach().requires_grad_()
        values = core.values(gate, output)
        # The sums decouple elements: each current depends on its own voltages only.
        first = torch.autograd.grad(values.output.sum(), (gate, output), retain_graph=True)
        second = torch.autograd.grad(
            values.gate.sum(), (gate, output), retain_graph=tracked, allow_unused=True
        )
    by_gate, by_output = (
        torch.zeros_like(gate) if item is None else item for item in second
    )
    outgoing, ingoing = values.output, values.gate
    if not tracked:
        outgoing, ingoing = outgoing.detach(), ingoing.detach()
    return CoreCurrents(outgoing, ingoing, first[0], first[1], by_gate, by_output)


@dataclass(frozen=True)
class BehaviouralCore:
    """An ideal shape ``f(gate)`` behind an output resistance; draws nothing from gate and vdd.

    Shapes: ``logistic`` vdd/(1 + exp(slope·gate)), inverting as the CMOS neuron is;
    ``tanh`` vdd·tanh(slope·gate/2); ``relu`` gate clamped to [0, vdd]; ``identity`` gate.

    Attributes:
        kind: One of the four shapes.
        vdd: V, 0-dimensional.
        slope: 1/V, 0-dimensional (logistic and tanh).
        output_resistance: Ω, 0-dimensional, > 0.
    """

    kind: str
    vdd: Tensor
    slope: Tensor
    output_resistance: Tensor

    def shape(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """``f`` and its derivative.

        Raises:
            SolverError: The kind is unknown.
        """
        if self.kind == "logistic":
            # 1/(1+exp(x)) = (1 - tanh(x/2))/2 cannot overflow
            tanh = torch.tanh(self.slope * gate / 2)
            return self.vdd * (1 - tanh) / 2, -self.vdd * self.slope * (1 - tanh**2) / 4
        if self.kind == "tanh":
            tanh = torch.tanh(self.slope * gate / 2)
            return self.vdd * tanh, self.vdd * self.slope * (1 - tanh**2) / 2
        if self.kind == "relu":
            value = torch.minimum(gate.clamp(min=0.0), self.vdd)
            return value, ((gate > 0) & (gate < self.vdd)).to(gate.dtype)
        if self.kind == "identity":
            return gate, torch.ones_like(gate)
        raise SolverError(f"no behavioural neuron {self.kind!r}")

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


@dataclass(frozen=True)
class NeuronCircuit:
    """A core with its level shift, input resistor and feedback resistor.

    The gate equation is (z + level_shift - g)/R_in + (u - g)/R_fb - I_gate(g, u) = 0, the output
    equation I_out(g, u) + (g - u)/R_fb - I_load = 0.

    Attributes:
        core: The nonlinear part.
        input_resistance: Ω, 0-dimensional, >= 0, everything between the ideal combined
            amplifier source and the gate.
        feedback_conductance: S, 0-dimensional, >= 0.
        level_shift: V, 0-dimensional.
    """

    core: Core
    input_resistance: Tensor
    feedback_conductance: Tensor
    level_shift: Tensor

    @classmethod
    def of(cls, spec: NeuronSpec, core: Core, series_resistance: Tensor) -> NeuronCircuit:
        """The circuit of a specification, with the amplifiers' share of the input resistance."""
        return cls(
            core=core,
            input_resistance=series_resistance + spec.input_resistance,
            feedback_conductance=torch.full_like(
                series_resistance, 1.0 / spec.feedback_resistance
            ),
            level_shift=torch.full_like(series_resistance, spec.level_shift),
        )

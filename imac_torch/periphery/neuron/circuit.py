"""The core of an activation circuit with the resistors around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.core import Core, CoreCurrents, Resting


class Linearised(NamedTuple):
    """Newton's system at a point, gates eliminated: (diag(d) + Y)·du = r, dg = dg₀ + coupling·du.

    Y is the admittance of what the outputs drive. All tensors have one shape and no graph.

    Attributes:
        diagonal: S, d.
        transfer: S, output current per gate voltage.
        gate: Derivative of the gate equation times the input resistance.
        coupling: Gate voltage per output voltage.
    """

    diagonal: Tensor
    transfer: Tensor
    gate: Tensor
    coupling: Tensor

    def reduced(self, gate_defect: Tensor, output_defect: Tensor) -> tuple[Tensor, Tensor]:
        """dg₀ (V) and r (A) of defects in the gate (V) and the output equation (A)."""
        step = gate_defect / self.gate
        return step, output_defect + self.transfer * step


class Defects(NamedTuple):
    """What is left of the equations of :class:`NeuronCircuit`, with a graph where there is one.

    Attributes:
        gate: V, of the gate equation times the input resistance, which may be zero.
        output: A, of the output equation.
    """

    gate: Tensor
    output: Tensor


class NeuronPower(NamedTuple):
    """What the sources at neurons deliver without moving charge, and the input current.

    Attributes:
        drawn: (..., M) A that each neuron draws at its input.
        supply: (...,) W of vdd.
        level_shift: (...,) W of the level shifts.
    """

    drawn: Tensor
    supply: Tensor
    level_shift: Tensor


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

    @cached_property
    def newton_circuit(self) -> NDArray[np.float64]:
        """(3,): the resistance, the conductance and the shift, for the compiled kernel."""
        values = (self.input_resistance, self.feedback_conductance, self.level_shift)
        return np.array([float(value.detach()) for value in values])

    @cached_property
    def starts(self) -> list[tuple[object, tuple[float, float], Any]]:
        """What :mod:`imac_torch.dc.starts` remembers: a load, a range, where to start there."""
        return []

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

    def linearise(
        self,
        combined: Tensor,
        gates: Tensor,
        outputs: Tensor,
        load: Tensor | float,
        current: CoreCurrents | None = None,
    ) -> tuple[Linearised, Defects]:
        """Both equations and their derivatives.

        Args:
            combined: V at the input.
            gates: V.
            outputs: V.
            load: A drawn from the outputs.
            current: What flows at gates and outputs, charging included; None: the core's alone.
        """
        current = self.core.currents(gates, outputs) if current is None else current
        resistance, feedback = self.input_resistance, self.feedback_conductance
        gate_defect = (
            combined
            + self.level_shift
            - gates
            + resistance * ((outputs - gates) * feedback - current.gate)
        )
        output_defect = current.output + (gates - outputs) * feedback - load
        gate = (1.0 + resistance * (feedback + current.gate_by_gate)).detach()
        coupling = (resistance * (feedback - current.gate_by_output)).detach() / gate
        transfer = (current.output_by_gate + feedback).detach()
        diagonal = (feedback - current.output_by_output).detach() - transfer * coupling
        return Linearised(diagonal, transfer, gate, coupling), Defects(gate_defect, output_defect)

    def power(
        self, vdd: Tensor | float, gates: Tensor, outputs: Tensor, gate: Tensor, supply: Tensor
    ) -> NeuronPower:
        """Power of neurons at (..., M) V.

        Args:
            vdd: V.
            gates: V.
            outputs: V.
            gate: A into the gates.
            supply: A from vdd.
        """
        drawn = gate + (gates - outputs) * self.feedback_conductance
        return self._delivered(vdd, drawn, supply)

    def static_power(self, vdd: Tensor | float, gates: Tensor, outputs: Tensor) -> NeuronPower:
        """:meth:`power` at rest."""
        if isinstance(self.core, Resting):
            feedback = self.feedback_conductance
            return self._delivered(vdd, *self.core.at_rest(gates, outputs, feedback))
        core = self.core.values(gates, outputs)
        return self.power(vdd, gates, outputs, core.gate, core.supply)

    def _delivered(self, vdd: Tensor | float, drawn: Tensor, supply: Tensor) -> NeuronPower:
        """Of A drawn at inputs and from vdd, (..., M)."""
        return NeuronPower(drawn, vdd * supply.sum(-1), self.level_shift * drawn.sum(-1))

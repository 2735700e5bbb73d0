"""Neurons of a layer as small-signal circuits at an operating point.

Shapes: B operating points, M neurons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.circuit import NeuronCircuit
from imac_torch.periphery.neuron.core import ChargeValues, CoreCurrents, NoiseCurrents


@dataclass(frozen=True)
class NeuronsAt:
    """Coefficients at a frequency, (B, M) each.

    The gate follows g = (z + e + R·i_f)/D + c·u, the output u = X·(t·(z + e) + (t·R - 1)·i_f + n),
    X = (diag(d) + Y)⁻¹ with the load's Y; z is the combined read-outs' voltage, e that of the input
    resistance R, i_f the feedback resistor's current, n the core's.

    Attributes:
        gate: 1/D.
        coupling: c.
        through: t, S.
        diagonal: d, S.
    """

    gate: Tensor
    coupling: Tensor
    through: Tensor
    diagonal: Tensor


@dataclass(frozen=True)
class SmallSignal:
    """What the neurons of a layer are at their operating points.

    Attributes:
        circuit: Core and resistors.
        spec: The same as a specification.
        currents: Derivatives of the core.
        charges: Likewise.
        capacitance: (M,) F from every output to ground besides.
        noise: Of the core; None: not known.
        voltage: V/√Hz in series with the input besides; of those without transistors only, which
            bring noise of their own.
    """

    circuit: NeuronCircuit
    spec: NeuronSpec
    currents: CoreCurrents
    charges: ChargeValues
    capacitance: Tensor
    noise: NoiseCurrents | None
    voltage: float = 0.0

    @classmethod
    def of(
        cls,
        circuit: NeuronCircuit,
        spec: NeuronSpec,
        capacitance: Tensor,
        gates: Tensor,
        outputs: Tensor,
        voltage: float = 0.0,
    ) -> SmallSignal:
        """Linearise at (B, M) V."""
        charges = spec.model.charges(spec, device=gates.device).values(gates, outputs)
        return cls(
            circuit, spec, circuit.core.currents(gates, outputs), charges, capacitance,
            spec.model.noise(spec, gates, outputs),
            0.0 if "model_directory" in spec.model.reads else voltage,
        )  # fmt: skip

    def at(self, frequency: float) -> NeuronsAt:
        """Coefficients at a frequency, Hz."""
        s = 2j * math.pi * frequency
        resistance, feedback = self.circuit.input_resistance, self.circuit.feedback_conductance
        i, q = self.currents, self.charges
        own = i.gate_by_gate + s * (q.gate_by_gate + self.spec.input_capacitance)
        gate = 1.0 / (1.0 + resistance * (feedback + own))
        coupling = resistance * (feedback - i.gate_by_output - s * q.gate_by_output) * gate
        transfer = i.output_by_gate + feedback - s * q.output_by_gate
        charging = s * (q.output_by_output + self.capacitance)
        diagonal = feedback - i.output_by_output + charging - transfer * coupling
        return NeuronsAt(gate, coupling, transfer * gate, diagonal)

    @property
    def input_noise(self) -> tuple[float, float]:
        """V²/Hz in series with the input: of the read-outs' resistance, and of the neuron's own."""
        thermal = 4.0 * BOLTZMANN * self.spec.temperature
        own = self.spec.input_resistance
        meeting = thermal * (float(self.circuit.input_resistance) - own)
        return meeting, thermal * own + self.voltage**2

    @property
    def feedback_noise(self) -> float:
        """A²/Hz."""
        thermal = 4.0 * BOLTZMANN * self.spec.temperature
        return thermal * float(self.circuit.feedback_conductance)

    def corners(self, loads: Tensor) -> list[float]:
        """Hz, of gates and outputs alone: the slowest and the fastest of each.

        Args:
            loads: (M,) S, what each output sees of the load.
        """
        found = []
        still = self.at(0.0)
        resistance = float(self.circuit.input_resistance)
        if resistance > 0.0:
            held = (self.charges.gate_by_gate + self.spec.input_capacitance) * still.gate.real
            found.append(1.0 / (resistance * held))
        conductance = still.diagonal.real + loads
        held = self.charges.output_by_output + self.capacitance
        found.append(conductance / held)
        rates = torch.cat([item.flatten() for item in found]) / (2.0 * math.pi)
        rates = rates[torch.isfinite(rates) & (rates > 0.0)]
        return [] if len(rates) == 0 else [float(rates.min()), float(rates.max())]

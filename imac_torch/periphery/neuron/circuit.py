"""The core of an activation circuit with the resistors around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.core import Core


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

"""What one layer of ohmic cells computes, as a matrix: exact wires at the price of software.

The voltages behind the read-outs of ohmic crossbars are linear in the voltages on their lines,
wires included. Once the crossbars are eliminated, the matrix of that map is applied like any
layer's weights, at all positions at once, in the type of what it is applied to: float64 is the
solved circuit to rounding, float32 is what software has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.dc.native import Native, Prepared
from imac_torch.dc.network import eliminated
from imac_torch.model.positions import Positions
from imac_torch.periphery.neuron.behavioural import BehaviouralCore
from imac_torch.periphery.neuron.circuit import NeuronCircuit

NARROW = (torch.float16, torch.bfloat16)
"""Types that are computed with in float32."""


@dataclass(frozen=True)
class Effective:
    """Lines to neuron outputs, V to V.

    Attributes:
        weight: (M, N): combined amplifier voltage per voltage of a group's lines.
        bias: (M,) V, what the bias line adds.
        neuron: The circuit behind an output.
        exact: The same with the exact device model.
        native: What solves it where it is no plain function.
    """

    weight: Tensor
    bias: Tensor
    neuron: NeuronCircuit
    exact: NeuronCircuit
    native: Native

    @classmethod
    def of(cls, prepared: Prepared, native: Native, dtype: torch.dtype) -> Effective:
        """Of a circuit of one layer, in a type."""
        stage = eliminated(prepared.layers[0], "a layer's matrix")
        transfer = stage.ports.transfer
        if stage.ports.groups > 1:
            transfer = transfer.flatten(-3, -2)
        bias = stage.vdd * transfer[..., -1]
        neurons = stage.neuron, prepared.exact[0].neuron
        return cls(transfer[..., :-1].to(dtype), bias.to(dtype), *neurons, native)

    def __call__(self, volts: Tensor, positions: Positions) -> Tensor:
        """Neuron outputs at all positions.

        Args:
            volts: As the software layer takes its inputs, V, of the type of the matrix.
            positions: Where the layer is applied.

        Returns:
            As the software layer gives its outputs, V; NaN where a neuron does not converge.
        """
        combined = positions.through(volts, self.weight, self.bias)
        core = self.neuron.core
        if isinstance(core, BehaviouralCore) and float(self.neuron.feedback_conductance) == 0.0:
            return core.shape(combined + self.neuron.level_shift)[0]
        return self.native.unloaded_outputs(self.neuron, self.exact, combined)

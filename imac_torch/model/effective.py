"""What one layer of ohmic cells computes, as a matrix: exact wires at the price of software.

The voltages behind the read-outs of ohmic crossbars are linear in the voltages on their lines,
wires included. Once the crossbars are eliminated, the matrix of that map is applied like any
layer's weights, at all positions at once, in the type of what it is applied to: float64 is the
solved circuit to rounding, float32 is what software has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """Inputs of a layer to its outputs, in whatever unit both have.

    Attributes:
        weight: (M, N): combined amplifier voltage per unit on a line of a group.
        bias: (M,): what the bias line adds.
        low: Outputs are cut off here
        high: and here, where the neuron is ``None``.
        neuron: The circuit behind an output, for voltages, and the same with the exact device
            model; None: outputs are the combined voltages, cut off.
        native: What solves neurons that are no plain function.
    """

    weight: Tensor
    bias: Tensor
    low: float
    high: float
    neuron: tuple[NeuronCircuit, NeuronCircuit] | None
    native: Native

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        native: Native,
        dtype: torch.dtype,
        *,
        line: float = 1.0,
        unit: float = 1.0,
        cut: tuple[float, float] | None = None,
    ) -> Effective:
        """Of a circuit of one layer.

        Args:
            prepared: The circuit.
            native: What has solved it.
            dtype: Of the matrix.
            line: V on a line per unit of input.
            unit: V per unit of output, where ``cut`` is given.
            cut: Limits of the outputs times vdd, where the neuron does nothing else; None: it is
                asked, and outputs are V.
        """
        layer = eliminated(prepared.layers[0], "a layer's matrix")
        transfer = layer.ports.transfer
        if layer.ports.groups > 1:
            transfer = transfer.flatten(-3, -2)
        weight, bias = line * transfer[..., :-1], layer.vdd * transfer[..., -1]
        if cut is None:
            neuron, low, high = (layer.neuron, prepared.exact[0].neuron), -math.inf, math.inf
        else:
            neuron, vdd = None, float(layer.vdd)
            low, high = (limit * vdd / unit for limit in cut)
            weight, bias = weight / unit, (bias + layer.neuron.level_shift) / unit
        return cls(weight.to(dtype), bias.to(dtype), low, high, neuron, native)

    def __call__(
        self, x: Tensor, positions: Positions, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Outputs at all positions.

        Args:
            x: As the software layer takes its inputs, of the type of the matrix.
            positions: Where the layer is applied.
            noise: V, shaped like the outputs, added before the neurons and behind them.

        Returns:
            As the software layer gives its outputs; NaN where a neuron does not converge. V, if
            neurons do more than cutting off, else in the unit of outputs.
        """
        combined = positions.through(x, self.weight, self.bias)
        if noise is None:
            return self._outputs(combined)
        before, behind = (item.to(combined.dtype) for item in noise)
        return self._outputs(combined + before) + behind

    def _outputs(self, combined: Tensor) -> Tensor:
        """Of what neurons are driven with."""
        if self.neuron is None:
            free = self.low == -math.inf and self.high == math.inf
            if free:
                return combined
            if combined.requires_grad:
                return combined.clamp(self.low, self.high)
            return combined.clamp_(self.low, self.high)  # nobody else has it
        neuron, exact = self.neuron
        core = neuron.core
        if isinstance(core, BehaviouralCore) and float(neuron.feedback_conductance) == 0.0:
            return core.shape(combined + neuron.level_shift)[0]
        return self.native.unloaded_outputs(neuron, exact, combined)

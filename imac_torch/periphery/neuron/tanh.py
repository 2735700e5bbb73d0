"""A hyperbolic tangent, behavioural."""

from __future__ import annotations

import torch
from torch import Tensor

from imac_torch.periphery.activations import TANH
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.behavioural import BehaviouralNeuron


class TanhNeuron(BehaviouralNeuron):
    """vdd·tanh(slope·z/2)."""

    name = "tanh"
    activation = TANH
    reads = BehaviouralNeuron.reads | {"slope"}

    def curve(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`BehaviouralNeuron`."""
        tanh = torch.tanh(slope * gate / 2)
        return vdd * tanh, vdd * slope * (1 - tanh**2) / 2

    def line(self, spec: NeuronSpec) -> tuple[float, float] | None:
        """See :class:`imac_torch.periphery.neuron.NeuronKind`."""
        return 0.0, spec.options.slope / 2

"""A falling sigmoid, behavioural."""

from __future__ import annotations

import torch
from torch import Tensor

from imac_torch.periphery.activations import SIGMOID
from imac_torch.periphery.neuron.base import NeuronSpec
from imac_torch.periphery.neuron.behavioural import BehaviouralNeuron


class LogisticNeuron(BehaviouralNeuron):
    """vdd/(1 + exp(slope·z)), inverting as the CMOS neuron is."""

    name = "logistic"
    activation = SIGMOID
    reads = BehaviouralNeuron.reads | {"slope"}

    def curve(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`BehaviouralNeuron`."""
        # 1/(1+exp(x)) = (1 - tanh(x/2))/2 cannot overflow
        tanh = torch.tanh(slope * gate / 2)
        return vdd * (1 - tanh) / 2, -vdd * slope * (1 - tanh**2) / 4

    def value(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> Tensor:
        """See :class:`BehaviouralNeuron`."""
        return vdd * torch.sigmoid(gate * -slope)

    def line(self, spec: NeuronSpec) -> tuple[float, float] | None:
        """See :class:`imac_torch.periphery.neuron.NeuronKind`."""
        return 0.0, -spec.options.slope

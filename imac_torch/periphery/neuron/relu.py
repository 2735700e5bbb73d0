"""A rectifier, behavioural."""

from __future__ import annotations

import torch
from torch import Tensor

from imac_torch.periphery.activations import RELU
from imac_torch.periphery.neuron.behavioural import BehaviouralNeuron


class ReLUNeuron(BehaviouralNeuron):
    """z within [0, vdd]: a circuit cannot exceed its supply."""

    name = "relu"
    activation = RELU
    cut = (0.0, 1.0)

    def curve(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`BehaviouralNeuron`."""
        value = torch.minimum(gate.clamp(min=0.0), vdd)
        return value, ((gate > 0) & (gate < vdd)).to(gate.dtype)

"""A straight line between the supplies, behavioural."""

from __future__ import annotations

import torch
from torch import Tensor

from imac_torch.periphery.activations import HARDTANH
from imac_torch.periphery.neuron.behavioural import BehaviouralNeuron


class HardtanhNeuron(BehaviouralNeuron):
    """z within [-vdd, vdd]: a circuit between two supplies."""

    name = "hardtanh"
    activation = HARDTANH

    def curve(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`BehaviouralNeuron`."""
        value = torch.minimum(torch.maximum(gate, -vdd), vdd)
        return value, (gate.abs() < vdd).to(gate.dtype)

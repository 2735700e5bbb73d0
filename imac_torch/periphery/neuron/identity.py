"""Nothing between the amplifiers and what reads them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imac_torch.periphery.activations import IDENTITY
from imac_torch.periphery.neuron.base import NeuronLayout
from imac_torch.periphery.neuron.behavioural import BehaviouralNeuron


class IdentityNeuron(BehaviouralNeuron):
    """z: a buffer, for layers that are read out."""

    name = "identity"
    activation = IDENTITY
    cut = (-math.inf, math.inf)
    reads = BehaviouralNeuron.reads - {"quiescent_current"}
    layout = NeuronLayout(transistors=0, cells=0)

    def curve(self, gate: Tensor, vdd: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`BehaviouralNeuron`."""
        return gate, torch.ones_like(gate)

"""An arctan neuron: vdd·(2/π)·atan(slope·z)."""

import math

import torch
from torch import nn

from imac_torch.periphery.activations import Bounded
from imac_torch.periphery.neuron import BehaviouralNeuron, register_neuron


class Arctan(nn.Module):
    """What a model has."""

    def forward(self, x):
        return torch.atan(x) * (2 / math.pi)


class ArctanFunction(Bounded):
    """The same as the circuit's mapping and calibration see it."""

    name = "arctan"
    modules = (Arctan,)
    low, high = -1.0, 1.0

    def __call__(self, x):
        return torch.atan(x) * (2 / math.pi)

    def derivative(self, value, factor):
        return factor * (2 / math.pi) * torch.cos(value * math.pi / 2).square()


class ArctanNeuron(BehaviouralNeuron):
    name = "arctan"
    activation = ArctanFunction()
    reads = BehaviouralNeuron.reads | {"slope"}

    def curve(self, gate, vdd, slope):
        x = slope * gate
        return vdd * torch.atan(x) * (2 / math.pi), vdd * slope * (2 / math.pi) / (1 + x**2)

    def subcircuit(self, spec):
        return """* vdd*2/pi*atan(slope*v(z)) behind rout
.subckt neuron_arctan z out vdd slope=11 rout=1000 cin=0 cout=0
Eshape f 0 vol='v(vdd)*0.63661977236758134*atan(slope*v(z))'
Rout f out 'rout'
Cin z 0 'cin'
Cout out 0 'cout'
.ends neuron_arctan
"""


register_neuron(ArctanNeuron())

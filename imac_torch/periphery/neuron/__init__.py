"""Activation circuits, one file per kind.

Here belongs everything that depends on which circuit stands between an amplifier and the next
layer: what it computes, its currents and charges, its sub-circuit, its area. How a layer of them is
solved does not (:mod:`imac_torch.dc`, :mod:`imac_torch.transient`), nor how netlists are put
together. :class:`NeuronKind` says in one page what a kind must answer; a new one is a file like
``tanh.py`` and a line in :mod:`imac_torch.config.kinds`, or, outside of the package, a call of
:func:`register_neuron`.
"""

from imac_torch.periphery.neuron.base import NeuronKind, NeuronLayout, NeuronSpec, kind_of
from imac_torch.periphery.neuron.behavioural import BehaviouralNeuron
from imac_torch.periphery.neuron.choice import kind_for, neuron_kinds, register_neuron

__all__ = [
    "BehaviouralNeuron",
    "NeuronKind",
    "NeuronLayout",
    "NeuronSpec",
    "kind_for",
    "kind_of",
    "neuron_kinds",
    "register_neuron",
]

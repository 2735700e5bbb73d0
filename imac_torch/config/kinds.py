"""Names in a configuration that stand for code, and where that code is.

A configuration only checks that a name is known; the code is imported when it is first used.
"""

from __future__ import annotations

from typing import Any, Final

from imac_torch.base.registry import Registry

__all__ = ["NEURON_KINDS", "READ_OUT_KINDS"]

# One line per kind. Of those that compute the same activation the first is the default.
NEURON_KINDS: Final[Registry[Any]] = Registry(
    "neuron kind",
    {
        "finfet": "imac_torch.periphery.neuron.finfet:FinFETNeuron",
        "logistic": "imac_torch.periphery.neuron.logistic:LogisticNeuron",
        "tanh": "imac_torch.periphery.neuron.tanh:TanhNeuron",
        "relu": "imac_torch.periphery.neuron.relu:ReLUNeuron",
        "identity": "imac_torch.periphery.neuron.identity:IdentityNeuron",
        "table": "imac_torch.periphery.neuron.table:TableNeuron",
    },
)
"""Kinds of activation circuits: :class:`imac_torch.periphery.neuron.NeuronKind`."""

READ_OUT_KINDS: Final[Registry[Any]] = Registry(
    "read-out",
    {"differential": "imac_torch.periphery.readout.differential:Differential"},
    instantiate=False,
)
"""Classes of :class:`imac_torch.periphery.readout.ReadOut`."""

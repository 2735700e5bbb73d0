"""The neutral circuit: how layers are cut into arrays, their wires, nodes and elements.

Both sides, native and netlist, start from here; nothing here solves or writes anything.
"""

from imac_torch.circuit.topology import (
    Circuit,
    ElementArray,
    LayerCircuit,
    NeuronArray,
    NodeArray,
    ReadOutArray,
    SumArray,
    build_layer,
)

__all__ = [
    "Circuit",
    "ElementArray",
    "LayerCircuit",
    "NeuronArray",
    "NodeArray",
    "ReadOutArray",
    "SumArray",
    "build_layer",
]

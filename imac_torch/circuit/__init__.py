"""How layers are cut into arrays, their wires and read-outs, and, for netlists, nodes and elements.

Both sides start from a layer's :class:`imac_torch.circuit.crossbar.CrossbarSpec`; nothing here
solves or writes anything.
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

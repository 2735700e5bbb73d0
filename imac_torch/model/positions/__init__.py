"""How tensors of a model become input vectors of a matrix, one per position, and back.

A layer that applies one matrix at many places (a linear layer on sequences, a convolution) is one
circuit that is used once per place. Each kind of layer has a file here that says which numbers
reach the circuit's inputs at each of them.
"""

from imac_torch.model.positions.base import KINDS, Positions, positions_of
from imac_torch.model.positions.stuffed import Stuffed
from imac_torch.model.positions.vectors import Vectors
from imac_torch.model.positions.windows import Windows

__all__ = ["KINDS", "Positions", "Stuffed", "Vectors", "Windows", "positions_of"]

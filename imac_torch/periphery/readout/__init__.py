"""What the I± lines of a row end in, one file per kind.

A new kind is a class with the answers of :class:`ReadOut` and ``READ_OUTS.register(name, Kind)``;
``amplifier.kind`` then names it.
"""

from imac_torch.periphery.readout.base import ReadOut, Stamp
from imac_torch.periphery.readout.combination import Average, Combination, Sum, combination_of
from imac_torch.periphery.readout.differential import Differential
from imac_torch.periphery.readout.registry import READ_OUTS, build_read_out

__all__ = [
    "READ_OUTS",
    "Average",
    "Combination",
    "Differential",
    "ReadOut",
    "Stamp",
    "Sum",
    "build_read_out",
    "combination_of",
]

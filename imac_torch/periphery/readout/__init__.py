"""What the I± lines of a row end in, one file per kind.

Here belongs everything that depends on which read-out stands at the line ends: loads, outputs, how
partitions and slices meet, pole, power, sub-circuit, area. :class:`ReadOut` says in one page what a
kind must answer; a new one is a file like ``differential.py`` and a line in
:mod:`imac_torch.config.kinds`, or, outside of the package, a call of :func:`register_read_out`.
"""

from imac_torch.periphery.readout.base import ReadOut, Stamp
from imac_torch.periphery.readout.build import build_read_out, register_read_out
from imac_torch.periphery.readout.combination import Average, Combination, Sum, combination_of
from imac_torch.periphery.readout.differential import Differential
from imac_torch.periphery.readout.mirror import CurrentMirror
from imac_torch.periphery.readout.reference import ReferenceColumn
from imac_torch.periphery.readout.sense import SenseResistor
from imac_torch.periphery.readout.transimpedance import Transimpedance

__all__ = [
    "Average",
    "Combination",
    "CurrentMirror",
    "Differential",
    "ReadOut",
    "ReferenceColumn",
    "SenseResistor",
    "Stamp",
    "Sum",
    "Transimpedance",
    "build_read_out",
    "combination_of",
    "register_read_out",
]

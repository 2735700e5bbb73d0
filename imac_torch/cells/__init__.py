"""Bit cells: the current between an input line and an I± line, one file per kind.

A bit cell is a memory device (:class:`Cell`) with, perhaps, an access device in series
(:class:`Access`). A new kind of either is a file like ``sinh.py`` or ``diode.py`` and a line in
:mod:`imac_torch.config.kinds`, or, outside of the package, a call of :func:`register_cell` or
:func:`register_access`. Ohmic cells are resistors and need none of this.
"""

from imac_torch.cells.base import Cell, CellCurrents
from imac_torch.cells.build import (
    build_cell,
    cell_capacitance,
    register_access,
    register_cell,
    series_resistance,
)
from imac_torch.cells.capacitance import CellCapacitance
from imac_torch.cells.series import Access, Series
from imac_torch.cells.sinh import Sinh
from imac_torch.cells.table import measured_device

__all__ = [
    "Access",
    "Cell",
    "CellCapacitance",
    "CellCurrents",
    "Series",
    "Sinh",
    "build_cell",
    "cell_capacitance",
    "measured_device",
    "register_access",
    "register_cell",
    "series_resistance",
]

"""Two-terminal devices that compiled kernels know, by number; see :mod:`imac_torch.kernels.cells`.

A device is its kind and four parameters. Conductances at 0 V are those of memory devices, which
differ from cell to cell, or the second parameter.
"""

from __future__ import annotations

from typing import Final

OHMIC: Final = 0
"""–, g."""
SINH: Final = 1
"""v0, g: g·v0·sinh(v/v0)."""
TUNNEL: Final = 2
"""vh, conductance of the parallel state."""
DIODE: Final = 3
"""v0, g, leakage: g·v0·(exp(v/v0) - 1) + leakage·v."""
TRANSISTOR: Final = 4
"""No parameters: tabulated over the voltages of both its ends, see :meth:`Cell.table`."""

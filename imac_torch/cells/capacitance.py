"""What bit cells hold charge with: capacitances of memory and access devices."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["NO_CHARGE", "CellCapacitance"]


class CellCapacitance(NamedTuple):
    """Of one cell, in F.

    Attributes:
        memory: In parallel to the memory device.
        access: In parallel to the access device.
        node: From the node between the two to ground.
        line: From the I± line to ground, of the access device's other end.
    """

    memory: float = 0.0
    access: float = 0.0
    node: float = 0.0
    line: float = 0.0


NO_CHARGE: Final = CellCapacitance()
"""Of cells that hold none."""

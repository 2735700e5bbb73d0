"""Presets of the configuration: bit cells, devices, technology nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

BIT_CELL_LENGTHS: Final[Mapping[str, float]] = {"1T1R": 15.0, "2T1R": 23.0, "1TG1R": 48.0}
"""Length of a bit cell along the I± lines, in λ (one transistor, two, a transmission gate)."""

BIT_CELL_WIDTH: Final = 12.0
"""Width of a bit cell along the input line, in λ."""

DEVICES: Final[Mapping[str, tuple[float, float]]] = {
    "MRAM": (8.5e3, 25.5e3),
    "RRAM": (2.5e3, 100e3),
    "CBRAM": (10e3, 1e6),
    "PCM": (78e3, 202e3),
}
"""Low and high resistance (Ω) of the four devices that the IMAC papers compare."""

NODES: Final[tuple[float, ...]] = (7e-9, 9e-9, 10e-9, 14e-9, 16e-9, 20e-9, 22e-9, 32e-9, 45e-9)
"""Technology nodes (λ, m) with a preset; any other positive value is accepted too."""

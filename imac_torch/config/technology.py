"""Presets of the configuration: bit cells, devices, technology nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

BIT_CELL_LENGTHS: Final[Mapping[str, float]] = {"1T1R": 15.0, "2T1R": 23.0, "1TG1R": 48.0}
"""Length of a bit cell along the I± lines, in λ (one transistor, two, a transmission gate).

1T1R is the cell of IMAC-Sim's program (15 λ by 12 λ, github.com/iCAS-Lab/IMAC-Sim); the two longer
ones are those of its authors' HSPICE runs with other devices, at the same width.
"""

BIT_CELL_WIDTH: Final = 12.0
"""Width of a bit cell along the input line, in λ."""

DEVICES: Final[Mapping[str, tuple[float, float]]] = {
    "MRAM": (8.5e3, 25.5e3),
    "RRAM": (2.5e3, 100e3),
    "CBRAM": (10e3, 1e6),
    "PCM": (78e3, 202e3),
}
"""Low and high resistance (Ω) of the four devices that the IMAC papers compare.

As in their authors' HSPICE runs with these devices. Where they were measured is not said in what we
have of the papers, so take them as assumptions about a technology: a device of yours has its own.
"""

MODELS: Final[Mapping[str, Mapping[str, Any]]] = {
    # I0·exp(-gap/g0)·sinh(V/V0) of Z. Jiang et al., "A compact model for metal-oxide resistive
    # random access memory with experiment verification", IEEE Trans. Electron Devices 63(5),
    # 1884-1892 (2016), with the default parameters of its Verilog-A: I0 = 1 mA, g0 = 0.25 nm,
    # V0 = 0.25 V, gaps from 0.2 to 1.7 nm. R = V0/I0·exp(gap/g0).
    "RRAM_STANFORD": {
        "rlow": 250.0 * math.exp(0.2 / 0.25),
        "rhigh": 250.0 * math.exp(1.7 / 0.25),
        "cell": {"sinh": {"v0": 0.25}},
    },
    # Likewise of P.-Y. Chen and S. Yu, IEEE Trans. Electron Devices 62(12), 4022-4028 (2015):
    # I0 = 61.4 µA, g0 = 0.27505 nm, V0 = 0.43 V, gaps from 0.1 to 1.7 nm (HfOx of IMEC).
    "RRAM_ASU": {
        "rlow": 0.43 / 61.4e-6 * math.exp(0.1 / 0.27505),
        "rhigh": 0.43 / 61.4e-6 * math.exp(1.7 / 0.27505),
        "cell": {"sinh": {"v0": 0.43}},
    },
    # TMR(0)/(1 + (V/0.5 V)²) of Y. Zhang et al., IEEE Trans. Electron Devices 59(3), 819-826
    # (2012), between the end states of MRAM above, whose TMR(0) is 200 %.
    "MRAM_ZHANG": {"rlow": 8.5e3, "rhigh": 25.5e3, "cell": {"mtj": {"vh": 0.5}}},
    # D. Ielmini and Y. Zhang, J. Appl. Phys. 102, 054517 (2007), between the end states of PCM
    # above. Assumption: eight distances of traps in the thickness of the high-resistance state.
    "PCM_IELMINI": {"rlow": 78e3, "rhigh": 202e3, "cell": {"pcm": {"spacings": 8.0}}},
    # Assumption: three-terminal MRAM is read through the junction of MRAM_ZHANG.
    "SOT_MRAM": {"rlow": 8.5e3, "rhigh": 25.5e3, "cell": {"mtj": {"vh": 0.5}}},
}
"""Published compact models, by name: fields of the configuration's section device."""

ACCESS: Final[Mapping[str, Mapping[str, Any]]] = {
    "1T1R": {"finfet": {"fins": 3}},
    "2T1R": {"finfet": {"fins": 6}},
    "1TG1R": {"finfet": {"fins": 3, "p_fins": 3}},
}
"""Access devices of the bit cells whose lengths are above; no paper says how many fins they have.

Assumptions: a transistor has the three fins that fit into a cell's width of 12 λ at λ = 9 nm and
the 32 nm pitch of the 14 nm card; the two of 2T1R are in parallel; gates are at the supplies.
"""

ASSUMED_CELLS: Final[Mapping[str, Mapping[str, Any]]] = {
    # Crosspoints of 4F²: a device of one feature (2 λ) and one beside it each way; the I+ and the
    # I- cell side by side.
    "0T1R": {"length": 4.0, "width": 8.0, "spacing": 4.0, "access": {}},
    # With a selector between the same lines, which passes 15 µA at 0.4 V and 1/1500 of its slope
    # there at 0 V.
    "1S1R": {
        "length": 4.0, "width": 8.0, "spacing": 4.0,
        "access": {"selector": {"scale": 1e-8, "v0": 0.05}},
    },
    # A transistor for writing and one for reading, as long as 2T1R; the input holds the gate of the
    # latter, which has three fins.
    "SOT_2T1R": {
        "length": 23.0, "width": 12.0, "spacing": 5.0, "access": {"read_transistor": {"fins": 3}},
    },
}  # fmt: skip
"""Bit cells that nobody has published numbers of: all of this is assumed. Lengths in λ.

The study of partitioning names six layouts, of devices with two and three terminals, without
saying more; these three stand where they may be.
"""

NODES: Final[tuple[float, ...]] = (7e-9, 9e-9, 10e-9, 14e-9, 16e-9, 20e-9, 22e-9, 32e-9, 45e-9)
"""Technology nodes (λ, m) with a preset; any other positive value is accepted too."""

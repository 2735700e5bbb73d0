"""Resistance and capacitance of the wires of a crossbar from their geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.config import Interconnect
from imac_torch.errors import CircuitError

# Electron mean free path and scattering parameters of copper at room temperature, as in
# IMAC-Sim; surface scattering after Fuchs (Proc. Camb. Phil. Soc. 34, 100, 1938) and Sondheimer
# (Adv. Phys. 1, 1, 1952), grain boundaries after Mayadas and Shatzkes (Phys. Rev. B 1, 1382,
# 1970). Validity: wires wider than a few nanometres.
MEAN_FREE_PATH: Final = 39e-9
"""Electron mean free path λ0, m."""
SPECULARITY: Final = 0.25
"""Fraction s of electrons reflected specularly at a surface."""
GRAIN_REFLECTION: Final = 0.3
"""Probability Rg of reflection at a grain boundary."""


@dataclass(frozen=True)
class Segments:
    """Resistance of one wire segment (one bit cell) of each kind of line.

    Attributes:
        input_line: Ω, between neighbouring rows on an input line; 0 when switched off.
        output_line: Ω, between neighbouring columns on an I+ or I- line; 0 when switched off.
    """

    input_line: float
    output_line: float


def effective_resistivity(resistivity: float, width: float) -> float:
    """Resistivity of a narrow wire, surface and grain-boundary scattering included.

    Args:
        resistivity: Bulk resistivity, Ω·m.
        width: Wire width, m; the mean grain size is taken equal to it.

    Returns:
        Effective resistivity, Ω·m (Fuchs-Sondheimer plus Mayadas-Shatzkes).
    """
    alpha = MEAN_FREE_PATH * GRAIN_REFLECTION / (width * (1.0 - GRAIN_REFLECTION))
    surface = 0.75 * (1.0 - SPECULARITY) * MEAN_FREE_PATH / width
    grain = 1.0 / (
        1.0 - 1.5 * alpha + 3.0 * alpha**2 - 3.0 * alpha**3 * math.log1p(1.0 / alpha)
    )
    return resistivity * (surface + grain)


def segment_resistance(interconnect: Interconnect, length: float) -> float:
    """Resistance (Ω) of a wire of ``length`` (m): ρ_eff·length/(width·thickness)."""
    width = interconnect.metal_width
    resistivity = effective_resistivity(interconnect.resistivity, width)
    return resistivity * length / (width * interconnect.thickness)


def segments(interconnect: Interconnect) -> Segments:
    """Segment resistances of one bit cell, zero where wires are ideal."""
    if not interconnect.resistance:
        return Segments(0.0, 0.0)
    return Segments(
        input_line=segment_resistance(interconnect, interconnect.cell_width),
        output_line=segment_resistance(interconnect, interconnect.cell_length),
    )


def ground_capacitance(interconnect: Interconnect) -> float:
    """Capacitance per length (F/m) of an isolated wire over a plane.

    Half of Sakurai and Tamaru's line over a plane (IEEE Trans. Electron Devices 30, 183, 1983,
    eq. 2), as in IMAC-Sim.
    """
    height = interconnect.height
    width = interconnect.metal_width / height
    thickness = interconnect.thickness / height
    return interconnect.permittivity * 0.5 * (1.15 * width + 2.8 * thickness**0.222)


def coupling_capacitance(interconnect: Interconnect, distance: Tensor) -> Tensor:
    """Capacitance per length (F/m) between two parallel wires.

    Sakurai and Tamaru (1983), eq. 4: ε·(0.03 w/H + 0.83 T/H - 0.07 (T/H)^0.222)·(H/S)^1.34.

    Args:
        interconnect: Geometry and permittivity.
        distance: Spacings S, m, any shape, positive.

    Returns:
        F/m, same shape.
    """
    height = interconnect.height
    width = interconnect.metal_width / height
    thickness = interconnect.thickness / height
    shape = 0.03 * width + 0.83 * thickness - 0.07 * thickness**0.222
    return interconnect.permittivity * shape * (height / distance) ** 1.34


def input_line_capacitances(interconnect: Interconnect, count: int) -> Tensor:
    """Capacitance of one segment of each input line of an array to its surroundings.

    Args:
        interconnect: Geometry.
        count: Number of parallel input lines, at the pitch of one cell.

    Returns:
        (count,) float64, F. All coupling is lumped to ground, as in IMAC-Sim.

    Raises:
        CircuitError: The geometry is outside what the formulas describe.
    """
    index = torch.arange(count, dtype=torch.float64, device="cpu")
    order = (index[:, None] - index[None, :]).abs()
    # Input lines run along the cell's width, so neighbours are one cell *length* apart.
    imac_sim = interconnect.imac_sim_capacitance
    pitch = interconnect.cell_width if imac_sim else interconnect.cell_length
    distance = torch.where(order > 0, order * pitch, torch.full_like(order, math.inf))
    coupling = coupling_capacitance(interconnect, distance).sum(dim=1)
    total = (ground_capacitance(interconnect) + coupling) * interconnect.cell_width
    _check_positive(interconnect, float(total.min()) if count else 1.0, "an input line")
    return total


def output_line_capacitance(interconnect: Interconnect) -> float:
    """Capacitance (F) of one segment of an I+ or I- line: the plane and its partner line.

    Raises:
        CircuitError: The geometry is outside what the formulas describe.
    """
    partner = torch.tensor(interconnect.line_spacing, dtype=torch.float64, device="cpu")
    per_length = ground_capacitance(interconnect) + float(
        coupling_capacitance(interconnect, partner)
    )
    _check_positive(interconnect, per_length, "an I± line")
    imac_sim = interconnect.imac_sim_capacitance
    return per_length * (interconnect.cell_width if imac_sim else interconnect.cell_length)


def _check_positive(interconnect: Interconnect, capacitance: float, line: str) -> None:
    """The formulas are fits: for thin metal far above the plane the coupling turns negative."""
    if not capacitance > 0.0:
        ratio = interconnect.thickness / interconnect.height
        raise CircuitError(
            f"the capacitance of {line} comes out negative for thickness/height = {ratio:.2g}: "
            "Sakurai and Tamaru's formulas are fits for ratios from 0.3 to 10; change "
            "interconnect.height or thickness, or switch interconnect.capacitance off"
        )

"""Junctions of source and drain to the bulk: diode current and depletion charge.

Equation numbers refer to the BSIM-CMG 107.0.0 technical manual (UC Berkeley, 12 July 2013).
The areas and perimeters are zero unless given, as in the PTM-MG cards: then nothing flows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from imac_torch.base.units import ZERO_CELSIUS
from imac_torch.finfet.geometry import BOLTZMANN_PER_CHARGE, Geometry
from imac_torch.finfet.numerics import limited_exp, smooth_positive
from imac_torch.finfet.parameters import Parameters
from imac_torch.finfet.temperature import Thermal, band_gap, thermal_factor


@dataclass(frozen=True)
class Junction:
    """One junction at one temperature.

    Attributes:
        saturation: Saturation current, A.
        emission: Emission coefficient times kT/q, V.
        breakdown: Breakdown voltage, V.
        breakdown_factor: Prefactor of breakdown.
        forward_limit: Forward current beyond which the diode is continued by its tangent, A.
        reverse_limit: The same in breakdown, A.
        plates: (capacitance at zero bias, built-in potential, grading) of bottom, sidewall and
            gate edge.
    """

    saturation: Tensor
    emission: Tensor
    breakdown: Tensor
    breakdown_factor: Tensor
    forward_limit: Tensor
    reverse_limit: Tensor
    plates: tuple[tuple[Tensor, Tensor, Tensor], ...]

    def current(self, v: Tensor) -> Tensor:
        """Current from bulk to source or drain (section 3.20), A.

        Args:
            v: Forward voltage, V.

        Returns:
            The current, continued by its tangent beyond both limits.
        """
        if not bool((self.saturation > 0.0).any()):
            return torch.zeros_like(v)
        isat, nvt = self.saturation.clamp(min=1e-60), self.emission
        at_breakdown = self.breakdown_factor * limited_exp(-self.breakdown / nvt)
        # Voltages where the limiting currents flow (eqs. 3.499 and following)
        ratio = (self.forward_limit / isat).clamp(min=10.0)
        t = 1.0 + ratio - at_breakdown
        top = nvt * (0.5 * (t + (t * t + 4.0 * at_breakdown).sqrt())).log()
        ratio = smooth_positive(self.reverse_limit / isat - 10.0, 1e-3) + 10.0
        bottom = -self.breakdown - nvt * ((ratio - 1.0) / self.breakdown_factor).log()
        inner = torch.minimum(torch.maximum(v, bottom), top)
        forward = limited_exp(inner / nvt)
        reverse = self.breakdown_factor * limited_exp(-(self.breakdown + inner) / nvt)
        value = isat * (forward + at_breakdown - 1.0 - reverse)
        slope = isat * (forward + reverse) / nvt
        return value + slope * (v - inner)

    def charge(self, v: Tensor) -> Tensor:
        """Depletion charge on the bulk side, C, for a forward voltage in V."""
        total = torch.zeros_like(v)
        for capacitance, built_in, grading in self.plates:
            if bool((capacitance > 0.0).any()):
                total = total + capacitance * built_in * _depletion(v / built_in, grading)
        return total


def _depletion(x: Tensor, m: Tensor) -> Tensor:
    """∫₀ˣ (1 − u)^−m du, continued from x = 0.9 with the tangent of its integrand."""
    inner = (1.0 - x.clamp(max=0.9)).pow(1.0 - m)
    below = (1.0 - inner) / (1.0 - m)
    y = (x - 0.9).clamp(min=0.0)
    edge = 0.1 ** (-m)
    return below + edge * y * (1.0 + 5.0 * m * y)


def build_junction(
    p: Parameters, g: Geometry, t: Thermal, temperature: Tensor, side: Literal["s", "d"]
) -> Junction:
    """Collect one side's junction parameters.

    Args:
        p: Resolved parameters.
        g: Geometry.
        t: Temperature-dependent quantities.
        temperature: Device temperature, K.
        side: ``s`` or ``d``.
    """
    tnom = p["tnom"] + ZERO_CELSIUS
    dt = temperature - tnom
    area, perimeter, edge = p[f"a{side}ej"], p[f"p{side}ej"], g.width * g.nfin
    gap_nominal = band_gap(p, tnom) / (BOLTZMANN_PER_CHARGE * tnom)
    growth = limited_exp(  # eqs. 3.124, 3.128
        (gap_nominal - t.gap / t.vt + p[f"xti{side}"] * t.ratio.log()) / p[f"nj{side}"]
    )
    saturation = growth * (  # eq. 3.495
        area * p[f"js{side}"] + perimeter * p[f"jsw{side}"] + edge * p[f"jswg{side}"]
    )

    def plate(extent: Tensor, c: str, pb: str, m: str, tc: str, tp: str) -> tuple[Tensor, ...]:
        built_in = smooth_positive(p[pb] - p[tp] * dt - 0.01, 1e-3) + 0.01  # eqs. 3.150-3.155
        return extent * p[c] * thermal_factor(p[tc] * dt), built_in, p[m]  # eqs. 3.144-3.149

    bottom = plate(area, f"cj{side}", f"pb{side}", f"mj{side}", "tcj", "tpb")
    wall = plate(perimeter, f"cjsw{side}", f"pbsw{side}", f"mjsw{side}", "tcjsw", "tpbsw")
    gate = plate(edge, f"cjswg{side}", f"pbswg{side}", f"mjswg{side}", "tcjswg", "tpbswg")
    return Junction(
        saturation=saturation,
        emission=p[f"nj{side}"] * t.vt,
        breakdown=p[f"bv{side}"],
        breakdown_factor=p[f"xjbv{side}"],
        forward_limit=p[f"ijth{side}fwd"],
        reverse_limit=p[f"ijth{side}rev"],
        plates=((bottom[0], bottom[1], bottom[2]), (wall[0], wall[1], wall[2]),
                (gate[0], gate[1], gate[2])),
    )  # fmt: skip

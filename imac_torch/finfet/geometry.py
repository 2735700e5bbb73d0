"""Bias- and temperature-independent quantities of one FinFET: dimensions, resistance, fringes.

Equation numbers refer to the BSIM-CMG 107.0.0 technical manual (UC Berkeley, 12 July 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.finfet.numerics import softplus
from imac_torch.finfet.parameters import Parameters

# BSIM-CMG's own constants, which HSPICE's results contain: manual eqs. 3.1, 3.2; k/q as in the
# reference implementation (the manual's k is 1.3787e-23 J/K).
CHARGE: Final = 1.60219e-19
PERMITTIVITY: Final = 8.8542e-12
BOLTZMANN_PER_CHARGE: Final = 8.617087e-5


@dataclass(frozen=True)
class Geometry:
    """Dimensions and what follows from them alone; float64 tensors, SI units.

    Attributes:
        polarity: +1 for n, -1 for p.
        nfin: Number of fins.
        length: Effective channel length for currents, m.
        length_cv: Effective channel length for charges, m.
        width: Effective width of one fin for currents, m.
        width_cv: Effective width of one fin for charges, m.
        cox: Gate oxide capacitance per area, F/m².
        csi: Fin capacitance per area, F/m².
        eps_sub: Permittivity of the channel, F/m.
        eps_ratio: EPSRSUB/3.9.
        scale: Short-channel scale length λ, m.
        spacer: Spacer length LSP, m.
        resistance: Diffusion resistance of source or drain at TNOM, all fins, Ω.
        fringe: Outer fringe capacitance gate to source or drain, all fins, F.
    """

    polarity: int
    nfin: Tensor
    length: Tensor
    length_cv: Tensor
    width: Tensor
    width_cv: Tensor
    cox: Tensor
    csi: Tensor
    eps_sub: Tensor
    eps_ratio: Tensor
    scale: Tensor
    spacer: Tensor
    resistance: Tensor
    fringe: Tensor


def build_geometry(p: Parameters, polarity: int, *, extension: bool, sdterm: bool) -> Geometry:
    """Evaluate the geometry section of the model.

    Args:
        p: Resolved parameters.
        polarity: +1 for n, -1 for p.
        extension: Add the extension resistance of version 105.03, which 107 removed.
        sdterm: Whether source and drain are terminated with silicide.
    """
    gate_length = p["l"] + p["xl"]
    shrink = p["lint"] + p["ll"] * gate_length ** (-p["lln"])  # eq. 3.11
    shrink_cv = p["dlc"] + p["llc"] * gate_length ** (-p["lln"])  # eq. 3.12
    eps_sub = p["epsrsub"] * PERMITTIVITY
    eps_ratio = p["epsrsub"] / 3.9  # eq. 3.10
    spacer = p["lsp"] if "lsp" in p else 0.2 * gate_length
    return Geometry(
        polarity=polarity,
        nfin=p["nfin"],
        length=gate_length - 2.0 * shrink,  # eq. 3.13
        length_cv=gate_length - 2.0 * shrink_cv,  # eq. 3.14
        width=2.0 * p["hfin"] + p["fech"] * p["tfin"] - p["deltaw"],  # eq. 3.18
        width_cv=2.0 * p["hfin"] + p["fechcv"] * p["tfin"] - p["deltawcv"],  # eq. 3.19
        cox=3.9 * PERMITTIVITY / p["eot"],  # eq. 3.8
        csi=eps_sub / p["tfin"],  # eq. 3.9
        eps_sub=eps_sub,
        eps_ratio=eps_ratio,
        scale=_scale_length(p, eps_ratio),
        spacer=spacer,
        resistance=_diffusion_resistance(
            p, polarity, spacer=spacer, shrink=shrink, extension=extension, sdterm=sdterm
        ),
        fringe=_fringe_capacitance(p, spacer, gate_length),
    )


def _scale_length(p: Parameters, eps_ratio: Tensor) -> Tensor:
    """Scale length of a triple-gate fin (eqs. 3.174, 3.175), m."""
    eot, tfin = p["eot"], p["tfin"]
    double_gate = 0.5 * eps_ratio * (1.0 + tfin / (4.0 * eps_ratio * eot)) * tfin * eot
    height_squared = p["hfin"] / 8.0 * (p["hfin"] + 2.0 * eps_ratio * eot)
    return (1.0 / double_gate + 0.25 / height_squared) ** -0.5


def _resistivity(p: Parameters, polarity: int) -> Tensor:
    """Resistivity of the raised source/drain (eqs. 3.409 to 3.411), Ω·m.

    The constants of the reference implementation, where they differ from the manual's.
    """
    if "rhorsd" in p:
        return p["rhorsd"]
    nsd = p["nsd"]
    if polarity > 0:
        mobility = (
            52.2
            + (1417.0 - 52.2) / (1.0 + (nsd / 9.68e22) ** 0.680)
            - 43.4 / (1.0 + (3.43e26 / nsd) ** 2)
        )
    else:
        mobility = (
            44.9
            + (470.5 - 44.9) / (1.0 + (nsd / 2.23e22) ** 0.719)
            - 29.0 / (1.0 + (6.10e26 / nsd) ** 2)
        )
    return 1.0 / (CHARGE * nsd * mobility * 1e-4)


def _diffusion_resistance(
    p: Parameters,
    polarity: int,
    *,
    spacer: Tensor,
    shrink: Tensor,
    extension: bool,
    sdterm: bool,
) -> Tensor:
    """Contact, spreading and (105.03) extension resistance of all fins at TNOM, Ω."""
    nfin, hfin, tfin, hepi, pitch = p["nfin"], p["hfin"], p["tfin"], p["hepi"], p["fpitch"]
    rho = _resistivity(p, polarity)
    area = torch.where(  # eq. 3.414
        hepi > 0.0,
        pitch * hfin + (tfin + (pitch - tfin) * p["cratio"]) * hepi,
        pitch * (hfin + hepi).clamp(min=1e-9),
    )
    fin_area = torch.minimum(tfin * (hfin + hepi.clamp(max=0.0)), area)  # eq. 3.413
    spreading = (  # eq. 3.412, spreading angle 55 degrees
        rho
        / (math.tan(math.radians(55.0)) * math.sqrt(math.pi) * nfin)
        * (fin_area**-0.5 - 2.0 * area**-0.5 + fin_area.sqrt() / area)
    )
    total_area = area * nfin + p["arsdend"]  # eq. 3.418
    perimeter = (pitch + p["deltaprsd"]) * nfin + p["prsdend"]  # eq. 3.419
    transfer = (p["rhoc"] * total_area / (rho * perimeter)).sqrt()  # eq. 3.417
    alpha = p["lrsd"] / transfer  # eq. 3.416
    eta = rho * transfer / p["rhoc"] if sdterm else torch.zeros_like(rho)  # eq. 3.420
    # eq. 3.415 with numerator and denominator divided by cosh α
    tanh = torch.tanh(alpha)
    contact = rho * transfer / total_area * (1.0 + eta * tanh) / (tanh + eta)
    resistance = contact + spreading
    side = p["rhoc"] / (nfin * (-hepi).clamp(min=1e-30) * tfin)  # eq. 3.421
    # eq. 3.423
    resistance = torch.where(hepi < -1e-10, resistance * side / (resistance + side), resistance)
    if extension:
        # BSIM-CMG 105.03 (removed later): constant doping under the spacer, then a lateral
        # gradient of LDG per decade from NSD down to NSDE.
        ratio = p["nsd"] / p["nsde"]
        plateau = (spacer + shrink - p["ldg"] * ratio.log10()).clamp(min=0.0)
        path = plateau + p["ldg"] / math.log(10.0) * (ratio - 1.0)
        resistance = resistance + rho * path / (hfin * tfin * nfin)
    fit = p["rgeoa"] + p["rgeob"] * tfin + p["rgeoc"] * pitch  # eq. 3.422
    fit = fit + p["rgeod"] * p["lrsd"] + p["rgeoe"] * hepi
    return (resistance * fit.clamp(min=0.0)).clamp(min=1e-3)


def _fringe_capacitance(p: Parameters, spacer: Tensor, gate_length: Tensor) -> Tensor:
    """Outer fringe capacitance of all fins for CGEOMOD = 2 (eqs. 3.440 to 3.448), F."""
    tfin, hfin, pitch, tox = p["tfin"], p["hfin"], p["fpitch"], p["toxp"]
    eps_spacer = p["epsrsp"] * PERMITTIVITY
    gate_height = p["tgate"] + p["tmask"]  # eq. 3.443
    side_thickness = 0.5 * (pitch - tfin)  # eq. 3.444
    side_gate = (side_thickness - tox).clamp(min=0.0)  # eq. 3.445
    contact_height = (p["hepi"] + p["tsili"]).clamp(min=0.0)  # eq. 3.446
    masked = p["tmask"] > 0.0
    mask_top = (  # eq. 3.448
        3.467e-11 * (p["epsrsp"] * 1e-7 / (3.9 * spacer)).log()
        + 0.942 * contact_height * eps_spacer / spacer
    ) * (tfin + (pitch - tfin) * p["cratio"])
    open_top = tfin * _fringe_2d(gate_height, contact_height, spacer, tox, eps_spacer, 0.85)
    top = torch.where(masked, mask_top, open_top)
    shape = torch.where(masked, 0.70, 0.85).to(torch.float64)
    side = hfin * _fringe_2d(side_gate, side_thickness, spacer, tox, eps_spacer, shape)
    corner_area = torch.where(
        p["hepi"] > 0.0,
        (pitch - tfin) * (p["hepi"] * p["cratio"] + p["tsili"]),
        (pitch - tfin) * contact_height,
    )
    corner_area = torch.where(masked, torch.zeros_like(corner_area), corner_area)
    nfin = p["nfin"]
    corner = (nfin * corner_area + p["arsdend"] + p["asiliend"]) * eps_spacer / spacer  # eq. 3.442
    fit = p["cgeoa"] + p["cgeob"] * tfin + p["cgeoc"] * pitch + p["cgeod"] * p["lrsd"]  # eq. 3.447
    return (corner + nfin * top + 2.0 * p["cgeoe"] * nfin * side) * fit.clamp(min=0.0)


def _fringe_2d(
    gate: Tensor, contact: Tensor, spacer: Tensor, tox: Tensor, eps: Tensor, shape: Tensor | float
) -> Tensor:
    """Two-dimensional fringe capacitance per width between gate and raised contact, F/m.

    C.-H. Lin et al., reference [14] of the manual, with the constants of the reference
    implementation: a contact-to-gate part and a part from the gate's side to the fin.
    """
    reach = gate + tox
    slope = 2.3 + 0.2 * reach / contact
    limit = 1.05 * spacer
    # contact to gate: parallel plates, softened at small height, and a circular arc above
    steep = 1.7e12
    plates = eps * (torch.minimum(contact, reach) - spacer / (slope + 1.0)) / spacer
    plates = softplus(steep * plates) / steep
    ratio = 0.5 * torch.minimum(contact / reach, reach / contact)
    arc = (
        eps * 2.0 / math.pi * torch.log1p(0.5 * math.pi * (reach - contact).abs() * ratio / spacer)
    )
    # fin to gate side: logarithmic law, limited by the contact
    x = limit / gate
    c1 = 4.0 / ((2.0 * (x + 1.0)).sqrt() * math.pi)
    c2 = (tox * tox + 2.0 * gate * tox + gate * gate * (x + 1.0)).sqrt() * (x + 1.0).sqrt()
    c2 = c2 + tox + gate * x + gate
    c3 = tox * ((x + 1.0) * (x + 4.0)).sqrt() + tox * (x + 2.0)
    logarithmic = eps * (c1 * (c2 / c3).log() + 12.27)
    d = slope * 1.05
    t0 = (d * d + 1.0).sqrt()
    t1 = (d * d + 1.0) * ((d * tox) ** 2 + 2.0 * d * limit * tox + (d * d + 1.0) * limit * limit)
    t1 = t1.sqrt() + d * tox + d * d * limit + limit
    saturated = 2.0 * eps * math.sqrt(2.0) / math.pi * shape * d / t0
    saturated = saturated * (t1 / ((t0 + 1.0) * d * tox)).log()
    soft = 1.2e-12
    gap = saturated - logarithmic - soft
    return plates + arc + saturated - 0.5 * (gap + (gap * gap + 4.0 * soft * saturated).sqrt())

"""Quasi-static charges of a FinFET: channel, overlap, fringe and substrate.

Equation numbers refer to the BSIM-CMG 107.0.0 technical manual (UC Berkeley, 12 July 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.finfet.channel import Channel, ChannelState, saturation_factor
from imac_torch.finfet.geometry import CHARGE, PERMITTIVITY
from imac_torch.finfet.temperature import AtTemperature

_SMOOTHING: Final = 0.02  # eq. 3.429, V


@dataclass(frozen=True)
class Terminals:
    """Currents into the terminals, A, or charges at them, C; they sum to zero.

    Inside a device those of drain and source are at the internal nodes.

    Attributes:
        drain: Of the drain.
        gate: Of the gate.
        source: Of the source.
        bulk: Of the bulk.
    """

    drain: Tensor
    gate: Tensor
    source: Tensor
    bulk: Tensor


def channel_charges(channel: Channel, s: ChannelState, reverse: Tensor) -> Terminals:
    """Charges of the intrinsic channel in the n-type frame (section 3.14).

    Args:
        channel: The channel.
        s: Its state.
        reverse: Where source and drain are exchanged (boolean).
    """
    p, g, t = channel.p, channel.g, channel.t
    dmob = channel.mobility_degradation(s.qia, t.eta_mu_cv)  # eqs. 3.363, 3.364
    esat_length = 2.0 * t.vsat_cv / t.u0 * dmob * g.length_cv  # eq. 3.367
    dvsat = saturation_factor(s.dqi / esat_length, p["deltavsatcv"], t.psat_cv)  # eq. 3.368
    # dqi over the normalised current, eqs. 3.369, 3.370
    ratio = s.dqi * dvsat / s.mean_drive
    clm = p["pclmcv"]
    clm_safe = torch.where(clm == 0.0, torch.ones_like(clm), clm)
    excess = (s.vds - s.vdseff) / (clm_safe * (s.vdsat + esat_length))
    mclm = 1.0 + clm * torch.log1p(excess)  # eq. 3.371
    # eq. 3.373
    inversion = (s.qia + s.dqi * ratio / 12.0) / mclm + (mclm - 1.0) * s.qid
    # eq. 3.376
    end = 0.5 * s.qia - s.dqi / 12.0 * (1.0 - 0.5 * ratio - 0.05 * ratio * ratio)
    # Ward-Dutton share of the drain end (eq. 3.377); half of the pinched-off charge, as the
    # reference implementation has it.
    end = end / (mclm * mclm) + 0.5 * (mclm - 1.0 / mclm) * s.qid
    area = g.nfin * g.width_cv * g.length_cv * g.cox
    body = -g.nfin * CHARGE * p["nbody"] * p["hfin"] * p["tfin"] * g.length_cv
    total = area * inversion
    high = -area * end
    low = -total - high
    # The depletion charge does not depend on bias. The reference implementation counts it at the
    # source node, which is what HSPICE's charges contain.
    return Terminals(
        drain=torch.where(reverse, low, high),
        gate=total - body,
        source=torch.where(reverse, high, low) + body,
        bulk=torch.zeros_like(total),
    )


@dataclass(frozen=True)
class ParasiticCharges(AtTemperature):
    """Overlap, fringe and substrate charges of one FinFET, without the junctions."""

    def gate_to(self, v: Tensor, side: str) -> Tensor:
        """Charge on the gate opposite source (``s``) or drain (``d``), C, at gate voltage v."""
        p, g = self.p, self.g
        name = f"cg{side}o"
        if name in p:
            constant = p[name]
        else:  # defaults of the manual's parameter table
            constant = torch.where(
                p["dlc"] > 0.0,
                (p["dlc"] * g.cox - p[f"cg{side}l"]).clamp(min=0.0),
                0.3 * p["tfin"] * g.cox,
            )
        charge = (g.nfin * g.width_cv * constant + g.fringe) * v  # eqs. 3.425, 3.440
        variable, kappa = p[f"cg{side}l"], p[f"ckappa{side}"]
        if variable.requires_grad or bool((variable != 0.0).any()):
            x = v - self.t.vfb_sd
            soft = x + _SMOOTHING
            depletion = 0.5 * (soft - (soft * soft + 4.0 * _SMOOTHING).sqrt())  # eq. 3.427
            root = (1.0 - 4.0 * depletion / kappa).sqrt()
            bias = x - depletion - 0.5 * kappa * (root - 1.0)
            charge = charge + g.nfin * g.width_cv * variable * bias
        return charge

    def gate_to_bulk(self, v: Tensor) -> Tensor:
        """Charge on the gate opposite the bulk, C, at gate-bulk voltage v (eq. 3.433)."""
        p, g, t = self.p, self.g, self.t
        charge = (p["cgbo"] * p["ngcon"] + p["cgbn"] * g.nfin) * g.length_cv * v
        variable, kappa = p["cgbl"], p["ckappab"]
        if variable.requires_grad or bool((variable != 0.0).any()):
            x = v - t.delta_phi + 0.5 * t.gap + t.phi_b - p["delvfbacc"]
            soft = x + _SMOOTHING
            depletion = 0.5 * (soft + (soft * soft + 4.0 * _SMOOTHING).sqrt())
            root = (1.0 + 4.0 * depletion / kappa).sqrt()
            bias = x - depletion + 0.5 * kappa * (root - 1.0)
            charge = charge + g.nfin * g.length_cv * variable * bias
        return charge

    def to_bulk(self, v: Tensor, side: str) -> Tensor:
        """Charge on the bulk opposite source or drain through oxide (eqs. 3.430 to 3.432), C."""
        p, g = self.p, self.g
        wall = p["csdesw"] * torch.log1p(p["hfin"] / p["eotbox"])
        perimeter = (p[f"p{side}eo"] - p["fpitch"] * g.nfin).clamp(min=0.0)
        area = p[f"a{side}eo"] * 3.9 * PERMITTIVITY / p["eotbox"]
        return (area + wall * perimeter) * v

"""Channel charge and drain current of the intrinsic FinFET (between its internal nodes).

Equation numbers refer to the BSIM-CMG 107.0.0 technical manual (UC Berkeley, 12 July 2013).
Voltages here are those of an n-type device with V_ds ≥ 0; ``intrinsic.py`` maps others to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.finfet.geometry import CHARGE
from imac_torch.finfet.numerics import choose, power, smooth_positive
from imac_torch.finfet.potential import inversion_charge
from imac_torch.finfet.temperature import AtTemperature, body_charge


@dataclass(frozen=True)
class ChannelState:
    """Bias-dependent quantities that currents, tunnelling and charges share; all shaped alike.

    Attributes:
        qis: Inversion charge over Cox at the source end, V.
        qid: The same at the drain end, V.
        qia: Their mean, V.
        dqi: Their difference, V.
        vds: Drain-source voltage, V.
        vdsx: Smooth absolute value of the same, V.
        vdsat: Saturation voltage, V.
        vdseff: Effective drain-source voltage, V.
        nvt: n·kT/q, V.
        esat_length: Critical field at the source end times channel length, V.
        mean_drive: (2 − η)·n·kT/q + qia, the current over dqi in units of β, V.
    """

    qis: Tensor
    qid: Tensor
    qia: Tensor
    dqi: Tensor
    vds: Tensor
    vdsx: Tensor
    vdsat: Tensor
    vdseff: Tensor
    nvt: Tensor
    esat_length: Tensor
    mean_drive: Tensor


@dataclass(frozen=True)
class Channel(AtTemperature):
    """The channel of one FinFET at one temperature; bias goes to its methods.

    Attributes:
        fixed_vasat: Channel length modulation against the card's VASAT (version 105.03) instead
            of Vdsat + Esat·L (107).
    """

    fixed_vasat: bool

    def state(self, vgs: Tensor, vds: Tensor) -> ChannelState:
        """Charges at both ends of the channel.

        Args:
            vgs: Gate-source voltage, V.
            vds: Drain-source voltage, V, not negative.

        Returns:
            The state, shaped like the broadcast arguments.
        """
        p, g, t = self.p, self.g, self.t
        vdsx = (vds * vds + 0.01).sqrt() - 0.1  # eq. 3.180
        nvt = t.vt * (t.slope0 + t.slope1 * vdsx)  # eqs. 3.192, 3.193
        vgsfb = vgs - t.delta_phi - t.vth_shift - t.dibl * vdsx  # eq. 3.198
        # Lower limit of the gate drive, where the current is Imin (eqs. 3.218 to 3.220).
        floor = (
            2.0 * g.length * p["imin"] / (t.u0 * g.width * CHARGE * t.nc * p["tfin"])
        ).log() - nvt.log()
        vgsfbeff = smooth_positive(vgsfb - nvt * floor, 1e-4) + nvt * floor
        phi_bulk, qbs = body_charge(p, g)
        r1 = 2.0 * g.eps_sub / (g.cox * p["tfin"])  # eq. 3.199
        s0 = phi_bulk / nvt
        # eq. 3.227
        f1 = 0.5 * (8.0 * g.eps_sub / (CHARGE * t.nc * p["tfin"] ** 2)).log() + 0.5 * nvt.log()
        scale = 0.5 / nvt
        drive = (vgsfbeff - phi_bulk) * scale - f1 - r1 * s0  # eq. 3.229 less depletion
        volts = 2.0 * r1 * nvt
        qis = volts * inversion_charge(drive, r1, s0)  # eq. 3.278
        # saturation voltage (eqs. 3.286 to 3.292)
        esat_length = 2.0 * t.vsat / t.u0 * self.mobility_degradation(qis) * g.length
        overdrive = p["ksativ"] * (qis + qbs + 2.0 * t.vt)
        vdsat = esat_length * overdrive / (esat_length + overdrive)
        vdseff = vds / power(1.0 + power(vds / vdsat, t.mexp), 1.0 / t.mexp)
        qid = volts * inversion_charge(drive - vdseff * scale, r1, s0)  # eq. 3.298
        qia = 0.5 * (qis + qid)
        # eqs. 3.201, 3.357 to 3.359
        q0 = 5.0 * nvt * g.csi / g.cox + 2.0 * qbs
        mean_drive = qia + (2.0 - q0 / (q0 + qia)) * nvt
        return ChannelState(
            qis, qid, qia, qis - qid, vds, vdsx, vdsat, vdseff, nvt, esat_length, mean_drive
        )

    def mobility_degradation(self, charge: Tensor, eta: Tensor | float | None = None) -> Tensor:
        """Low-field over effective mobility at an inversion charge (eqs. 3.279, 3.280, 3.325)."""
        p, g, t = self.p, self.g, self.t
        qbs = body_charge(p, g)[1]
        weight = t.eta_mu if eta is None else eta
        field = 1e-8 / (g.eps_ratio * p["eot"]) * (qbs + weight * charge)
        degradation = 1.0 + t.ua * power(field, t.eu)
        if t.ud.requires_grad or bool((t.ud != 0.0).any()):
            coulomb = 0.5 * (1.0 + charge * (g.cox / 1e-2))
            degradation = degradation + t.ud / power(coulomb, t.ucs)
        return degradation / p["u0mult"]

    def current(self, s: ChannelState) -> Tensor:
        """Drain current of all fins (eq. 3.361), A, not negative."""
        p, g, t = self.p, self.g, self.t
        beta = t.u0 * g.cox * g.width / g.length
        dmob = self.mobility_degradation(s.qia)
        # velocity saturation (eqs. 3.338 to 3.340)
        x = s.dqi * (t.u0 / (2.0 * t.vsat1 * g.length)) / dmob
        dvsat = saturation_factor(x, p["deltavsat"], t.psat)
        dvsat = dvsat + 0.5 * t.ptwg * s.qia * s.dqi * s.dqi
        # output conductance (eqs. 3.332 to 3.337)
        excess = s.vds - s.vdseff
        pvag = p["pvag"] * s.qia / s.esat_length
        pvag = choose(p["pvag"] > 0.0, 1.0 + pvag, 1.0 / (1.0 - pvag.clamp(max=0.0)))
        swing = s.qia + 2.0 * t.vt
        va_dibl = swing * swing / (s.vdsat + swing) * pvag / t.theta_rout
        enhancement = 1.0 + excess / va_dibl
        saturation = p["vasat"] if self.fixed_vasat else s.vdsat + s.esat_length
        clm = p["pclmg"] * s.qia
        pclm = t.pclm.clamp(min=1e-30)  # the term vanishes with PCLM
        clm = choose(p["pclmg"] < 0.0, 1.0 / (1.0 / pclm - clm.clamp(max=0.0)), pclm + clm)
        enhancement = enhancement * (1.0 + clm * torch.log1p(excess / (clm * saturation)))
        factor = g.nfin * beta * p["ids0mult"]
        return factor * s.mean_drive * s.dqi * enhancement / (dmob * dvsat)


def saturation_factor(x: Tensor, delta: Tensor, exponent: Tensor) -> Tensor:
    """Degradation by velocity saturation, (1 + (δ + xᵖ)^{1/p})/(1 + δ^{1/p}) (eq. 3.340)."""
    if not delta.requires_grad and bool((delta == 0.0).all()) and not exponent.requires_grad:
        return 1.0 + x
    inverse = 1.0 / exponent
    tiny = 1e-38  # as in the reference implementation: keeps the root's derivative finite
    total = (delta + power(x, exponent)).clamp(min=tiny)
    return (1.0 + power(total, inverse)) / (1.0 + power(delta.clamp(min=tiny), inverse))

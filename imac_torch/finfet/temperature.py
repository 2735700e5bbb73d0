"""Temperature- and length-dependent parameters of one FinFET.

Equation numbers refer to the BSIM-CMG 107.0.0 technical manual. The limiters (0.9, 1e-3, 1e-6)
are those of the reference implementation; they keep a parameter physical at extreme temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from imac_torch.base.units import ZERO_CELSIUS
from imac_torch.finfet.geometry import BOLTZMANN_PER_CHARGE, CHARGE, Geometry
from imac_torch.finfet.numerics import limited_exp, screening, smooth_max, smooth_positive
from imac_torch.finfet.parameters import Parameters

REFERENCE_TEMPERATURE = 300.15
"""Temperature at which the material constants of the card hold, K."""


@dataclass(frozen=True)
class Thermal:
    """Everything that depends on temperature but not on bias; float64 tensors, SI units.

    Attributes:
        vt: Thermal voltage kT/q, V.
        ratio: T/TNOM.
        gap: Band gap, V.
        nc: Density of states of the conduction band, m⁻³.
        phi_b: Body potential, V.
        delta_phi: Work function difference between gate and source, V.
        vfb_sd: Flat-band voltage between gate and source/drain, V.
        vth_shift: Threshold shift without drain bias, V.
        dibl: Threshold shift per volt of drain bias.
        slope0: Subthreshold slope factor at zero drain bias.
        slope1: Slope factor per volt of drain bias.
        u0: Low-field mobility, m²/(V·s).
        eta_mu: Weight of the inversion charge in the effective field.
        eta_mu_cv: The same for charges.
        ua: Coefficient of phonon and surface-roughness scattering.
        eu: Exponent of the same.
        ud: Coefficient of Coulomb scattering.
        ucs: Exponent of the same.
        vsat: Saturation velocity for the drain saturation voltage, m/s.
        vsat1: Saturation velocity for the current, m/s.
        vsat_cv: Saturation velocity for charges, m/s.
        psat: Exponent of velocity saturation.
        psat_cv: The same for charges.
        mexp: Smoothing exponent of the saturation voltage.
        ptwg: Degradation of transconductance in saturation, V⁻³.
        pclm: Channel length modulation.
        theta_rout: DIBL factor of the output resistance.
        resistance_factor: Series resistance over its value at TNOM.
        igtemp: Tunnelling current over its value at TNOM.
        aigbinv: Exponent coefficient of gate-bulk tunnelling in inversion.
        aigbacc: The same in accumulation.
        aigc: The same of gate-channel tunnelling.
        aigs: The same of gate-source tunnelling.
        aigd: The same of gate-drain tunnelling.
    """

    vt: Tensor
    ratio: Tensor
    gap: Tensor
    nc: Tensor
    phi_b: Tensor
    delta_phi: Tensor
    vfb_sd: Tensor
    vth_shift: Tensor
    dibl: Tensor
    slope0: Tensor
    slope1: Tensor
    u0: Tensor
    eta_mu: Tensor
    eta_mu_cv: float
    ua: Tensor
    eu: Tensor
    ud: Tensor
    ucs: Tensor
    vsat: Tensor
    vsat1: Tensor
    vsat_cv: Tensor
    psat: Tensor
    psat_cv: Tensor
    mexp: Tensor
    ptwg: Tensor
    pclm: Tensor
    theta_rout: Tensor
    resistance_factor: Tensor
    igtemp: Tensor
    aigbinv: Tensor
    aigbacc: Tensor
    aigc: Tensor
    aigs: Tensor
    aigd: Tensor


@dataclass(frozen=True)
class AtTemperature:
    """What every part of one FinFET at one temperature is computed from.

    Attributes:
        p: Resolved parameters.
        g: Geometry.
        t: Temperature-dependent quantities.
    """

    p: Parameters
    g: Geometry
    t: Thermal


def thermal_factor(x: Tensor) -> Tensor:
    """1 + x, kept positive (limiter of the reference implementation)."""
    return smooth_positive(1.0 + x - 1e-6, 1e-3)


def band_gap(p: Parameters, temperature: Tensor) -> Tensor:
    """Band gap (eqs. 3.68, 3.69), V."""
    return p["bg0sub"] - p["tbgasub"] * temperature**2 / (temperature + p["tbgbsub"])


def build_thermal(
    p: Parameters, g: Geometry, temperature: Tensor, *, multiplicative: bool
) -> Thermal:
    """Evaluate the temperature section of the model.

    Args:
        p: Resolved parameters.
        g: Geometry.
        temperature: Device temperature, K.
        multiplicative: UTL and UA1 as version 105.03 has them (see below).

    Version 105.03 as HSPICE runs it multiplies U0·(T/TNOM)^UTE by 1 + UTL·ΔT and UA by 1 + UA1·ΔT
    where 107 adds UTL·ΔT and UA1·ΔT. In both TNOM is in °C: the PTM-MG cards' 300.15 is 573.30 K.
    """
    tnom = p["tnom"] + ZERO_CELSIUS
    ratio = temperature / tnom
    dt = temperature - tnom
    length = g.length
    vt = BOLTZMANN_PER_CHARGE * temperature
    gap = band_gap(p, temperature)
    growth = (temperature / REFERENCE_TEMPERATURE) ** 1.5
    reference_gap = p["bg0sub"] / (2.0 * BOLTZMANN_PER_CHARGE * REFERENCE_TEMPERATURE)
    ni = p["ni0sub"] * growth * limited_exp(reference_gap - gap / (2.0 * vt))  # eq. 3.70
    nbody, nsd = p["nbody"], p["nsd"]
    phi_b = vt * (nbody / ni).log()  # eq. 3.74
    vbi = vt * (nbody / ni).log() + vt * (nsd / ni).log()  # eq. 3.73
    phig = p["phig"] + p["phigl"] * length  # eq. 3.51
    # eq. 3.161, as min(Eg/2, ·) through the limiter
    phi_sd = 0.5 * gap - smooth_positive(0.5 * gap - vt * (nsd / ni).log(), 1e-4)
    middle = p["easub"] + 0.5 * gap
    if g.polarity > 0:
        delta_phi = phig - p["easub"]  # eq. 3.159
        vfb_sd = phig - (middle - phi_sd)  # eq. 3.163
        eta = 0.5
    else:
        delta_phi = p["easub"] + gap - phig
        vfb_sd = -(phig - (middle + phi_sd))
        eta = 1.0 / 3.0
    psi_st = 0.4 + phi_b + p["phin"]  # eq. 3.191
    x = length / g.scale
    vth_shift = (
        -p["dvt0"] * screening(p["dvt1"] * x + 1e-6) * (vbi - psi_st)  # eq. 3.194
        + p["k1rsce"] * ((1.0 + p["lpe0"] / length).sqrt() - 1.0) * psi_st.sqrt()  # eq. 3.196
        + (p["kt1"] + p["kt1l"] / length) * (ratio - 1.0)  # eq. 3.75
        + p["dvtshift"]
        - p["delvtrand"]
    )
    eta0 = p["eta0"] * (1.0 + smooth_max(p["teta0"] * dt, -0.9 + 0.0 * dt, 1e-4))
    theta_sw = screening(p["dvt1ss"] * x + 1e-6)
    series = 2.0 * g.cox * g.csi / (2.0 * g.csi + g.cox)
    theta_ss = thermal_factor(p["tss"] * dt)  # eq. 3.72
    # eq. 3.193; CIT over T/TNOM as in the reference implementation
    slope0 = theta_ss * (1.0 + (p["cit"] / ratio + theta_sw * p["cdsc"]) / series)
    slope1 = theta_ss * theta_sw * p["cdscd"] / series
    u0 = p["u0"] * (1.0 - p["up"] * length ** (-p["lpa"].clamp(min=0.0)))  # eq. 3.52
    ua = p["ua"] + p["aua"] * (-length / p["bua"]).exp()  # eq. 3.55
    u0 = u0.clamp(min=0.0) * ratio ** p["ute"]
    if multiplicative:
        u0_t = u0 * (1.0 + p["utl"] * dt).clamp(min=0.1)
        ua_t = ua.clamp(min=0.0) * (1.0 + p["ua1"] * dt).clamp(min=0.0)
    else:
        u0_t = u0 + smooth_max(p["utl"] * dt, -0.9 * u0, 1e-4)  # eq. 3.78
        ua_t = ua + smooth_max(p["ua1"] * dt, -ua, 1e-6)  # eq. 3.80
    # eq. 3.84; both versions have 1 − AT·ΔT, which with AT < 0 falls below TNOM
    velocity = smooth_positive(0.9 - p["at"] * dt, 1e-3) - smooth_positive(0.9 + 0.0 * dt, 1e-3)
    velocity = 1.0 + velocity

    def saturation(v: str, a: str, b: str, channel: Tensor) -> Tensor:
        # eqs. 3.62 to 3.65 and 3.84 to 3.87, at least 1000 m/s
        return ((p[v] + p[a] * (-channel / p[b]).exp()) * velocity).clamp(min=1000.0)

    mexp = (p["mexp"] + p["amexp"] * length ** (-p["bmexp"])).clamp(min=2.0)  # eq. 3.53
    if p["tmexp"].requires_grad or bool((p["tmexp"] != 0.0).any()):
        mexp = smooth_positive(mexp * (1.0 + p["tmexp"] * dt) - 2.0, 1e-3) + 2.0  # eq. 3.90
    ptwg = (p["ptwg"] + p["aptwg"] * (-length / p["bptwg"]).exp()).clamp(min=0.0)  # eq. 3.60

    def tunnelling(a: str, a1: str) -> Tensor:
        return p[a] + smooth_max(p[a1] * dt, -p[a], 1e-6)  # eqs. 3.100 to 3.104

    return Thermal(
        vt=vt,
        ratio=ratio,
        gap=gap,
        nc=p["nc0sub"] * growth,  # eq. 3.71
        phi_b=phi_b,
        delta_phi=delta_phi,
        vfb_sd=vfb_sd,
        vth_shift=vth_shift,
        dibl=-eta0 * screening(p["dsub"] * x + 1e-6),  # eq. 3.195
        slope0=slope0,
        slope1=slope1,
        u0=u0_t,
        eta_mu=eta * p["etamob"] * thermal_factor(p["emobt"] * dt),  # eqs. 3.79, 3.323
        eta_mu_cv=eta,
        ua=ua_t,
        eu=p["eu"] + p["aeu"] * (-length / p["beu"]).exp(),
        ud=(p["ud"] + p["aud"] * (-length / p["bud"]).exp()) * ratio ** p["ud1"],  # eqs. 3.56, 3.82
        ucs=p["ucs"] * ratio ** p["ucste"],  # eq. 3.83
        vsat=saturation("vsat", "avsat", "bvsat", length),
        vsat1=saturation("vsat1", "avsat1", "bvsat1", length),
        vsat_cv=saturation("vsatcv", "avsatcv", "bvsatcv", g.length_cv),
        psat=(p["psat"] + p["apsat"] * (-length / p["bpsat"]).exp()).clamp(min=2.0),  # eq. 3.66
        psat_cv=(p["psatcv"] + p["apsatcv"] * (-length / p["bpsatcv"]).exp()).clamp(min=2.0),
        mexp=mexp,
        ptwg=ptwg * thermal_factor(-p["ptwgt"] * dt),  # eq. 3.88
        pclm=p["pclm"] + p["apclm"] * (-length / p["bpclm"]).exp(),  # eq. 3.54
        theta_rout=p["pdibl1"] * screening(p["drout"] * x + 1e-6) + p["pdibl2"],  # eq. 3.335
        resistance_factor=thermal_factor(p["prt"] * dt),  # eqs. 3.111 to 3.122
        igtemp=ratio ** p["igt"],  # eq. 3.123
        aigbinv=tunnelling("aigbinv", "aigbinv1"),
        aigbacc=tunnelling("aigbacc", "aigbacc1"),
        aigc=tunnelling("aigc", "aigc1"),
        aigs=tunnelling("aigs", "aigs1"),
        aigd=tunnelling("aigd", "aigd1"),
    )


def body_charge(p: Parameters, g: Geometry) -> tuple[Tensor, Tensor]:
    """Bulk potential φ_bulk and depletion charge over Cox of the fully depleted fin, V, V."""
    phi_bulk = 0.5 * CHARGE * p["nbody"] / g.eps_sub * (0.5 * p["tfin"]) ** 2  # eq. 3.166
    return phi_bulk, CHARGE * p["nbody"] * p["tfin"] / (2.0 * g.cox)  # eq. 3.169

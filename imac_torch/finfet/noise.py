"""Noise of a FinFET's channel: thermal, and 1/f of traps in its oxide.

After the noise section of the BSIM-CMG 107.0.0 technical manual (UC Berkeley, 12 July 2013), for
TNOIMOD = 0 and the unified 1/f model (K. K. Hung, P. K. Ko, C. Hu and Y. C. Cheng, IEEE Trans.
Electron Devices 37, 1323, 1990), with the card's NTNOI, NOIA, NOIB, NOIC, EM, EF and LINTNOI.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.finfet.charge import channel_charges
from imac_torch.finfet.geometry import CHARGE
from imac_torch.finfet.intrinsic import Intrinsic

NOISE_DEFAULTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "ntnoi": 1.0, "noia": 6.25e39, "noib": 3.125e24, "noic": 8.75e7, "em": 4.1e7, "ef": 1.0,
        "lintnoi": 0.0,
    }
)  # fmt: skip
"""Of the manual's parameter table."""
_ATTENUATION: Final = 1e10
"""1/m, of the wave function in the oxide: 10^10 in the manual's equations."""
_SMALLEST: Final = 1e-30
"""Of the argument of the logarithm of ΔL_clm, which is below 1 where there is no such length."""


class ChannelNoise(NamedTuple):
    """Current noise between drain and source; one shape.

    Attributes:
        thermal: A²/Hz.
        flicker: A²/Hz at 1 Hz; it falls with f^-exponent.
        exponent: EF.
    """

    thermal: Tensor
    flicker: Tensor
    exponent: float


def channel_noise(
    intrinsic: Intrinsic,
    parameters: Mapping[str, float],
    drain: Tensor,
    gate: Tensor,
    source: Tensor,
) -> ChannelNoise:
    """Noise at given voltages of the internal nodes, in the n-type frame.

    The series resistances R_ds are part of the thermal noise, 4kT/(R_ds + L²/(µ·Q_inv)), as the
    manual has it; for V_ds = 0 that is Nyquist's 4kT·g_ds of the whole transistor.

    Args:
        intrinsic: The transistor.
        parameters: Of the card; what it leaves out has its default.
        drain: V.
        gate: V.
        source: V.
    """
    noise = {name: parameters.get(name, value) for name, value in NOISE_DEFAULTS.items()}
    channel, p, g, t = intrinsic.channel, intrinsic.p, intrinsic.g, intrinsic.t
    state, reverse = intrinsic.state(drain, gate, source)
    charges = channel_charges(channel, state, reverse)
    body = g.nfin * CHARGE * p["nbody"] * p["hfin"] * p["tfin"] * g.length_cv
    inversion = charges.gate - body
    mobility = t.u0 / channel.mobility_degradation(state.qia)
    thermal_energy = CHARGE * t.vt  # kT, J
    series = sum(intrinsic.resistances(drain, gate, source), torch.zeros_like(inversion))
    resistance = g.length * g.length / (mobility * inversion.clamp(min=1e-40))
    thermal = noise["ntnoi"] * 4.0 * thermal_energy / (series + resistance)

    current = channel.current(state)
    length = g.length - 2.0 * noise["lintnoi"]
    width = g.width * g.nfin
    at_source, at_drain = (g.cox * charge / CHARGE for charge in (state.qis, state.qid))
    traps = t.vt / CHARGE * (g.cox + p["cit"])  # N*, 1/m²
    saturation = 2.0 * t.vsat / mobility  # E_sat, V/m
    excess = ((state.vds - state.vdseff) / g.scale + noise["em"]) / saturation
    pinched = g.scale * excess.clamp(min=_SMALLEST).log()
    along = noise["noia"] * ((at_source + traps) / (at_drain + traps)).log()
    along = along + noise["noib"] * (at_source - at_drain)
    along = along + 0.5 * noise["noic"] * (at_source * at_source - at_drain * at_drain)
    at_end = noise["noia"] + noise["noib"] * at_drain + noise["noic"] * at_drain * at_drain
    at_end = at_end / (at_drain + traps) ** 2
    common = thermal_energy * current / (length * length * _ATTENUATION)
    along = CHARGE * CHARGE * mobility / g.cox * along
    strong = common * (along + current * pinched.clamp(min=0.0) / width * at_end)
    weak = noise["noia"] * common * current * length / (width * traps * traps)
    # One in strong, the other in weak inversion, and half of each between them.
    total = strong + weak
    flicker = torch.where(total > 0.0, strong * weak / total.clamp(min=1e-300), total)
    return ChannelNoise(thermal, flicker, noise["ef"])


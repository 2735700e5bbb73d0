"""Noise of a FinFET: thermal, and 1/f of traps in its oxide.

After the noise section of the BSIM-CMG 107.0.0 technical manual (UC Berkeley, 12 July 2013), for
TNOIMOD = 0 and the unified 1/f model (K. K. Hung, P. K. Ko, C. Hu and Y. C. Cheng, IEEE Trans.
Electron Devices 37, 1323, 1990), with the card's NTNOI, NOIA, NOIB, NOIC, EM, EF and LINTNOI; read
against the equations of the models' Verilog-A (110.0.0 of 2016, 111.0.0 of 2019), which agree.
Shot noise of gate currents is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.finfet.channel import ChannelState
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


class CarriedNoise(NamedTuple):
    """Derivatives of the drain terminal's current; one shape.

    Attributes:
        channel: A per A of a current from the inner drain to the inner source.
        drain: S, per V in series with the drain's resistance.
        source: S, likewise of the source's.
    """

    channel: Tensor
    drain: Tensor
    source: Tensor


class TransistorNoise(NamedTuple):
    """Noise of the current into the drain while all terminals are held; one shape.

    Attributes:
        thermal: A²/Hz.
        flicker: A²/Hz at 1 Hz; it falls with f^-exponent.
        exponent: EF.
    """

    thermal: Tensor
    flicker: Tensor
    exponent: float


def transistor_noise(
    intrinsic: Intrinsic,
    parameters: Mapping[str, float],
    nodes: tuple[Tensor, Tensor, Tensor],
    carried: CarriedNoise,
) -> TransistorNoise:
    """Noise of a channel between its series resistances (RDSMOD = 1), which are noisy themselves.

    Args:
        intrinsic: The transistor.
        parameters: Of the card; what it leaves out has its default.
        nodes: V of the inner drain, the gate and the inner source, in the n-type frame.
        carried: How it reaches the drain.
    """
    noise = {name: parameters.get(name, value) for name, value in NOISE_DEFAULTS.items()}
    channel, p, g, t = intrinsic.channel, intrinsic.p, intrinsic.g, intrinsic.t
    state, reverse = intrinsic.state(*nodes)
    charges = channel_charges(channel, state, reverse)
    body = g.nfin * CHARGE * p["nbody"] * p["hfin"] * p["tfin"] * g.length_cv
    inversion = charges.gate - body
    mobility = t.u0 / channel.mobility_degradation(state.qia)
    thermal_energy = CHARGE * t.vt  # kT, J
    own = noise["ntnoi"] * mobility * inversion / (g.length * g.length)  # S
    thermal = 4.0 * thermal_energy * carried.channel.square() * own
    for resistance, share in zip(
        intrinsic.resistances(*nodes), (carried.drain, carried.source), strict=True
    ):
        thermal = thermal + 4.0 * thermal_energy * resistance * share.square()

    current = channel.current(state)
    length = g.length - 2.0 * noise["lintnoi"]
    length = torch.where(length > 0.0, length, g.length)
    width = g.width * g.nfin
    at_source, at_drain = (g.cox * charge / CHARGE for charge in (state.qis, state.qid))
    traps = t.vt / CHARGE * (g.cox + p["cit"])  # N*, 1/m²
    along = noise["noia"] * ((at_source + traps) / (at_drain + traps)).log()
    along = along + noise["noib"] * (at_source - at_drain)
    along = along + 0.5 * noise["noic"] * (at_source * at_source - at_drain * at_drain)
    at_end = noise["noia"] + noise["noib"] * at_drain + noise["noic"] * at_drain * at_drain
    at_end = at_end / (at_drain + traps) ** 2
    common = thermal_energy * current / (length * length * _ATTENUATION)
    along = CHARGE * CHARGE * mobility / g.cox * along
    pinched = _pinched(intrinsic, noise["em"], state, mobility)
    strong = common * (along + current * pinched / width * at_end)
    weak = noise["noia"] * common * current * length / (width * traps * traps)
    # One in strong, the other in weak inversion, and half of each between them.
    total = strong + weak
    flicker = torch.where(total > 0.0, strong * weak / total.clamp(min=1e-300), total)
    return TransistorNoise(thermal, carried.channel.square() * flicker, noise["ef"])


def _pinched(
    intrinsic: Intrinsic, em: float, state: ChannelState, mobility: Tensor
) -> Tensor:
    """ΔL_clm, m: how much of the channel is pinched off, with a length of its own for noise."""
    if em <= 0.0:
        return torch.zeros_like(mobility)
    p, g, t = intrinsic.p, intrinsic.g, intrinsic.t
    scale = (0.5 * g.eps_ratio * p["eot"] * p["tfin"]).sqrt()  # litl
    saturation = 2.0 * t.vsat / mobility  # E_sat, V/m
    excess = ((state.vds - state.vdseff) / scale + em) / saturation
    return scale * excess.clamp(min=_SMALLEST).log().clamp(min=0.0)

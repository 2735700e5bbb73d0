"""Gate tunnelling currents: gate to bulk, to channel, to source and to drain.

Equation numbers refer to the BSIM-CMG 107.0.0 technical manual (UC Berkeley, 12 July 2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.finfet.channel import ChannelState
from imac_torch.finfet.numerics import limited_exp, softplus
from imac_torch.finfet.temperature import AtTemperature

# Richardson-like prefactor (A/V²) and barrier exponent ((g/F·s²)^½/m/V): eqs. 3.460 to 3.482.
_VALENCE = (3.75956e-7, 9.82222e11)
_ELECTRON = (4.97232e-7, 7.45669e11)
_HOLE = (3.42537e-7, 1.16645e12)

# The exponential is the probability to cross the barrier. Currents to channel, source and drain
# are continued by their tangent where it would exceed one (above 8 V across the oxide for the
# PTM-MG cards, where the fit of the barrier has lost its meaning): they flow through the series
# resistances, whose voltages would otherwise have no reasonable solution. The current to the bulk
# crosses no resistance and keeps the reference implementation's limit, which HSPICE's values at
# 1.5 to 2 V contain.
_CERTAIN = 0.0


@dataclass(frozen=True)
class GateCurrents:
    """Tunnelling currents of all fins in the n-type frame, A, positive out of the gate.

    Attributes:
        source: Gate to the channel's and overlap's source side.
        drain: Gate to the channel's and overlap's drain side.
        bulk: Gate to bulk.
    """

    source: Tensor
    drain: Tensor
    bulk: Tensor


@dataclass(frozen=True)
class Tunnelling(AtTemperature):
    """Gate tunnelling of one FinFET at one temperature.

    Attributes:
        to_channel: Model currents to channel, source and drain (IGCMOD = 1).
        to_bulk: Model the current to the bulk (IGBMOD = 1).
    """

    to_channel: bool
    to_bulk: bool

    def currents(
        self,
        s: ChannelState,
        reverse: Tensor,
        *,
        vgs: Tensor,
        vgd: Tensor,
        vge: Tensor,
    ) -> GateCurrents:
        """Evaluate all tunnelling currents.

        Args:
            s: State of the channel.
            reverse: Where the channel's source end is the drain node (boolean).
            vgs: Gate to source node, V.
            vgd: Gate to drain node, V.
            vge: Gate to bulk, V.

        Returns:
            The currents, shaped like the state.
        """
        bulk = self._to_bulk(s, vge) if self.to_bulk else torch.zeros_like(s.qia)
        if not self.to_channel:
            zero = torch.zeros_like(s.qia)
            return GateCurrents(zero, zero, bulk)
        low, high = self._to_channel(s, 0.5 * (vgs + vgd))
        source = torch.where(reverse, high, low)
        drain = torch.where(reverse, low, high)
        p, t = self.p, self.t
        if _nonzero(p["dlcigs"]):
            source = source + p["dlcigs"] * self._edge(vgs, t.aigs, p["bigs"], p["cigs"])
        if _nonzero(p["dlcigd"]):
            drain = drain + p["dlcigd"] * self._edge(vgd, t.aigd, p["bigd"], p["cigd"])
        return GateCurrents(source, drain, bulk)

    def _prefactor(self) -> Tensor:
        """Area, oxide thickness (eq. 3.459), temperature and number of fins."""
        p, g = self.p, self.g
        thickness = (p["toxref"] / p["toxg"]) ** p["ntox"] / p["toxg"] ** 2
        return g.width * g.length * thickness * self.t.igtemp * g.nfin

    def _to_bulk(self, s: ChannelState, vge: Tensor) -> Tensor:
        """Electrons from the valence band in inversion, and accumulation (eqs. 3.460-3.471)."""
        p, t = self.p, self.t
        prefactor = self._prefactor()
        a, b = _VALENCE
        swing = p["nigbinv"] * t.vt
        supply = swing * softplus((s.qia - p["eigbinv"]) / swing)
        barrier = (t.aigbinv - p["bigbinv"] * s.qia) * (1.0 + p["cigbinv"] * s.qia)
        inversion = a * supply * limited_exp(-b * p["toxg"] * barrier)
        a, b = _ELECTRON
        flat = t.delta_phi - 0.5 * t.gap - t.phi_b  # eq. 3.466
        depth = flat - vge
        swing = p["nigbacc"] * t.vt
        supply = swing * softplus(depth / swing)
        shifted = depth - 0.02
        oxide = 0.5 * (shifted + (shifted * shifted + 0.08 * flat.abs()).sqrt())  # eq. 3.470
        barrier = (t.aigbacc - p["bigbacc"] * oxide) * (1.0 + p["cigbacc"] * oxide)
        accumulation = a * supply * limited_exp(-b * p["toxg"] * barrier)
        return prefactor * vge * (inversion + accumulation)

    def _to_channel(self, s: ChannelState, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Gate to channel, partitioned between source and drain (eqs. 3.474 to 3.480)."""
        p, t = self.p, self.t
        a, b = _ELECTRON if self.g.polarity > 0 else _HOLE
        barrier = (t.aigc - p["bigc"] * s.qia) * (1.0 + p["cigc"] * s.qia)
        total = a * self._prefactor() * s.qia * (mean + 0.5 * s.vdsx)
        total = total * limited_exp(-b * p["toxg"] * barrier, _CERTAIN)
        u = p["pigcd"] * ((s.vdseff * s.vdseff + 0.01).sqrt() - 0.1)
        decay = (-u).exp()
        share = total / (u * u + 2e-4)
        source = share * (u + decay - 1.0 + 1e-4)
        return source, share * (1.0 - (u + 1.0) * decay + 1e-4)

    def _edge(self, v: Tensor, aig: Tensor, big: Tensor, cig: Tensor) -> Tensor:
        """Gate to source or drain per length of overlap (eqs. 3.481 to 3.487), A/m."""
        p, g = self.p, self.g
        a, b = _ELECTRON if g.polarity > 0 else _HOLE
        tox = p["toxg"] * p["poxedge"]
        thickness = (p["toxref"] / tox) ** p["ntox"] / tox**2
        smooth = (v * v + 1e-4).sqrt()
        barrier = (aig - big * smooth) * (1.0 + cig * smooth)
        factor = g.width * a * thickness * self.t.igtemp * g.nfin
        return factor * v * smooth * limited_exp(-b * tox * barrier, _CERTAIN)


def _nonzero(value: Tensor) -> bool:
    return value.requires_grad or bool((value != 0.0).any())

"""The FinFET between its internal nodes: currents, charges and series resistances.

All in the n-type frame: :class:`~imac_torch.finfet.transistor.FinFET` changes the signs of a
p-type device's voltages, currents and charges.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.finfet.channel import Channel, ChannelState
from imac_torch.finfet.charge import ParasiticCharges, Terminals, channel_charges
from imac_torch.finfet.junction import Junction
from imac_torch.finfet.numerics import limited_exp
from imac_torch.finfet.temperature import AtTemperature
from imac_torch.finfet.tunnelling import Tunnelling


@dataclass(frozen=True)
class Intrinsic(AtTemperature):
    """One FinFET at one temperature, without its series resistances.

    Attributes:
        channel: Channel.
        tunnelling: Gate tunnelling.
        source_junction: Junction from bulk to source.
        drain_junction: Junction from bulk to drain.
    """

    channel: Channel
    tunnelling: Tunnelling
    source_junction: Junction
    drain_junction: Junction

    def state(self, drain: Tensor, gate: Tensor, source: Tensor) -> tuple[ChannelState, Tensor]:
        """State of the channel, and where its source end is the drain node."""
        vds = drain - source
        reverse = vds < 0.0
        vgs = torch.where(reverse, gate - drain, gate - source)
        return self.channel.state(vgs, torch.where(reverse, -vds, vds)), reverse

    def currents(self, drain: Tensor, gate: Tensor, source: Tensor, bulk: Tensor) -> Terminals:
        """Currents at given voltages of the internal nodes, V.

        Returns:
            Currents into the device, A, shaped like the broadcast voltages; they sum to zero.
        """
        state, reverse = self.state(drain, gate, source)
        channel = self.channel.current(state) + self._generation(state.vds)
        channel = torch.where(reverse, -channel, channel)
        ig = self.tunnelling.currents(
            state, reverse, vgs=gate - source, vgd=gate - drain, vge=gate - bulk
        )
        from_source = self.source_junction.current(bulk - source)
        from_drain = self.drain_junction.current(bulk - drain)
        return Terminals(
            drain=channel - ig.drain - from_drain,
            gate=ig.source + ig.drain + ig.bulk,
            source=-channel - ig.source - from_source,
            bulk=from_source + from_drain - ig.bulk,
        )

    def _generation(self, vds: Tensor) -> Tensor | float:
        """Generation and recombination in the channel (eq. 3.494), A."""
        p, g, t = self.p, self.g, self.t
        a, b = p["aigen"], p["bigen"]
        if not (a.requires_grad or b.requires_grad or bool(((a != 0.0) | (b != 0.0)).any())):
            return 0.0
        volume = p["hfin"] * p["tfin"] * (g.length - 2.0 * p["lintigen"]) * g.nfin
        growth = limited_exp(t.gap / (p["ntgen"] * t.vt) * (t.ratio - 1.0))
        return volume * growth * vds * (a + b * vds * vds)

    def charges(self, drain: Tensor, gate: Tensor, source: Tensor, bulk: Tensor) -> Terminals:
        """Charges at given voltages of the internal nodes, V.

        Returns:
            The charges, C, shaped like the broadcast voltages; they sum to zero.
        """
        state, reverse = self.state(drain, gate, source)
        q = channel_charges(self.channel, state, reverse)
        parasitic = ParasiticCharges(self.p, self.g, self.t)
        gs, gd = parasitic.gate_to(gate - source, "s"), parasitic.gate_to(gate - drain, "d")
        gb = parasitic.gate_to_bulk(gate - bulk)
        vbs, vbd = bulk - source, bulk - drain
        bs = parasitic.to_bulk(vbs, "s") + self.source_junction.charge(vbs)
        bd = parasitic.to_bulk(vbd, "d") + self.drain_junction.charge(vbd)
        return Terminals(
            drain=q.drain - gd - bd,
            gate=q.gate + gs + gd + gb,
            source=q.source - gs - bs,
            bulk=q.bulk + bs + bd - gb,
        )

    def resistances(self, drain: Tensor, gate: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Drain and source series resistance of all fins (eqs. 3.398 to 3.405), Ω.

        Args:
            drain: Internal drain voltage, V.
            gate: Gate voltage, V.
            source: Internal source voltage, V.

        Returns:
            Resistances of drain and source; without bias dependence in the card they have the
            shape of the card's parameters.
        """
        p, g, t = self.p, self.g, self.t
        # width in µm to the power WR, and number of fins
        per_width = 1.0 / ((g.width * 1e6) ** p["wr"] * g.nfin)

        def one(v: Tensor, sheet: str, side: str) -> Tensor:
            fixed = g.resistance + p[f"{sheet}min"].clamp(min=0.0) * per_width
            decay = (-g.length / p[f"b{sheet}"]).exp()
            variable = (p[sheet] + p[f"a{sheet}"] * decay).clamp(min=0.0)  # eqs. 3.58, 3.59
            if not variable.requires_grad and bool((variable == 0.0).all()):
                return t.resistance_factor * fixed
            x = v - t.vfb_sd
            overdrive = 0.5 * (x + (x * x + 0.1).sqrt())
            inverse = 1.0 / (1.0 + p[f"prwg{side}"].clamp(min=0.0) * overdrive)
            modulation = 0.5 * (inverse + (inverse * inverse + 0.01).sqrt())
            return t.resistance_factor * (fixed + variable * modulation * per_width)

        return one(gate - drain, "rdw", "d"), one(gate - source, "rsw", "s")

"""Netlists for Spectre: its own language around the elements, which it reads as SPICE's."""

from imac_torch.base.units import spice_number
from imac_torch.errors import NetlistError
from imac_torch.netlist import NetlistWriter, register_dialect


@register_dialect
class SpectreWriter(NetlistWriter):
    name = "spectre"
    suffix = ".scs"

    def options(self, deck):
        settings = deck.settings
        return [
            "simulator lang=spectre",
            f"accuracy options reltol={spice_number(settings.relative)} "
            f"vabstol={spice_number(settings.absolute_voltage)} "
            f"iabstol={spice_number(settings.abstol)}",
            "simulator lang=spice",
        ]

    def analysis(self, deck):
        if deck.settings.analysis != "transient":
            raise NetlistError("netlists of spectre are transients only")
        timing = deck.circuit.timing
        longest = deck.settings.max_step or timing.period / 40
        return [
            "simulator lang=spectre",
            "save " + " ".join(deck.output_nodes),
            f"images tran stop={spice_number(deck.ends[-1])} maxstep={spice_number(longest)} "
            "method=gear2only",
            "simulator lang=spice",
        ]

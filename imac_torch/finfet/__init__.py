"""FinFETs after BSIM-CMG: model cards, currents, charges and capacitances.

The equations are those of the BSIM-CMG 107.0.0 technical manual (University of California,
Berkeley, 12 July 2013) for the flags of the PTM-MG cards, with the differences of version 105.03
as HSPICE runs it; implemented from the manual, float64, elementwise, differentiable.
"""

from imac_torch.finfet.builtin import builtin_14nm_hp
from imac_torch.finfet.card import (
    PTM_NODES,
    VERSIONS,
    ModelCard,
    load_ptm,
    parse_model_cards,
    read_model_cards,
    write_model_card,
)
from imac_torch.finfet.charge import Terminals
from imac_torch.finfet.resistance import InternalNodes
from imac_torch.finfet.transistor import FinFET, inverter_currents

__all__ = [
    "PTM_NODES",
    "VERSIONS",
    "FinFET",
    "InternalNodes",
    "ModelCard",
    "Terminals",
    "builtin_14nm_hp",
    "inverter_currents",
    "load_ptm",
    "parse_model_cards",
    "read_model_cards",
    "write_model_card",
]

"""FinFETs in ngspice through a compiled BSIM-CMG (OSDI).

The text follows the ngspice manual ("Verilog-A models", OSDI interface) and BSIM-CMG 107's
parameter names. It has not been run: ngspice has OSDI in distributions from version 44 on, and
nothing here has been tested against one. The baked cards are tested with the package's own
implementation of version 107.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from imac_torch.base.units import spice_number
from imac_torch.errors import NetlistError
from imac_torch.finfet import ModelCard
from imac_torch.finfet.baking import bake_temperature
from imac_torch.netlist.inverter import Inverter
from imac_torch.netlist.subcircuits import INVERTER_PORTS, parse_subcircuit

_DEVICE_TYPE: Final = {"n": 1, "p": 0}
_MODULE: Final = re.compile(r"[A-Za-z]\w*")


def osdi_inverter(
    osdi_path: Path,
    n_card: ModelCard,
    p_card: ModelCard,
    temperature: float,
    *,
    module: str = "bsimcmg",
) -> Inverter:
    """Transistors for an ngspice with OSDI and a compiled BSIM-CMG 107. Untested in a run.

    Version 105.03, which the cards are of, differs from 107 in its temperature terms and
    resistance; both are baked into the cards (:func:`imac_torch.finfet.baking.bake_temperature`).
    What remains, channel length modulation, is 16 mV at most on an inverter's output.

    Args:
        osdi_path: Compiled model, made from the Verilog-A of BSIM-CMG 107 by OpenVAF.
        n_card: Card of the n transistor, 105.03.
        p_card: Card of the p transistor, 105.03.
        temperature: K. The netlist must have the same.
        module: Name of the Verilog-A module in the file.

    Raises:
        NetlistError: The file is missing or its path cannot be written, the cards are swapped or
            named alike, or the module's name is not one.
        ModelCardError: A card cannot be baked.
    """
    path = Path(osdi_path).expanduser().resolve()
    if not path.is_file():
        raise NetlistError(
            f"no compiled model {path}; compile the Verilog-A of BSIM-CMG 107 with OpenVAF "
            "(openvaf bsimcmg.va)"
        )
    # The command line inside .control is split at blanks and knows $, ; and quotes.
    if re.search(r"[\s'\"$;`\x00-\x1f]", str(path)):
        raise NetlistError(f"ngspice cannot load a model from {str(path)!r}; rename or copy it")
    if _MODULE.fullmatch(module) is None:
        raise NetlistError(f"{module!r} is not the name of a Verilog-A module")
    if (n_card.polarity, p_card.polarity) != ("n", "p"):
        raise NetlistError(
            f"expected an n and a p card, got {n_card.polarity} ({n_card.name}) and "
            f"{p_card.polarity} ({p_card.name})"
        )
    if n_card.name.lower() == p_card.name.lower():
        raise NetlistError(f"both model cards are called {n_card.name}; rename one")
    cards = [bake_temperature(card, temperature) for card in (n_card, p_card)]
    lengths = [spice_number(card.parameters["l"]) for card in cards]
    text = "\n".join(
        [
            "* CMOS inverter of FinFETs: compiled BSIM-CMG 107 with cards of 105.03 baked at "
            f"{temperature:g} K.",
            *(_model(card, module) for card in cards),
            ".subckt inverter g out vdd fins=10",
            f"Np out g vdd vdd {p_card.name} l={lengths[1]} nfin='fins'",
            f"Nn out g 0 0 {n_card.name} l={lengths[0]} nfin='fins'",
            ".ends inverter",
            "",
        ]
    )
    return Inverter(
        parse_subcircuit(text, Path("inverter.sp"), INVERTER_PORTS),
        # Commands that begin with pre_ are executed before the circuit is read.
        (".control", f"pre_osdi {path}", ".endc"),
        dialect="ngspice",
        temperature=temperature,
    )


def _model(card: ModelCard, module: str) -> str:
    lines = [f".model {card.name} {module} devtype={_DEVICE_TYPE[card.polarity]}"]
    # Every digit, as in write_model_card.
    lines += [f"+ {name}={float(value)!r}" for name, value in card.parameters.items()]
    return "\n".join(lines)

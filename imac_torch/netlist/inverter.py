"""The transistors of FinFET neurons in netlists: a library, model cards, or a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from imac_torch.base.files import read_text
from imac_torch.base.units import spice_number
from imac_torch.errors import NetlistError
from imac_torch.netlist.definitions import read_definitions
from imac_torch.netlist.subcircuits import (
    INVERTER_PORTS,
    Subcircuit,
    packaged,
    parse_subcircuit,
    quoted_path,
)

CurrentFunction = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""Gate and output voltage (V, broadcast together) to output, gate and supply current (A)."""

_TABLES: Final = ("output", "gate", "supply")


@dataclass(frozen=True)
class Inverter:
    """A sub-circuit ``inverter g out vdd fins=`` and what it needs.

    Attributes:
        subcircuit: The sub-circuit.
        lines: Lines of the netlist that select its models.
        files: Further files beside the sub-circuit's, by name.
        dialect: The only dialect it is written for, or None.
        fins: The only number of fins it is made for, or None.
        vdd: V. The only supply it is made for, or None.
        temperature: K. The only temperature it is made for, or None.
        static: Why it serves operating points only, and what to do; None: it has charges.
    """

    subcircuit: Subcircuit
    lines: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    dialect: str | None = None
    fins: int | None = None
    vdd: float | None = None
    temperature: float | None = None
    static: str | None = None

    def __post_init__(self) -> None:
        """Check that the sub-circuit takes the number of fins, which neurons pass to it.

        Raises:
            NetlistError: It does not.
        """
        if "fins" not in self.subcircuit.parameters:
            raise NetlistError(
                f"the sub-circuit inverter in {self.subcircuit.source} must declare the parameter "
                "fins (.subckt inverter g out vdd fins=10)"
            )


def library_inverter(
    directory: Path, node: int, flavour: str, *, trust: bool = False
) -> Inverter:
    """Transistors of the user's HSPICE library ``models`` with its PTM-MG wrappers.

    Args:
        directory: Directory that holds the library.
        node: Technology node, nm.
        flavour: ``hp`` or ``lstp``; the section is ``ptm<node><flavour>``.
        trust: Do not look what the section holds.

    Raises:
        NetlistError: The library cannot be read, has no such section, or there is something else
            than definitions in it.
    """
    library = directory.expanduser().resolve() / "models"
    section = f"ptm{node}{flavour}"
    try:
        text = read_text(library, errors="replace")
    except OSError as error:
        raise NetlistError(f"the model library {library} cannot be read: {error}") from error
    if re.search(rf"^\s*\.lib\s+['\"]?{section}\b", text, re.I | re.M) is None:
        raise NetlistError(f"the model library {library} has no section {section}")
    if not trust:
        read_definitions(library, section)
    inverter = packaged("inverter_finfet", INVERTER_PORTS, name="inverter")
    line = f".lib {quoted_path(library)} {section}"
    return Inverter(inverter, (line,), dialect="hspice")


def card_inverter(n_card: str, p_card: str, gate_length: float) -> Inverter:
    """Transistors of two model cards, as :func:`imac_torch.finfet.write_model_card` writes them.

    Args:
        n_card: ``.model`` statement of the n transistor (level 72).
        p_card: The same for p.
        gate_length: m.

    Raises:
        NetlistError: A text is not one ``.model`` statement of the right polarity.
    """
    names = []
    for card, kind in ((n_card, "nmos"), (p_card, "pmos")):
        found = re.findall(r"^[ \t]*\.model[ \t]+(\w+)[ \t]+(\w+)", card, re.I | re.M)
        if len(found) != 1 or found[0][1].lower() != kind:
            raise NetlistError(f"expected the text of one {kind} model card, got {card[:60]!r}")
        names.append(found[0][0])
    if names[0].lower() == names[1].lower():
        raise NetlistError(f"both model cards are called {names[0]}; rename one")
    length = spice_number(gate_length)
    text = (
        "* CMOS inverter of FinFETs with the model cards of the circuit's configuration.\n"
        f"{n_card.rstrip()}\n{p_card.rstrip()}\n"
        ".subckt inverter g out vdd fins=10\n"
        f"Mp out g vdd vdd {names[1]} l={length} nfin='fins'\n"
        f"Mn out g 0 0 {names[0]} l={length} nfin='fins'\n"
        ".ends inverter\n"
    )
    return Inverter(parse_subcircuit(text, Path("inverter.sp"), INVERTER_PORTS), dialect="hspice")


def axis(*parts: tuple[float, float, float]) -> Tensor:
    """Grid of several ranges: (start, stop, largest step) each, V; ranges touch."""
    points = []
    for start, stop, step in parts:
        count = max(1, round((stop - start) / step + 0.49))
        nodes = torch.linspace(start, stop, count + 1, dtype=torch.float64, device="cpu")
        points.append(nodes[:-1])
    return torch.cat([*points, torch.tensor([parts[-1][1]], dtype=torch.float64, device="cpu")])


def default_axes(vdd: float) -> tuple[Tensor, Tensor]:
    """Gate and output voltages (V) at which an inverter is tabulated.

    Fine where the gate switches and where a transistor leaves saturation; wide enough for gates
    that tunnelling clamps at -0.65 V and 1.4 V. Along the transfer curve of the default neuron,
    bilinear interpolation (step²/8 times the curvature, over the output conductance) is then off
    by at most 1e-5 V (without a load).
    """
    middle = vdd / 2
    gate = axis(
        (-1.0, middle - 0.4, 0.01),
        (middle - 0.4, middle - 0.2, 0.004),
        (middle - 0.2, middle + 0.2, 0.003),
        (middle + 0.2, middle + 0.4, 0.004),
        (middle + 0.4, 1.9, 0.01),
    )
    output = axis(
        (-0.36, -0.04, 0.02),
        (-0.04, 0.0, 0.004),
        (0.0, 0.12, 0.001),
        (0.12, vdd - 0.12, 0.003),
        (vdd - 0.12, vdd, 0.001),
        (vdd, vdd + 0.04, 0.004),
        (vdd + 0.04, vdd + 0.46, 0.02),
    )
    return gate, output


def table_inverter(
    currents: CurrentFunction,
    *,
    vdd: float,
    fins: int,
    axes: tuple[Tensor, Tensor] | None = None,
) -> Inverter:
    """An inverter for ngspice, tabulated from any model of it (operating points only).

    XSPICE's ``table2d`` interpolates each current between grid points bilinearly (the tests say
    what that costs). Every instance reads the tables anew (about a quarter
    of a second each on the default grid), so that this is for small networks.

    Args:
        currents: The model.
        vdd: V. Supply at which ``currents`` holds.
        fins: Number of fins for which ``currents`` holds.
        axes: Gate and output voltages, ascending, V; None: :func:`default_axes`.

    Raises:
        NetlistError: The model gives something else than three finite currents.
    """
    gate, output = default_axes(vdd) if axes is None else axes
    with torch.no_grad():
        values = list(currents(*torch.meshgrid(gate, output, indexing="ij")))
    if len(values) != len(_TABLES) or not all(bool(torch.isfinite(v).all()) for v in values):
        raise NetlistError("an inverter's model must give three finite currents on the whole grid")
    files = {
        f"inverter_{name}.tbl": _table_text(gate, output, value)
        for name, value in zip(_TABLES, values, strict=True)
    }
    # A current output %id(a b) drives its current from a through the source into b.
    text = "\n".join(
        [
            f"* CMOS inverter tabulated at vdd = {spice_number(vdd)} V, {fins} fins; static.",
            f".subckt inverter g out vdd fins={fins}",
            "Aoutput g out %id(0 out) inverter_output",
            "Agate g out %id(g 0) inverter_gate",
            "Asupply g out %id(vdd 0) inverter_supply",
            *(
                f".model inverter_{name} table2d (offset=0 gain=1 order=3 "
                f'file="../circuit/inverter_{name}.tbl")'
                for name in _TABLES
            ),
            ".ends inverter",
            "",
        ]
    )
    subcircuit = parse_subcircuit(text, Path("inverter.sp"), INVERTER_PORTS)
    return Inverter(
        subcircuit, files=files, dialect="ngspice", fins=fins, vdd=vdd,
        static="ngspice has no FinFET of HSPICE's level 72; it gets a table of ours, which has no "
        "charges and serves operating points: pass settings=NetlistSettings(analysis='dc') for "
        "those (--analysis dc), dialect='hspice' for a transient, your own sub-circuit in "
        "neuron.subcircuit, or a compiled BSIM-CMG in neuron.osdi",
    )  # fmt: skip


def _table_text(first: Tensor, second: Tensor, values: Tensor) -> str:
    """A table file: sizes, both axes, then one line of values per point of the second axis."""
    lines = [
        "* imac_torch: x is the gate voltage, y the output voltage, V; table in A",
        str(len(first)),
        str(len(second)),
        " ".join(map(repr, first.tolist())),
        " ".join(map(repr, second.tolist())),
        *(" ".join(map(repr, row)) for row in values.T.tolist()),
    ]
    return "\n".join(lines) + "\n"

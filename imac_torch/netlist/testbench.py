"""The test bench of a neuron sub-circuit: input and output forced, currents measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.base.units import ZERO_CELSIUS, spice_number
from imac_torch.errors import NetlistError
from imac_torch.netlist.hspice import data_table
from imac_torch.netlist.settings import NetlistSettings
from imac_torch.netlist.subcircuits import Subcircuit
from imac_torch.periphery.neuron.base import NeuronSpec

FloatArray = NDArray[np.float64]

NEURON_FILE: Final = "neuron.sp"
"""Copy of the sub-circuit's file beside the netlist."""
CURRENTS: Final = ("i_out", "i_in", "i_supply")
"""Measures of HSPICE: into the output's source, out of the input's and the supply's, A."""
# ngspice ends a sweep when the accumulated value exceeds the stop value; a stop a part of a step
# further makes the number of points certain whatever the rounding.
_OVERSHOOT: Final = 0.25


@dataclass(frozen=True)
class TestBench:
    """A neuron between three voltage sources: input, output and vdd.

    Attributes:
        subcircuit: Ports z, out, vdd.
        spec: Its vdd, temperature and parameters.
        inputs: (P,) V, ascending, uniform.
        outputs: (Q,) V, ascending, uniform.
        settings: Tolerances.
        stem: Name of the netlist without suffix.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    subcircuit: Subcircuit
    spec: NeuronSpec
    inputs: FloatArray
    outputs: FloatArray
    settings: NetlistSettings
    stem: str

    def text(self, dialect: str) -> str:
        """The netlist in a dialect.

        Raises:
            NetlistError: The dialect is unknown.
        """
        if dialect not in ("ngspice", "hspice"):
            raise NetlistError(f"dialect must be 'ngspice' or 'hspice', got {dialect!r}")
        lines = self._ngspice() if dialect == "ngspice" else self._hspice()
        return "\n".join(lines) + "\n"

    def measures(self, dialect: str) -> tuple[str, ...]:
        """Names of the measures that HSPICE must report; ngspice writes a waveform file."""
        if dialect == "ngspice":
            return ()
        points = range(len(self.inputs) * len(self.outputs))
        return tuple(f"{name}[{k}]" for k in points for name in CURRENTS)

    def waveform_files(self, dialect: str) -> tuple[str, ...]:
        """Names of the files that the simulator writes."""
        return (f"{self.stem}.raw",) if dialect == "ngspice" else ()

    def _circuit(self, z: str, out: str) -> list[str]:
        arguments = self.subcircuit.arguments(self.spec.model.arguments(self.spec))
        return [
            f".temp {spice_number(self.spec.temperature - ZERO_CELSIUS)}",
            f".include '{NEURON_FILE}'",
            f"Vdd vdd 0 {spice_number(self.spec.vdd)}",
            f"Vz z 0 {z}",
            f"Vout out 0 {out}",
            f"Xneuron z out vdd {self.subcircuit.name}{arguments}",
        ]

    def _title(self, dialect: str) -> str:
        return (
            f"* imac_torch, {dialect}: {self.subcircuit.name} with forced input and output, "
            f"{len(self.inputs)} x {len(self.outputs)} points"
        )

    def _ngspice(self) -> list[str]:
        settings = self.settings
        sweeps = [f"{_range('vz', self.inputs)} {_range('vout', self.outputs)}"]
        return [
            self._title("ngspice"),
            f".options reltol={spice_number(settings.relative)} "
            f"vntol={spice_number(settings.absolute_voltage)} "
            f"abstol={spice_number(settings.abstol)} gmin=1e-15 itl1=500 itl2=500 nomod",
            *self._circuit("0", "0"),
            ".save v(z) v(out) i(vout) i(vz) i(vdd)",
            ".control",
            "set filetype=binary",
            *(f"dc {sweep}" for sweep in sweeps),
            f"write {self.stem}.raw",
            "quit 0",
            ".endc",
            ".end",
        ]

    def _hspice(self) -> list[str]:
        # As for operating points of networks: a dummy source is swept inside a .data table, so
        # that something can be measured at each of its rows.
        relative = spice_number(self.settings.relative)
        voltage = spice_number(self.settings.absolute_voltage)
        z, out = np.meshgrid(self.inputs, self.outputs, indexing="ij")
        rows = zip(z.reshape(-1).tolist(), out.reshape(-1).tolist(), strict=True)
        expressions = ("i(vout)", "-i(vz)", "-i(vdd)")
        return [
            self._title("hspice"),
            ".option ingold=2 numdgt=10 measdgt=10 measform=0 post=0 nomod parhier=local",
            f".option relv={relative} relvdc={relative} absv={voltage} absvdc={voltage} "
            f"abstol={spice_number(self.settings.abstol)}",
            *self._circuit("dc='value_z'", "dc='value_out'"),
            "Vscan scan 0 0",
            ".param value_z=0",
            ".param value_out=0",
            *data_table("points", ("value_z", "value_out"), rows),
            ".dc Vscan 0 1 1 sweep data=points",
            *(
                f".measure dc {name} find par('{expression}') at=0"
                for name, expression in zip(CURRENTS, expressions, strict=True)
            ),
            ".end",
        ]


def _range(source: str, values: FloatArray) -> str:
    step = float(values[-1] - values[0]) / (len(values) - 1)
    stop = float(values[-1]) + _OVERSHOOT * step
    return f"{source} {spice_number(values[0])} {spice_number(stop)} {spice_number(step)}"


def subcircuit_digest(subcircuit: Subcircuit, spec: NeuronSpec) -> str:
    """What identifies a neuron: its file's contents, its name and the parameters passed to it.

    Files that it includes are part of it, except for those of trusted files.
    """
    call = f"{subcircuit.name}{subcircuit.arguments(spec.model.arguments(spec))}"
    return hashlib.sha256(f"{call}\n{subcircuit.contents}".encode()).hexdigest()

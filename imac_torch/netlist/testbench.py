"""The test bench of a neuron sub-circuit: input and output forced, currents measured."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imac_torch.base.units import ZERO_CELSIUS, spice_number
from imac_torch.errors import NetlistError
from imac_torch.netlist.settings import NetlistSettings
from imac_torch.netlist.subcircuits import Subcircuit, neuron_subcircuit
from imac_torch.periphery.neuron.base import NeuronSpec

FloatArray = NDArray[np.float64]

NEURON_FILE: Final = "neuron.sp"
"""Copy of the sub-circuit's file beside the netlist."""
AMPLIFIER_FILE: Final = "amplifier.sp"
"""Likewise."""
CURRENTS: Final = ("i_out", "i_in", "i_supply")
"""What is measured: into the output's source, out of the input's and the supply's, A."""


class BenchNetlist(NamedTuple):
    """What a dialect makes of a test bench.

    Attributes:
        lines: The netlist.
        measures: Names of the measures that the simulator must report.
        waveform_files: Names of the files that it writes.
    """

    lines: list[str]
    measures: tuple[str, ...] = ()
    waveform_files: tuple[str, ...] = ()


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

    @property
    def file(self) -> str:
        """Name of the copy of the sub-circuit's file."""
        return NEURON_FILE

    def circuit(self, z: str, out: str) -> list[str]:
        """The neuron between sources of values ``z`` and ``out``, in any dialect."""
        arguments = self.subcircuit.arguments(self.spec.model.arguments(self.spec))
        return [
            f".temp {spice_number(self.spec.temperature - ZERO_CELSIUS)}",
            f".include '{self.file}'",
            f"Vdd vdd 0 {spice_number(self.spec.vdd)}",
            f"Vz z 0 {z}",
            f"Vout out 0 {out}",
            f"Xneuron z out vdd {self.subcircuit.name}{arguments}",
        ]

    def title(self, dialect: str) -> str:
        """First line of the netlist."""
        return (
            f"* imac_torch, {dialect}: {self.subcircuit.name} with forced input and output, "
            f"{len(self.inputs)} x {len(self.outputs)} points"
        )


@dataclass(frozen=True)
class AmplifierBench(TestBench):
    """An operational amplifier between sources: both inputs, output, vdd and vss.

    Attributes:
        inputs: (P,) s, of which width·sinh(s) V are between plus and minus.
        plus: V.
        width: V.
        vss: V.
        shifts: V by parameter of the sub-circuit.
    """

    plus: float
    width: float
    vss: float
    shifts: Mapping[str, float] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """See :class:`TestBench`."""
        return AMPLIFIER_FILE

    def circuit(self, z: str, out: str) -> list[str]:
        """See :class:`TestBench`; what is measured at z is nothing."""
        return [
            f".temp {spice_number(self.spec.temperature - ZERO_CELSIUS)}",
            f".include '{self.file}'",
            f"Vdd vdd 0 {spice_number(self.spec.vdd)}",
            f"Vss vss 0 {spice_number(self.vss)}",
            f"Vz z 0 {z}",
            f"Vplus plus 0 {spice_number(self.plus)}",
            f"Eminus minus 0 vol='v(plus)-{spice_number(self.width)}*sinh(v(z))'",
            f"Vout out 0 {out}",
            f"Xamplifier plus minus out vdd vss {self.subcircuit.name}"
            f"{self.subcircuit.arguments(self.shifts)}",
        ]


def amplifier_digest(subcircuit: Subcircuit) -> str:
    """What identifies an operational amplifier: its file's contents and its name."""
    return hashlib.sha256(f"{subcircuit.name}\n{subcircuit.contents}".encode()).hexdigest()


def checked_subcircuit(spec: NeuronSpec, *, trust: bool = False) -> Subcircuit:
    """A neuron's sub-circuit; of a characterised one that which its table was measured of.

    Args:
        spec: The neuron.
        trust: Take the file and what it includes as they are; see :func:`imac_torch.compile`.

    Raises:
        NetlistError: The file is missing, or has changed since.
        ConfigError: There is no table, or it holds for another supply or temperature.
        DataError: The table cannot be read.
    """
    subcircuit = neuron_subcircuit(spec, trust=trust)
    wanted = spec.model.digest(spec)
    if wanted is not None and subcircuit_digest(subcircuit, spec) != wanted:
        raise NetlistError(
            f"{subcircuit.source} or its parameters are not those that {spec.options.table} was "
            "characterised from; characterise it again (imac_torch.tabulate_neuron)"
        )
    return subcircuit


def subcircuit_digest(subcircuit: Subcircuit, spec: NeuronSpec) -> str:
    """What identifies a neuron: its file's contents, its name and the parameters passed to it.

    Files that it includes are part of it, except for those of trusted files.
    """
    call = f"{subcircuit.name}{subcircuit.arguments(spec.model.arguments(spec))}"
    return hashlib.sha256(f"{call}\n{subcircuit.contents}".encode()).hexdigest()

"""What stands around the arrays: amplifiers and neurons."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from imac_torch.base.units import quantity
from imac_torch.config.kinds import NEURON_KINDS, READ_OUT_KINDS, known
from imac_torch.config.quantity import (
    CAPACITANCE,
    CURRENT,
    FREQUENCY,
    RESISTANCE,
    TRANSISTOR_NODE,
    VOLTAGE,
    Quantity,
)
from imac_torch.config.section import Section
from imac_torch.errors import ConfigError

SERIES: Final = Quantity("Ω", (0.0, 1e13), 1e18)
"""Output resistances, which may be as small as one likes."""

OFFSET: Final = Quantity("V", (1e-7, 0.5), 20.0)
"""Of operational amplifiers: from those with choppers to what nobody would use."""


AMPLIFIERS: Final[dict[str, dict[str, Any]]] = {
    # Measured of spice/opamp_two_stage.sp between -0.8 and 0.8 V: `imac-torch characterize
    # amplifier --draws 200`, ngspice 39. What its transistors are is in that file.
    "two_stage_180nm": {
        "open_loop_gain": 5640.0,
        "offset_spread": 1.0e-3,
        "swing": (-0.685, 0.655),
        "quiescent_current": 80.7e-6,
    },
    # The gate-input amplifier measured by Chatterjee, Tsividis and Kinget, "0.5-V analog circuit
    # techniques and their application in OTA and filter design", IEEE J. Solid-State Circuits 40
    # (2005) 2373, in 0.18 µm CMOS: DC gain 62 dB, 75 µW from 0.5 V.
    "ota_500mv": {
        "open_loop_gain": 1259.0,
        "quiescent_current": 150e-6,
        # Assumptions, as nothing of it was published: 0.1 V from supplies of ±0.8 V, which are
        # not its own, and the mismatch of a pair of 4 µm² by Pelgrom's 4 mV·µm.
        "swing": (-0.7, 0.7),
        "offset_spread": 2e-3,
    },
}
"""Amplifiers with their sources; V/V, V, A."""


class Amplifier(Section):
    """The read-out at the end of every row of every partition."""

    kind: Annotated[str, known(READ_OUT_KINDS)] = Field(
        "differential",
        description="Read-out: differential (R1 to R4 around an ideal operational amplifier), "
        "transimpedance (lines end at virtual ground), sense_resistor (in input_resistance to "
        "ground, and the difference is amplified), current_mirror (the I+ line's current is taken "
        "from the I- line's, before one transimpedance amplifier), reference_column (one device "
        "per weight: rows have one line at virtual ground, and those of an array share a reference "
        "line, which is taken from each; needs mapping.scheme = 'balanced'), or one that was "
        "registered "
        "(periphery/readout).",
    )
    gain: float | tuple[float, ...] | None = Field(
        None,
        description="R3/R1 = R4/R2, or feedback resistor over input_resistance "
        "(transimpedance, current_mirror); one number or one per layer; None: chosen per layer so "
        "that the analog layer computes what the software layer meant. IMAC-Sim: gain.",
    )
    input_resistance: Annotated[float, Quantity("Ω", (5.0, 1e13), 1e18)] = Field(
        1e3,
        gt=0,
        description="Ω. R1 and R2; sense resistors; the mirror's input; transimpedance: what a "
        "gain of 1 stands for.",
    )
    open_loop_gain: float | None = Field(
        None,
        gt=1,
        description="V/V. Of the operational amplifiers; None: ideal.",
    )
    open_loop_resistance: Annotated[float | None, Quantity("Ω", (0.1, 1e7), 1e12)] = Field(
        None,
        gt=0,
        description="Ω. Output resistance of the operational amplifiers themselves, inside the "
        "loop, which makes 1 + A·β times less of it as long as they are within their swing; the "
        "swing is that of an output without load. None: none.",
    )
    offset: Annotated[float, OFFSET] = Field(
        0.0, description="V. At the inputs of every operational amplifier, the mean of all."
    )
    offset_spread: Annotated[float, OFFSET] = Field(
        0.0,
        ge=0,
        description="V. Standard deviation of offsets, which are drawn per amplifier when devices "
        "are, and saved with the network.",
    )
    swing: tuple[float, float] | None = Field(
        None,
        description="Lowest and highest output of every operational amplifier, V, where it "
        "saturates; None: unlimited, as of amplifiers without supplies.",
    )
    quiescent_current: Annotated[float | None, CURRENT] = Field(
        None,
        ge=0,
        description="A. From vdd to vss through every operational amplifier, whatever it puts out; "
        "what it puts out comes from vdd or goes to vss besides. Needs a swing within these. None: "
        "ideal amplifiers without supplies, whose power is not counted.",
    )
    table: str | None = Field(
        None,
        description="File with a characterised operational amplifier, safetensors: what it puts "
        "out and takes from its supplies, in place of open_loop_gain, open_loop_resistance, swing "
        "and quiescent_current "
        "(kinds differential, transimpedance, current_mirror).",
    )
    subcircuit: str | None = Field(
        None,
        description="SPICE file with that amplifier, a sub-circuit of ports plus minus out vdd "
        "vss, for netlists.",
    )
    output_resistance: Annotated[float, SERIES] = Field(
        1e-3,
        ge=0,
        description="Ω. From each amplifier to the neuron input, where the partitions meet. "
        "IMAC-Sim's 1 mΩ averages ideal sources; a physical amplifier has more. With slices it is "
        "that of the most significant one; each further one has mapping.slice_base times more.",
    )
    pole: Annotated[float | None, FREQUENCY] = Field(
        None,
        gt=0,
        description="Hz. Pole of the closed loop (seen by transients and noise): the amplifier's "
        "output passes a buffered RC low-pass with 2π·R·C = 1/pole, then output_resistance "
        "(or the ideal sum). The lines are loaded as without it. None: infinitely fast.",
    )
    second_pole: Annotated[float | None, FREQUENCY] = Field(
        None,
        gt=0,
        description="Hz. Of another such low-pass behind the first one. Needs a pole. None: none.",
    )
    slew_rate: Annotated[float | None, Quantity("V/s", (1e3, 1e13), 1e16)] = Field(
        None,
        gt=0,
        description="V/s. The most that the voltage behind the first pole changes: "
        "slew_rate·tanh of what it would do without, relative to that (seen by transients only). "
        "Needs a pole. None: unlimited.",
    )
    combine: Literal["average", "sum"] = Field(
        "average",
        description="How partitions meet: tied together through output_resistance (the mean), or "
        "an ideal sum.",
    )

    @classmethod
    def preset(cls, name: str) -> Amplifier:
        """Operational amplifiers that exist: numbers of :data:`AMPLIFIERS`.

        Raises:
            ConfigError: There is no such preset.
        """
        if name not in AMPLIFIERS:
            raise ConfigError(f"no amplifier preset {name!r}; there are {', '.join(AMPLIFIERS)}")
        return cls(**AMPLIFIERS[name])

    @property
    def linear(self) -> bool:
        """Whether outputs are proportional to the ends of lines: no offset, no swing, no load."""
        bent = self.swing is not None or self.table is not None
        bent = bent or self.open_loop_resistance is not None
        return self.offset == 0.0 and self.offset_spread == 0.0 and not bent

    def described(self) -> str:
        """What is not ideal about amplifiers, for tables: in brackets, or nothing."""
        low, high = self.swing or (0.0, 0.0)
        said = (
            (self.table is not None, f"table {self.table}"),
            (self.open_loop_gain is not None, f"gain {self.open_loop_gain or 0:.4g}"),
            (
                self.open_loop_resistance is not None,
                f"{quantity(self.open_loop_resistance or 0.0, 'Ω')} in the loop",
            ),
            (self.offset != 0.0, f"offset {quantity(self.offset, 'V')}"),
            (self.offset_spread > 0.0, f"offsets of {quantity(self.offset_spread, 'V')} rms"),
            (self.swing is not None, f"{low:g} to {high:g} V"),
            (self.quiescent_current is not None, quantity(self.quiescent_current or 0.0, "A")),
            (self.pole is not None, f"pole {quantity(self.pole or 0.0, 'Hz')}"),
            (self.second_pole is not None, f"second {quantity(self.second_pole or 0.0, 'Hz')}"),
            (self.slew_rate is not None, f"slew {quantity(self.slew_rate or 0.0, 'V/s')}"),
        )
        parts = [text for holds, text in said if holds]
        return f" (amplifiers: {', '.join(parts)})" if parts else ""

    @property
    def supplied(self) -> bool:
        """Whether amplifiers take current from supplies, and are counted."""
        return self.quiescent_current is not None or self.table is not None

    @model_validator(mode="after")
    def _valid(self) -> Self:
        gains = self.gain if isinstance(self.gain, tuple) else (self.gain,)
        if any(gain is not None and gain <= 0 for gain in gains):
            raise ValueError(f"gain = {self.gain}: every gain must be positive")
        if self.table is not None:
            for name in ("open_loop_gain", "open_loop_resistance", "swing", "quiescent_current"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} = {getattr(self, name)}: the amplifier of table = {self.table!r} "
                        "has its own; leave it out"
                    )
        alone = self.open_loop_gain is None and self.swing is None
        if self.open_loop_resistance is not None and alone:
            raise ValueError(
                f"open_loop_resistance = {self.open_loop_resistance} Ω: an infinite gain within "
                "the loop makes nothing of it; set open_loop_gain, or a swing"
            )
        for name in ("second_pole", "slew_rate"):
            if getattr(self, name) is not None and self.pole is None:
                raise ValueError(
                    f"{name} = {getattr(self, name)} needs a pole: set amplifier.pole, or leave "
                    f"{name} out"
                )
        if self.subcircuit is not None and self.table is None:
            raise ValueError(
                f"subcircuit = {self.subcircuit!r} without a table: the native engine would solve "
                "another amplifier; measure it (imac_torch.tabulate_amplifier)"
            )
        if self.swing is not None and not self.swing[0] < self.swing[1]:
            raise ValueError(f"swing = {self.swing}: the lowest output comes first")
        if self.combine == "average" and self.output_resistance == 0:
            raise ValueError("averaging needs output_resistance > 0: ideal sources cannot be tied")
        return self


class Neuron(Section):
    """The activation circuit between an amplifier and the next layer."""

    kind: Annotated[str, known(NEURON_KINDS)] | None = Field(
        None,
        description="Circuit of every layer whose activation it computes; others, and all with "
        "None, have that of their own (Sigmoid: finfet; Tanh: tanh; ReLU, ReLU6: relu; Hardtanh: "
        "hardtanh; none: identity).",
    )
    rlow: Annotated[float | None, RESISTANCE] = Field(
        None, gt=0, description="Ω. Input resistor of the inverter; None: the device's rlow."
    )
    rhigh: Annotated[float | None, RESISTANCE] = Field(
        None, gt=0, description="Ω. Feedback resistor of the inverter; None: the device's rhigh."
    )
    level_shift: Annotated[float, VOLTAGE] = Field(
        0.4, description="V. Added between the amplifier and the inverter's input resistor."
    )
    fins: int = Field(10, ge=1, description="Fins of both transistors of the inverter.")
    transistor_node: Annotated[int, TRANSISTOR_NODE] = Field(
        14, description="nm. PTM-MG node of the transistors (7, 10, 14, 16, 20). IMAC-Sim: the "
        "hard-coded library."
    )
    flavour: Literal["hp", "lstp"] = Field("hp", description="PTM-MG flavour.")
    model_directory: str | None = Field(
        None,
        description="Directory of PTM-MG model cards; None: the built-in 14 nm HP set. "
        "IMAC-Sim: spice_dir.",
    )
    slope: float = Field(
        11.0, gt=0, description="1/V. Slope of the behavioural logistic and tanh neurons."
    )
    output_resistance: Annotated[float, SERIES] = Field(
        1e3, gt=0, description="Ω. Output resistance of the behavioural neurons."
    )
    quiescent_current: Annotated[float | None, CURRENT] = Field(
        None,
        ge=0,
        description="A. From vdd into every behavioural neuron (and through to a supply at -vdd, "
        "where outputs are of both signs), besides the current that it puts out. None: an ideal "
        "shape without supply, whose power is not counted.",
    )
    input_capacitance: Annotated[float, CAPACITANCE] = Field(
        0.0,
        ge=0,
        description="F. Linear, to ground (seen by transients only): at the inverter's gate, "
        "behind its input resistor and level shift, besides the transistors' own charges; at the "
        "input z of a behavioural neuron, which has no charge of its own. A sub-circuit of the "
        "user's gets it as its parameter cin, if it declares one.",
    )
    output_capacitance: Annotated[float, CAPACITANCE] = Field(
        0.0,
        ge=0,
        description="F. Linear, from every neuron's output to ground (seen by transients only), "
        "besides the transistors' own charges. A sub-circuit of the user's gets it as its "
        "parameter cout, if it declares one.",
    )
    table: str | None = Field(
        None, description="File with a characterised neuron (kind='table'), safetensors."
    )
    osdi: str | None = Field(
        None,
        description="Compiled BSIM-CMG 107 (.osdi) with which ngspice simulates FinFET neurons "
        "itself; None: a table of them. Needs an ngspice with OSDI (44 or later); untested there.",
    )
    subcircuit: str | None = Field(
        None,
        description="User's SPICE file that replaces the neuron sub-circuit in netlists; same "
        "ports (z out vdd).",
    )

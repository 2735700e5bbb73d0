"""How a circuit is operated: supplies and coding of inputs, their sequence in time."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from imac_torch.config.quantity import CAPACITANCE, FREQUENCY, TIME, VOLTAGE, Quantity
from imac_torch.config.section import Section


class Supplies(Section):
    """Supply voltages and the coding of inputs between them."""

    vdd: Annotated[float, VOLTAGE] = Field(
        0.8, gt=0, description="V. Supply of neurons and bias lines. IMAC-Sim: vdd."
    )
    vss: Annotated[float, VOLTAGE] = Field(
        -0.8,
        le=0,
        description="V. Input voltage of a software input of -1. An input of +1 is vdd, 0 is 0 V; "
        "linear between them, so that the circuit computes what software meant for negative "
        "inputs only if vss = -vdd. IMAC-Sim declares vss and ignores it. IMAC-Sim: vss.",
    )
    encoding: Literal["linear", "sign"] = Field(
        "linear",
        description="How software inputs become voltages: linear between vss, 0 V and vdd, or by "
        "sign only (what IMAC-Sim does silently).",
    )
    input_scale: float = Field(
        1.0, gt=0, description="Software input that is coded as vdd (full scale)."
    )


class Timing(Section):
    """The sequence of inputs, and what the outputs have to drive meanwhile."""

    period: Annotated[float, TIME] = Field(
        4e-9, gt=0, description="s. Time per input vector. IMAC-Sim: tsampling."
    )
    transition: Annotated[float, TIME] = Field(
        1e-10, gt=0, description="s. Ramp from one input to the next."
    )
    load_capacitance: Annotated[float, CAPACITANCE] = Field(
        0.0,
        ge=0,
        description="F. From every output of the last layer to ground: what reads the result "
        "(seen by transients only).",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.transition >= self.period:
            raise ValueError(
                f"transition = {self.transition} s must be shorter than period = {self.period} s"
            )
        return self


class Noise(Section):
    """What noise analyses and noisy evaluations look at, and nothing else."""

    inputs: Annotated[float, Quantity("V", (0.0, 1.0), 100.0)] = Field(
        0.0,
        ge=0,
        description="V. Rms of a normal voltage at every input, anew for every image and constant "
        "while it lasts. IMAC-Sim: noise, in its earlier scripts.",
    )
    circuit: bool = Field(
        True,
        description="Whether the circuit is noisy itself: cells, wires, read-outs and neurons. "
        "False: inputs alone are, at any bandwidth.",
    )
    bandwidth: Annotated[float | None, FREQUENCY] = Field(
        None,
        gt=0,
        description="Hz. Up to where noise counts: what reads the outputs averages the rest. None: "
        "what poles and capacitances of the circuit leave of it.",
    )
    lowest: Annotated[float, Quantity("Hz", (1e-9, 1e9), 1e16)] = Field(
        1.0,
        gt=0,
        description="Hz. From where noise counts: slower changes are drift. Only 1/f noise has "
        "anything to speak of there.",
    )
    neurons: bool = Field(
        True,
        description="Whether neurons are noisy: resistors (of behavioural ones output_resistance) "
        "and the channels of transistors.",
    )
    flicker: bool = Field(True, description="Whether transistors have 1/f noise besides.")
    amplifier_voltage: Annotated[float, Quantity("V/√Hz", (1e-11, 1e-5), 1.0)] = Field(
        0.0,
        ge=0,
        description="V/√Hz. White noise between the inputs of every operational amplifier of the "
        "read-outs, e_n of data sheets. Their resistors are noisy without it.",
    )
    amplifier_current: Annotated[float, Quantity("A/√Hz", (1e-18, 1e-8), 1.0)] = Field(
        0.0,
        ge=0,
        description="A/√Hz. White noise out of each of their inputs, i_n of data sheets.",
    )
    neuron_voltage: Annotated[float, Quantity("V/√Hz", (1e-11, 1e-5), 1.0)] = Field(
        0.0,
        ge=0,
        description="V/√Hz. White noise in series with the inputs of neurons whose own nobody "
        "knows: behavioural ones, which stand for some circuit, and those of a sub-circuit. "
        "Transistors bring theirs.",
    )

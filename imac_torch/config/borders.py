"""What stands at the borders of a circuit: drivers of its input lines, converters behind it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from imac_torch.config.kinds import CONVERTER_KINDS, DRIVER_KINDS, known
from imac_torch.config.quantity import AREA, DECIBEL, FREQUENCY, JOULE
from imac_torch.config.section import Section

MOST_BITS: Final = 16
"""Of drivers and converters; beyond it nothing on a chip follows."""

# Constants of published designs, at 32 nm unless said otherwise. They do not follow the node of the
# interconnect: other nodes set their own.
# What each was compared with is in docs/borders.md.
# ISAAC: A. Shafiee et al., "ISAAC: A Convolutional Neural Network Accelerator with In-Situ Analog
#   Arithmetic in Crossbars", ISCA 2016, doi:10.1109/ISCA.2016.12, table of one in-situ multiply-
#   accumulate unit: 8 x 128 one-bit DACs 4 mW, 0.00017 mm2; 8 x 128 sample-and-holds 10 uW,
#   0.00004 mm2; 8 ADCs (8 bits, 1.2 GS/s) 16 mW, 0.0096 mm2; 4 shift-and-adds 0.2 mW, 0.00024 mm2;
#   one array is read every 100 ns.
# Kull: L. Kull et al., "A 3.1mW 8b 1.2GS/s single-channel asynchronous SAR ADC ... in 32nm digital
#   SOI CMOS", ISSCC 2013, doi:10.1109/ISSCC.2013.6487818: 34 fJ per (effective) conversion step.
# Walden: R. H. Walden, "Analog-to-digital converter survey and analysis", IEEE JSAC 17(4), 1999,
#   doi:10.1109/49.761034: P/(2^ENOB fs).
# Schreier: R. Schreier, G. C. Temes, "Understanding Delta-Sigma Data Converters", Wiley 2005:
#   SNDR + 10 log10(BW/P); values of B. Murmann, "ADC Performance Survey 1997-2024".
# Saberi: M. Saberi et al., IEEE TCAS-I 58(8), 2011, doi:10.1109/TCSI.2011.2107214: a capacitive DAC
#   grows with 2^bits, the rest of a SAR converter with bits; ISAAC scales its ADC by it.
# Horowitz: M. Horowitz, "Computing's energy problem", ISSCC 2014,
#   doi:10.1109/ISSCC.2014.6757323, 45 nm, 0.9 V: 32-bit integer addition 0.1 pJ, 137 um2.


class Driver(Section):
    """What puts inputs on the lines of a circuit's first arrays."""

    kind: Annotated[str, known(DRIVER_KINDS)] = Field(
        "ideal",
        description="ideal: any voltage, for nothing; dac: a voltage per code, at once; "
        "bit_serial: one bit of the code after the other, results shifted and added in software; "
        "or one that was registered (periphery/border).",
    )
    bits: int = Field(8, ge=1, le=MOST_BITS, description="Of the code of one input, sign included.")
    sign: Literal["bipolar", "unipolar", "two_pass"] = Field(
        "bipolar",
        description="bipolar: lines are driven to both sides of 0 V (supplies.vss = -vdd), one bit "
        "is the sign; unipolar: inputs are not negative; two_pass: the positive part, then the "
        "negative part, all bits magnitude, the difference taken in software.",
    )
    line_energy: Annotated[float, JOULE] = Field(
        3.9e-13,
        ge=0,
        description="J. Per line and pulse. ISAAC (ISCA 2016): 4 mW for 1024 one-bit drivers, "
        "every 100 ns.",
    )
    step_energy: Annotated[float, JOULE] = Field(
        1e-14,
        ge=0,
        description="J. Per step of a voltage DAC, (2^bits - 1 of them) besides line_energy: a "
        "figure of merit as Walden's. Assumed.",
    )
    unit_area: Annotated[float, AREA] = Field(
        1.7e-13,
        ge=0,
        description="m². Of a one-bit driver: ISAAC (ISCA 2016), 0.00017 mm² for 1024. A DAC is "
        "2^bits - 1 of them (assumed: elements of equal weight).",
    )

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if self.bits == 1 and self.sign == "bipolar" and self.kind != "ideal":
            raise ValueError(
                "bits = 1 with sign = 'bipolar' is a sign without a magnitude: at least 2 bits, or "
                "sign = 'unipolar' or 'two_pass', or supplies.encoding = 'sign' with kind = 'ideal'"
            )
        return self


class Converter(Section):
    """What turns a circuit's outputs into numbers."""

    kind: Annotated[str, known(CONVERTER_KINDS)] = Field(
        "ideal",
        description="ideal: any number, for nothing; flash: all comparisons at once; sar: one bit "
        "after the other; ramp: one level after the other; or one that was registered "
        "(periphery/border).",
    )
    bits: int = Field(8, ge=1, le=MOST_BITS, description="Of a conversion: 2^bits codes.")
    after: Literal["segment", "layer", "partition"] = Field(
        "segment",
        description="segment: behind the last neurons of as many layers as follow one another; "
        "layer: behind the neurons of every layer; partition: behind every read-out, outputs of "
        "partitions and slices are added and activations computed in software.",
    )
    shared_by: int = Field(
        1, ge=1, description="Outputs of an array that take turns at one converter."
    )
    range: Literal["max", "percentile", "mse"] = Field(
        "percentile",
        description="How samples give the converted range: all of their voltages (max), the "
        "middle `coverage` of them (percentile), or what makes the mean square error of conversion "
        "least (mse).",
    )
    coverage: float = Field(
        0.9995, gt=0, le=1, description="Share of voltages in the range with range = 'percentile'."
    )
    limits: tuple[float, float] | None = Field(
        None, description="Lower and upper end of the converted range, V; None: by samples."
    )
    clock: Annotated[float, FREQUENCY] = Field(
        1e9,
        gt=0,
        description="Hz. Comparisons after one another. Assumed; the asynchronous SAR of L. Kull "
        "et al. (ISSCC 2013) makes 9.6e9 a second.",
    )
    walden: Annotated[float, JOULE] = Field(
        3.4e-14,
        ge=0,
        description="J. Walden's figure of merit of SAR converters, per effective conversion step: "
        "L. Kull et al. (ISSCC 2013), 32 nm, 3.1 mW at 1.2e9 a second and 39.3 dB. Bits count as "
        "effective ones: the 8 nominal bits of that converter take 2.6 pJ, 6.2 are effective; "
        "ISAAC's 8-bit converter takes 1.6 pJ (2 mW at 1.28e9 a second), which is walden = "
        "6.1e-15.",
    )
    schreier: Annotated[float, DECIBEL] = Field(
        175.0,
        gt=0,
        description="dB. Schreier's figure of merit, which bounds the energy of any converter by "
        "its noise. Assumed: about the middle of the best converters of B. Murmann's ADC survey, "
        "185 at low rates and 165 at high ones (cited from memory).",
    )
    comparator_energy: Annotated[float, JOULE] = Field(
        5e-14,
        ge=0,
        description="J. Per comparison of flash and ramp converters. Assumed: with about 2^bits "
        "of them it is their Walden figure, 50 fJ.",
    )
    comparator_area: Annotated[float, AREA] = Field(
        5e-11, ge=0, description="m². Of a comparator of flash and ramp converters. Assumed."
    )
    bit_area: Annotated[float, AREA] = Field(
        8.2e-11,
        ge=0,
        description="m². What grows with the bits of SAR and ramp converters (logic, registers, "
        "references). Fitted to the areas of ISAAC's ADC (ISCA 2016): 1200 µm² at 8 bits, scaled "
        "by M. Saberi et al. (TCAS-I 2011).",
    )
    unit_area: Annotated[float, AREA] = Field(
        2.1e-12,
        ge=0,
        description="m². Of one of the 2^bits unit capacitors of a SAR converter, or of the "
        "generator that the ramp converters of an array share. Fitted with bit_area.",
    )
    hold_energy: Annotated[float, JOULE] = Field(
        1e-15,
        ge=0,
        description="J. Per output that is held while others take their turns. ISAAC (ISCA "
        "2016): 10 µW for 1024, every 100 ns.",
    )
    hold_area: Annotated[float, AREA] = Field(
        4e-14,
        ge=0,
        description="m². Of what holds an output. ISAAC (ISCA 2016): 0.00004 mm² for 1024.",
    )
    add_energy: Annotated[float, JOULE] = Field(
        1e-13,
        ge=0,
        description="J. Per addition in software of passes, partitions and slices. M. Horowitz "
        "(ISSCC 2014): 32-bit integers, 45 nm.",
    )
    add_area: Annotated[float, AREA] = Field(
        6e-11,
        ge=0,
        description="m². Of an adder, one per converter. ISAAC (ISCA 2016): 0.00024 mm² for 4.",
    )

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits = {self.limits}: the lower end (V), then the upper one")
        return self

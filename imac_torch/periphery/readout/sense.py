"""Sense resistors: both lines end in a resistor to ground, and an amplifier takes the difference.

A line of cells that add up to S floats at p = Σ g·v/(S + 1/R), and the output is o = G·(p - q), of
an amplifier that draws nothing from either. The smaller R, the less lines float with their inputs
and with the other cells of their row, and the more gain is needed: G·R·(i+ - i-).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.config import Config
from imac_torch.periphery.readout.base import ReadOut, check_positive
from imac_torch.periphery.readout.combination import Combination
from imac_torch.periphery.readout.noise import AmplifierNoise, HeldNoise, thermal_current
from imac_torch.periphery.readout.opamp import OpAmp


@dataclass(frozen=True)
class SenseResistor(ReadOut):
    """o = G·(p - q) across resistors.

    Attributes:
        gain: G, 0-dimensional.
        resistance: R, Ω, 0-dimensional.
    """

    gain: Tensor
    resistance: Tensor

    kind = "sense_resistor"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            CircuitError: One is not physical.
        """
        super().__post_init__()
        check_positive(gain=self.gain, resistance=self.resistance)

    @classmethod
    def of(cls, config: Config, gain: float, combination: Combination) -> SenseResistor:
        """See :class:`ReadOut`."""
        device = combination.output_resistance.device
        values = (gain, config.amplifier.input_resistance)
        tensors = (torch.tensor(value, dtype=torch.float64, device=device) for value in values)
        return cls(combination, config.amplifier.pole, *tensors)

    @property
    def positive_load(self) -> Tensor:
        """See :class:`ReadOut`: R."""
        return self.resistance

    @property
    def negative_load(self) -> Tensor:
        """See :class:`ReadOut`: R."""
        return self.resistance

    @property
    def coupling(self) -> Tensor:
        """See :class:`ReadOut`: none."""
        return torch.zeros_like(self.resistance)

    def output(self, positive: Tensor, negative: Tensor) -> Tensor:
        """See :class:`ReadOut`."""
        return self.gain * (positive - negative)

    def sources(self, positive: Tensor, negative: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """See :class:`ReadOut`: the output has nothing to drive within."""
        output = self.output(positive, negative)
        return ((output, torch.zeros_like(output)),)

    def noise_sources(
        self, temperature: float, amplifiers: AmplifierNoise
    ) -> tuple[HeldNoise, ...]:
        """See :class:`ReadOut`: both resistors, and the amplifier's inputs.

        What sets its gain is not known, and not counted.
        """
        thermal = thermal_current(self.resistance, temperature)
        return (
            HeldNoise(positive=thermal),
            HeldNoise(negative=thermal),
            HeldNoise(positive=amplifiers.current),
            HeldNoise(negative=amplifiers.current),
            HeldNoise(inputs=(amplifiers.voltage,)),
        )

    @property
    def amplifiers(self) -> tuple[OpAmp, ...]:
        """See :class:`ReadOut`: o = G·(p - q + v_os), which the ends do not notice."""
        none = torch.zeros_like(self.gain)
        return (OpAmp(self.gain, -self.gain, self.gain, none, none, none + 1.0),)

    def wiring(self) -> tuple[str, ...]:
        """See :class:`ReadOut`."""
        return "Rplus plus 0 'r'", "Rminus minus 0 'r'"

    @property
    def subcircuit(self) -> str:
        """See :class:`ReadOut`."""
        return self.named("sense_resistor")

    @property
    def subcircuit_text(self) -> str:
        """See :class:`ReadOut`."""
        if not self.ideal:
            return self.declared_real()
        return self.declared(
            "Rplus plus 0 'r'", "Rminus minus 0 'r'", "Egain ideal 0 plus minus 'gain'"
        )

    def parameters(self) -> dict[str, float]:
        """See :class:`ReadOut`: G, R in Ω, and the pole."""
        values = {"gain": float(self.gain), "r": float(self.resistance)}
        return values if self.pole is None else values | {"pole": self.pole}

    @property
    def resistance_total(self) -> float:
        """See :class:`ReadOut`: R twice; what sets the amplifier's gain is not known."""
        return 2.0 * float(self.resistance)

"""Difference of currents: a mirror takes the current of the I+ line from that of the I- line.

The I+ line ends in the diode of a current mirror, R_m to ground for small signals, whose copy of
i+ = p/R_m is drawn from the I- end; what is left of i- flows into the virtual ground of one
transimpedance amplifier of open-loop gain A: i- - i+ = (q - o)/R_f with o = -A·q, so that

    o = R_f·A/(1 + A)·(i+ - i-).

One operational amplifier serves a pair of lines, but their ends are not alike: the I- line is at
virtual ground, the I+ line floats at R_m·i+, and its cells count 1/(1 + S·R_m) of what they should.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.config import Config
from imac_torch.periphery.readout.base import IDEAL, ReadOut, check_positive
from imac_torch.periphery.readout.combination import Combination
from imac_torch.periphery.readout.noise import AmplifierNoise, HeldNoise, thermal_current
from imac_torch.periphery.readout.opamp import OpAmp, PassiveLoads, Terminals

GAMMA: Final = 2.0 / 3.0
"""Of a long channel in saturation."""


@dataclass(frozen=True)
class CurrentMirror(ReadOut):
    """o = R_f·A/(1 + A)·(i+ - i-), subtracted as currents.

    Attributes:
        feedback: R_f, Ω, 0-dimensional: ``amplifier.gain`` times ``amplifier.input_resistance``.
        resistance: R_m, Ω, 0-dimensional: ``amplifier.input_resistance``.
        open_loop_gain: A, 0-dimensional.
    """

    feedback: Tensor
    resistance: Tensor
    open_loop_gain: Tensor

    kind = "current_mirror"
    reads = frozenset({"open_loop_gain", "open_loop_resistance"})

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            CircuitError: One is not physical.
        """
        super().__post_init__()
        check_positive(
            feedback=self.feedback, resistance=self.resistance, open_loop_gain=self.open_loop_gain
        )

    @classmethod
    def of(cls, config: Config, gain: float, combination: Combination) -> CurrentMirror:
        """See :class:`ReadOut`."""
        device, amplifier = combination.output_resistance.device, config.amplifier
        given = IDEAL if amplifier.open_loop_gain is None else amplifier.open_loop_gain
        values = (gain * amplifier.input_resistance, amplifier.input_resistance, given)
        tensors = (torch.tensor(value, dtype=torch.float64, device=device) for value in values)
        return cls(combination, amplifier.pole, *tensors)

    @property
    def positive_load(self) -> Tensor:
        """See :class:`ReadOut`: R_m."""
        return self.resistance

    @property
    def negative_load(self) -> Tensor:
        """See :class:`ReadOut`: R_f/(1 + A)."""
        return self.feedback / (1.0 + self.open_loop_gain)

    @property
    def coupling(self) -> Tensor:
        """See :class:`ReadOut`: the copy of p/R_m, behind the load of the I- end."""
        return -self.negative_load / self.resistance

    def output(self, positive: Tensor, negative: Tensor) -> Tensor:
        """See :class:`ReadOut`."""
        return -self.open_loop_gain * negative

    def sources(self, positive: Tensor, negative: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """See :class:`ReadOut`: the amplifier through R_f; the copy is drawn, not delivered."""
        output = self.output(positive, negative)
        return (
            (output, (output - negative) / self.feedback),
            (negative, -positive / self.resistance),
        )

    def noise_sources(
        self, temperature: float, amplifiers: AmplifierNoise
    ) -> tuple[HeldNoise, ...]:
        """See :class:`ReadOut`: both transistors of the mirror, R_f and the amplifier.

        Channels have 4kT·γ·g_m of noise (A. van der Ziel, "Thermal noise in field-effect
        transistors", Proc. IRE 50, 1808-1812, 1962), :data:`GAMMA` in long ones; g_m is 1/R_m.
        """
        channel = GAMMA**0.5 * thermal_current(self.resistance, temperature)
        feedback = thermal_current(self.feedback, temperature)
        return (
            HeldNoise(positive=channel),
            HeldNoise(negative=channel),
            HeldNoise(negative=feedback, delivered=(feedback,)),
            HeldNoise(negative=amplifiers.current),
            HeldNoise(inputs=(amplifiers.voltage,)),
        )

    @property
    def amplifiers(self) -> tuple[OpAmp, ...]:
        """See :class:`ReadOut`: o = A·(v_os - q)."""
        gain, none = self.open_loop_gain, torch.zeros_like(self.open_loop_gain)
        return (OpAmp(none, -gain, gain, none, 1.0 / self.feedback, none + 1.0),)

    @property
    def terminals(self) -> tuple[Terminals, ...]:
        """See :class:`ReadOut`: plus is grounded."""
        none = torch.zeros_like(self.feedback)
        minus = (none, none + 1.0, none)
        return (Terminals(("0", "minus", "o1"), (none, none, none), minus),)

    def passive_loads(self) -> PassiveLoads:
        """See :class:`ReadOut`: the I- end in R_f, beside the copy of p/R_m."""
        return PassiveLoads(self.resistance, self.feedback, -self.feedback / self.resistance)

    def deliveries(
        self, outputs: Tensor, positive: Tensor, negative: Tensor
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """See :class:`ReadOut`: the mirror's copy is drawn, not delivered."""
        copied = negative, -positive / self.resistance
        return *super().deliveries(outputs, positive, negative), copied

    def wiring(self) -> tuple[str, ...]:
        """See :class:`ReadOut`."""
        return "Rplus plus 0 'rm'", "Gcopy minus 0 plus 0 '1/rm'", "Rminus minus o1 'r'"

    @property
    def subcircuit(self) -> str:
        """See :class:`ReadOut`."""
        return self.named("current_mirror")

    @property
    def subcircuit_text(self) -> str:
        """See :class:`ReadOut`."""
        if not self.ideal:
            return self.declared_real()
        return self.declared(
            "Rplus plus 0 'rm'", "Gcopy minus 0 plus 0 '1/rm'",
            "Rminus minus below 'r'", "Eminus below 0 0 minus 'a'", "Eout ideal 0 below 0 1",
        )  # fmt: skip

    def parameters(self) -> dict[str, float]:
        """See :class:`ReadOut`: R_f and R_m in Ω, A, and the pole."""
        values = {
            "r": float(self.feedback),
            "rm": float(self.resistance),
            "a": float(self.open_loop_gain),
        }
        return values if self.pole is None else values | {"pole": self.pole}

    @property
    def resistance_total(self) -> float:
        """See :class:`ReadOut`: R_f; the mirror is two transistors."""
        return float(self.feedback)

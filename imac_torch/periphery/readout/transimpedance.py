"""Transimpedance amplifiers: lines end near virtual ground, the output is R_f times their current.

Each line ends at the inverting input of an operational amplifier of open-loop gain A, whose output
comes back through R_f; an ideal difference of both outputs, o = o- - o+, is what goes on. With
o+ = -A·p the line draws i = (p - o+)/R_f = p·(1 + A)/R_f: it ends in R_f/(1 + A), and

    o = A·(p - q) = R_f·A/(1 + A)·(i+ - i-).

Without wires a line whose cells add up to S floats at p = Σ g·v/(S + (1 + A)/R_f), so that its
cells count a part (1 + S·R_f)/(1 + A + S·R_f) less than R_f·g. :data:`IDEAL`, which is taken where
``amplifier.open_loop_gain`` is None, keeps this below a millionth up to S·R_f = 1000, and the loads
of the lines above zero, which elimination asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.config import Config
from imac_torch.periphery.readout.base import IDEAL, ReadOut, check_positive
from imac_torch.periphery.readout.combination import Combination
from imac_torch.periphery.readout.noise import AmplifierNoise, HeldNoise, thermal_current
from imac_torch.periphery.readout.opamp import OpAmp, PassiveLoads, Terminals


@dataclass(frozen=True)
class Transimpedance(ReadOut):
    """o = R_f·A/(1 + A)·(i+ - i-).

    Attributes:
        feedback: R_f, Ω, 0-dimensional: ``amplifier.gain`` times ``amplifier.input_resistance``.
        open_loop_gain: A, 0-dimensional.
    """

    feedback: Tensor
    open_loop_gain: Tensor

    kind = "transimpedance"
    reads = frozenset({"open_loop_gain", "open_loop_resistance"})
    proportional = True
    operational_amplifiers = 2

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            CircuitError: One is not physical.
        """
        super().__post_init__()
        check_positive(feedback=self.feedback, open_loop_gain=self.open_loop_gain)

    @classmethod
    def of(cls, config: Config, gain: float, combination: Combination) -> Transimpedance:
        """See :class:`ReadOut`."""
        device, amplifier = combination.output_resistance.device, config.amplifier
        given = IDEAL if amplifier.open_loop_gain is None else amplifier.open_loop_gain
        values = (gain * amplifier.input_resistance, given)
        tensors = (torch.tensor(value, dtype=torch.float64, device=device) for value in values)
        return cls(combination, amplifier.pole, *tensors)

    @property
    def positive_load(self) -> Tensor:
        """See :class:`ReadOut`: R_f/(1 + A)."""
        return self.feedback / (1.0 + self.open_loop_gain)

    @property
    def negative_load(self) -> Tensor:
        """See :class:`ReadOut`: the same."""
        return self.positive_load

    @property
    def coupling(self) -> Tensor:
        """See :class:`ReadOut`: none."""
        return torch.zeros_like(self.feedback)

    def output(self, positive: Tensor, negative: Tensor) -> Tensor:
        """See :class:`ReadOut`."""
        return self.open_loop_gain * (positive - negative)

    def sources(self, positive: Tensor, negative: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """See :class:`ReadOut`: the difference has no load of its own, both amplifiers R_f."""
        output = self.output(positive, negative)
        ends = ((-self.open_loop_gain * end, -end / self.positive_load) for end in
                (positive, negative))
        return ((output, torch.zeros_like(output)), *ends)

    def noise_sources(
        self, temperature: float, amplifiers: AmplifierNoise
    ) -> tuple[HeldNoise, ...]:
        """See :class:`ReadOut`: R_f and the amplifier, twice.

        What is small at the lines is so by feedback alone: e_n is at the other input.
        """
        thermal = thermal_current(self.feedback, temperature)
        return (
            HeldNoise(positive=thermal, delivered=(thermal, 0.0)),
            HeldNoise(negative=thermal, delivered=(0.0, thermal)),
            HeldNoise(positive=amplifiers.current),
            HeldNoise(negative=amplifiers.current),
            HeldNoise(inputs=(amplifiers.voltage, 0.0)),
            HeldNoise(inputs=(0.0, amplifiers.voltage)),
        )

    @property
    def amplifiers(self) -> tuple[OpAmp, ...]:
        """See :class:`ReadOut`: o± = A·(v_os - p)."""
        gain, through = self.open_loop_gain, 1.0 / self.feedback
        none = torch.zeros_like(gain)
        return (
            OpAmp(-gain, none, gain, through, none, none - 1.0),
            OpAmp(none, -gain, gain, none, through, none + 1.0),
        )

    @property
    def terminals(self) -> tuple[Terminals, ...]:
        """See :class:`ReadOut`: plus is grounded."""
        none = torch.zeros_like(self.feedback)
        ground, one = (none, none, none), none + 1.0
        return (
            Terminals(("0", "plus", "o1"), ground, (one, none, none)),
            Terminals(("0", "minus", "o2"), ground, (none, one, none)),
        )

    def passive_loads(self) -> PassiveLoads:
        """See :class:`ReadOut`: R_f."""
        return PassiveLoads(self.feedback, self.feedback, torch.zeros_like(self.feedback))

    def wiring(self) -> tuple[str, ...]:
        """See :class:`ReadOut`."""
        return "Rplus plus o1 'r'", "Rminus minus o2 'r'"

    @property
    def subcircuit(self) -> str:
        """See :class:`ReadOut`."""
        return self.named("transimpedance")

    @property
    def subcircuit_text(self) -> str:
        """See :class:`ReadOut`."""
        if not self.ideal:
            return self.declared_real()
        return self.declared(
            "Rplus plus above 'r'", "Eplus above 0 0 plus 'a'",
            "Rminus minus below 'r'", "Eminus below 0 0 minus 'a'",
            "Edifference ideal 0 below above 1",
        )  # fmt: skip

    def parameters(self) -> dict[str, float]:
        """See :class:`ReadOut`: R_f in Ω, A, and the pole."""
        values = {"r": float(self.feedback), "a": float(self.open_loop_gain)}
        return values if self.pole is None else values | {"pole": self.pole}

    @property
    def resistance_total(self) -> float:
        """See :class:`ReadOut`: R_f twice."""
        return 2.0 * float(self.feedback)

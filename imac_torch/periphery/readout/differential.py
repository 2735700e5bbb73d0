"""The differential amplifier: R1…R4 around an ideal operational amplifier.

The I+ end goes through R2 = R to the node n2 and from there through R4 = G·R to ground, the I- end
through R1 = R to the node n1 and from there through R3 = G·R to the output. The operational
amplifier holds n1 at the voltage of n2, α = G/(1 + G) times the I+ end, so that
o = p·(1 + G)·α - G·q = G·(p - q). The same equations are in ``spice/amplifier.sp``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN
from imac_torch.config import Config
from imac_torch.periphery.readout.base import ReadOut, check_positive
from imac_torch.periphery.readout.combination import Combination


@dataclass(frozen=True)
class Differential(ReadOut):
    """o = G·(p - q).

    Attributes:
        gain: G = R4/R2 = R3/R1, 0-dimensional.
        resistance: R1 = R2, Ω, 0-dimensional.
    """

    gain: Tensor
    resistance: Tensor

    kind = "differential"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            CircuitError: One is not physical.
        """
        super().__post_init__()
        check_positive(gain=self.gain, resistance=self.resistance)

    @classmethod
    def of(cls, config: Config, gain: float, combination: Combination) -> Differential:
        """See :class:`ReadOut`."""
        device = combination.output_resistance.device
        values = (gain, config.amplifier.input_resistance)
        tensors = (torch.tensor(value, dtype=torch.float64, device=device) for value in values)
        return cls(combination, config.amplifier.pole, *tensors)

    @property
    def positive_load(self) -> Tensor:
        """See :class:`ReadOut`: R2 + R4."""
        return self.resistance * (1.0 + self.gain)

    @property
    def negative_load(self) -> Tensor:
        """See :class:`ReadOut`: R1."""
        return self.resistance

    @property
    def coupling(self) -> Tensor:
        """See :class:`ReadOut`: α = R4/(R2 + R4)."""
        return self.gain / (1.0 + self.gain)

    def output(self, positive: Tensor, negative: Tensor) -> Tensor:
        """See :class:`ReadOut`."""
        return self.gain * (positive - negative)

    def sources(self, positive: Tensor, negative: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """See :class:`ReadOut`: the output, through R3 towards the virtual node."""
        output = self.output(positive, negative)
        return ((output, (output - self.coupling * positive) / (self.gain * self.resistance)),)

    def noise(self, temperature: float) -> Tensor:
        """See :class:`ReadOut`: R1 to R4; the operational amplifier is ideal.

        With e_k in series with R_k, n2 = n1 = α·(p + e2) + (1 - α)·e4, the I+ end gives
        (e2 - e4)/(R2 + R4), the I- end (e1 - n1)/R1, and o = n1 - G·(q - n1 + e1) + e3.
        """
        gain, resistance, alpha = (
            item.detach() for item in (self.gain, self.resistance, self.coupling)
        )
        one, zero = torch.ones_like(gain), torch.zeros_like(gain)
        through = 1.0 / self.positive_load.detach()
        rows = [  # of R1, R2, R3, R4, per volt
            torch.stack([zero, 1.0 / resistance, -gain]),
            torch.stack([through, -alpha / resistance, gain]),
            torch.stack([zero, zero, one]),
            torch.stack([-through, (alpha - 1.0) / resistance, one]),
        ]
        values = torch.stack([one, one, gain, gain]) * resistance
        sources = torch.stack(rows)
        return 4.0 * BOLTZMANN * temperature * (sources.T * values) @ sources

    @property
    def subcircuit(self) -> str:
        """See :class:`ReadOut`."""
        return "amplifier" if self.pole is None else "amplifier_pole"

    def parameters(self) -> dict[str, float]:
        """See :class:`ReadOut`."""
        values = {"gain": float(self.gain), "r": float(self.resistance)}
        return values if self.pole is None else values | {"pole": self.pole}

    @property
    def resistance_total(self) -> float:
        """See :class:`ReadOut`: R1 to R4."""
        return 2.0 * (1.0 + float(self.gain)) * float(self.resistance)

"""The differential amplifier: R1…R4 around an ideal operational amplifier.

The I+ end goes through R2 = R to the node n2 and from there through R4 = G·R to ground, the I- end
through R1 = R to the node n1 and from there through R3 = G·R to the output. The operational
amplifier holds n1 at the voltage of n2, α = G/(1 + G) times the I+ end, so that
o = p·(1 + G)·α - G·q = G·(p - q). The same equations are in ``spice/amplifier.sp``.

One of finite open-loop gain A puts out o = A·(α·p - n1), n1 = (G·q + o)/(1 + G), so that

    o = k·(p - q),   k = A·α/(1 + A/(1 + G)),

and draws (q - o)/(R·(1 + G)) from the I- end: that of a resistor R·(1 + G)/(1 + k) towards
k/(1 + k) times the I+ end. For A → ∞ k is G, which it is exactly where ``open_loop_gain`` is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.config import Config
from imac_torch.periphery.readout.base import ReadOut, check_positive
from imac_torch.periphery.readout.combination import Combination
from imac_torch.periphery.readout.noise import AmplifierNoise, HeldNoise, thermal_current
from imac_torch.periphery.readout.opamp import OpAmp, PassiveLoads, Terminals


@dataclass(frozen=True)
class Differential(ReadOut):
    """o = G·(p - q).

    Attributes:
        gain: G = R4/R2 = R3/R1, 0-dimensional.
        resistance: R1 = R2, Ω, 0-dimensional.
        open_loop_gain: A of the operational amplifier, 0-dimensional; None: it is ideal.
    """

    gain: Tensor
    resistance: Tensor
    open_loop_gain: Tensor | None = None

    kind = "differential"
    reads = frozenset({"open_loop_gain", "open_loop_resistance"})

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            CircuitError: One is not physical.
        """
        super().__post_init__()
        finite = {} if self.open_loop_gain is None else {"open_loop_gain": self.open_loop_gain}
        check_positive(gain=self.gain, resistance=self.resistance, **finite)

    @classmethod
    def of(cls, config: Config, gain: float, combination: Combination) -> Differential:
        """See :class:`ReadOut`."""
        device = combination.output_resistance.device
        values = [gain, config.amplifier.input_resistance]
        if config.amplifier.open_loop_gain is not None:
            values.append(config.amplifier.open_loop_gain)
        tensors = (torch.tensor(value, dtype=torch.float64, device=device) for value in values)
        return cls(combination, config.amplifier.pole, *tensors)

    @property
    def positive_load(self) -> Tensor:
        """See :class:`ReadOut`: R2 + R4."""
        return self.resistance * (1.0 + self.gain)

    @property
    def closed_gain(self) -> Tensor:
        """k, V per V between the ends."""
        gain, open_loop = self.gain, self.open_loop_gain
        if open_loop is None:
            return gain
        return open_loop * (gain / (1.0 + gain)) / (1.0 + open_loop / (1.0 + gain))

    @property
    def negative_load(self) -> Tensor:
        """See :class:`ReadOut`: R1, or what a finite amplifier makes of R1 + R3."""
        if self.open_loop_gain is None:
            return self.resistance
        return self.resistance * ((1.0 + self.gain) / (1.0 + self.closed_gain))

    @property
    def coupling(self) -> Tensor:
        """See :class:`ReadOut`: α = R4/(R2 + R4), or k/(1 + k)."""
        return self.closed_gain / (1.0 + self.closed_gain)

    def output(self, positive: Tensor, negative: Tensor) -> Tensor:
        """See :class:`ReadOut`."""
        return self.closed_gain * (positive - negative)

    def sources(self, positive: Tensor, negative: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """See :class:`ReadOut`: the output, through R3 and R1."""
        output = self.output(positive, negative)
        return ((output, (output - negative) / (self.resistance * (1.0 + self.gain))),)

    @property
    def amplifiers(self) -> tuple[OpAmp, ...]:
        """See :class:`ReadOut`: an offset counts 1 + G times, or A/(1 + A/(1 + G))."""
        closed, noise, open_loop = self.closed_gain, 1.0 + self.gain, self.open_loop_gain
        none = torch.zeros_like(noise)
        through = 1.0 / (self.resistance * noise)
        if open_loop is not None:
            noise = open_loop / (1.0 + open_loop / noise)
        return (OpAmp(closed, -closed, noise, none, through, none + 1.0),)

    @property
    def terminals(self) -> tuple[Terminals, ...]:
        """See :class:`ReadOut`: at n2 and n1."""
        alpha, none = self.gain / (1.0 + self.gain), torch.zeros_like(self.gain)
        minus = (none, alpha, 1.0 / (1.0 + self.gain))
        return (Terminals(("n2", "n1", "o1"), (alpha, none, none), minus),)

    def passive_loads(self) -> PassiveLoads:
        """See :class:`ReadOut`: R2 + R4 and R1 + R3."""
        return PassiveLoads(self.positive_load, self.positive_load, torch.zeros_like(self.gain))

    def wiring(self) -> tuple[str, ...]:
        """See :class:`ReadOut`."""
        return (
            "R2 plus n2 'r'", "R4 n2 0 'gain*r'", "R1 minus n1 'r'", "R3 n1 o1 'gain*r'"
        )  # fmt: skip

    def noise_sources(
        self, temperature: float, amplifiers: AmplifierNoise
    ) -> tuple[HeldNoise, ...]:
        """See :class:`ReadOut`: R1 to R4, and the operational amplifier.

        With e_k in series with R_k and currents i1, i2 into the nodes n1, n2, the output held,

            n2 = α·(p + e2) + (1 - α)·(e4 + G·R·i2),
            n1 = α·(q + e1) + (1 - α)·(e3 + G·R·i1),

        n2 + e_n - n1 is between the inputs, and the ends give (p + e2 - n2)/R and (q + e1 - n1)/R;
        the latter and i1 go into the output.
        """
        gain, resistance = float(self.gain), float(self.resistance)
        alpha, beta = gain / (1.0 + gain), 1.0 / (1.0 + gain)

        def source(
            n2: float,
            n1: float,
            *,
            e1: float = 0.0,
            e2: float = 0.0,
            en: float = 0.0,
            i1: float = 0.0,
        ) -> HeldNoise:
            second = (e1 - n1) / resistance
            return HeldNoise((e2 - n2) / resistance, second, (n2 + en - n1,), (second + i1,))

        small = thermal_current(self.resistance, temperature) * resistance
        large = small * gain**0.5
        current = amplifiers.current * beta * gain * resistance
        return (
            source(0.0, alpha * small, e1=small),
            source(alpha * small, 0.0, e2=small),
            source(0.0, beta * large),
            source(beta * large, 0.0),
            source(0.0, 0.0, en=amplifiers.voltage),
            source(0.0, current, i1=amplifiers.current),
            source(current, 0.0),
        )

    @property
    def subcircuit(self) -> str:
        """See :class:`ReadOut`."""
        finite = self.ideal and self.open_loop_gain is not None
        return self.named("amplifier_finite" if finite else "amplifier")

    @property
    def subcircuit_text(self) -> str | None:
        """See :class:`ReadOut`: in files, if amplifiers are ideal."""
        if not self.ideal:
            return self.declared_real()
        if self.open_loop_gain is None and self.lag.order < 2 and self.lag.slew is None:
            return None
        *resistors, _ = self.wiring()
        if self.open_loop_gain is None:
            return self.declared(
                *resistors, "R3 n1 ideal 'gain*r'", "Evirtual n1 0 n2 0 1",
                "Eplus ideal below n2 0 '1+gain'", "Eminus below 0 minus 0 '-gain'",
            )  # fmt: skip
        return self.declared(*resistors, "R3 n1 ideal 'gain*r'", "Eop ideal 0 n2 n1 'a'")

    def parameters(self) -> dict[str, float]:
        """See :class:`ReadOut`."""
        values = {"gain": float(self.gain), "r": float(self.resistance)}
        if self.open_loop_gain is not None:
            values["a"] = float(self.open_loop_gain)
        return values if self.pole is None else values | {"pole": self.pole}

    @property
    def resistance_total(self) -> float:
        """See :class:`ReadOut`: R1 to R4."""
        return 2.0 * (1.0 + float(self.gain)) * float(self.resistance)

"""The poles of a layer's read-outs in time.

Where nothing but linear low-passes is behind read-outs, what these combine to passes them as each
one does, so that one voltage per neuron and pole is enough. Each read-out has its own where a slew
rate limits it by itself, and where their powers are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.periphery.readout import ReadOut
from imac_torch.periphery.readout.lag import Lag


@dataclass(frozen=True)
class SlowOutputs:
    """What the read-outs of a layer pass in time.

    Attributes:
        read_out: Of the layer.
        lag: Its low-passes, n of them.
        each: Whether voltages behind them are (n, B, M·L, H), of every read-out, and not
            (n, B, M), of what they combine to.
    """

    read_out: ReadOut
    lag: Lag
    each: bool

    @classmethod
    def of(cls, read_out: ReadOut, *, amplifiers: bool) -> SlowOutputs:
        """Of a layer; ``amplifiers``: whether their power is asked for."""
        lag = read_out.lag
        own = amplifiers or read_out.rails is not None or lag.slew is not None
        return cls(read_out, lag, lag.order > 0 and own)

    def at_rest(self, level: Tensor) -> Tensor:
        """(n, ...) V, where the voltage before has not changed for long."""
        return level.expand(self.lag.order, *level.shape).clone()

    def behind(self, values: Tensor) -> Tensor | None:
        """(n, B, M·L, H) V of every read-out, for powers; None: they are not asked for."""
        return values if self.each else None

    def met(self, values: Tensor) -> Tensor:
        """(n, B, M) V that voltages behind every pole combine to."""
        if not self.each:
            return values
        return torch.stack([self.read_out.combination.of_partitions(part) for part in values])

    def combined(self, values: Tensor) -> Tensor:
        """(B, M) V that neurons see."""
        return self.read_out.combination.of_partitions(values[-1]) if self.each else values[-1]

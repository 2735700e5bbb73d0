"""Tail bits: a share of the cells has lost part of its conductance since it was programmed."""

from dataclasses import dataclass

import torch

from imac_torch.devices import register_effect


@dataclass(frozen=True)
class TailBits:
    share: float
    factor: float = 0.5
    cycle: bool = False  # once, at programming

    def apply(self, conductance, window, generator):
        """(…, M, N+1) S; window.low and window.high are the end states, 0 is an open cell."""
        drawn = torch.rand(conductance.shape, generator=generator, dtype=torch.float64)
        return torch.where(drawn < self.share, self.factor * conductance, conductance)


register_effect("tail_bits", TailBits)

"""Circuits that are other ones in every read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from imac_torch.circuit.engine import BoundEngine
from imac_torch.dc.native import BoundNative
from imac_torch.results.solution import Solution, concatenate


class BoundByRead(BoundEngine):
    """An engine that solves each input in a read of its own, one after the other.

    Args:
        bind: An engine ready for the circuit of a read, from 0.
    """

    def __init__(self, bind: Callable[[int], BoundEngine]) -> None:
        self.bind = bind
        self.bound = bind(0)
        self.count = 0

    def solve(
        self, inputs: Tensor, *, power: bool = True, noise: Sequence[Tensor] | None = None
    ) -> Solution:
        """See :class:`BoundEngine`; with noise as :class:`BoundNative`, which engines then are."""
        found = []
        for k, row in enumerate(inputs.split(1)):
            self.bound = self.bind(self.count)
            if noise is not None and isinstance(self.bound, BoundNative):
                own = [part[k : k + 1] for part in noise]
                found.append(self.bound.solve(row, power=power, noise=own))
            else:
                found.append(self.bound.solve(row, power=power))
            self.count += 1
        return concatenate(found) if found else self.bound.solve(inputs, power=power)

    def description(self) -> dict[str, str]:
        """See :class:`BoundEngine`."""
        return self.bound.description()

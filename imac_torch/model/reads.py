"""Circuits that are other ones in every read."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from imac_torch.circuit.engine import BoundEngine
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

    def solve(self, inputs: Tensor, *, power: bool = True) -> Solution:
        """See :class:`BoundEngine`."""
        found = []
        for row in inputs.split(1):
            self.bound = self.bind(self.count)
            found.append(self.bound.solve(row, power=power))
            self.count += 1
        return concatenate(found) if found else self.bound.solve(inputs, power=power)

    def description(self) -> dict[str, str]:
        """See :class:`BoundEngine`."""
        return self.bound.description()

"""A DAC at every line: the whole code at once, as a voltage."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from imac_torch.periphery.border.base import DriverKind


class Dac(DriverKind):
    """Lines at k/steps of full scale; k has the code's bits, on bipolar lines one for the sign."""

    kind = "dac"
    reads = DriverKind.reads | {"step_energy"}

    @property
    def steps(self) -> int:
        """See :class:`DriverKind`."""
        return int(2**self.magnitude_bits - 1)

    def part_passes(self, inputs: Tensor) -> Iterator[Tensor]:
        """See :class:`DriverKind`."""
        yield self.rounded(inputs)

    @property
    def energy(self) -> float:
        """See :class:`DriverKind`."""
        step = (2**self.settings.bits - 1) * self.settings.step_energy
        return len(self.weights) * (self.settings.line_energy + step)

    @property
    def area(self) -> float:
        """See :class:`DriverKind`."""
        return (2**self.settings.bits - 1) * self.settings.unit_area

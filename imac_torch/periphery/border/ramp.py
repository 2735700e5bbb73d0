"""Ramp converters: one level after the other, all outputs of an array against the same ramp."""

from __future__ import annotations

from imac_torch.periphery.border.base import ConverterKind


class Ramp(ConverterKind):
    """2^bits comparisons long, by a comparator and a register per converter.

    The generator of the ramp, 2^bits unit elements, is shared by the array.
    """

    kind = "ramp"
    reads = ConverterKind.reads | {
        "comparator_energy", "comparator_area", "bit_area", "unit_area",
    }  # fmt: skip

    @property
    def comparisons(self) -> int:
        """See :class:`ConverterKind`."""
        return int(2**self.settings.bits)

    @property
    def circuit_energy(self) -> float:
        """See :class:`ConverterKind`."""
        return self.comparisons * self.settings.comparator_energy

    def circuit_area(self, converters: int) -> float:
        """See :class:`ConverterKind`."""
        bits = self.settings.bits
        own = self.settings.comparator_area + bits * self.settings.bit_area
        return converters * own + 2**bits * self.settings.unit_area

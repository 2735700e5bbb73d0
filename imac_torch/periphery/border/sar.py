"""Successive approximation: one comparison per bit, against a capacitive DAC."""

from __future__ import annotations

from imac_torch.periphery.border.base import ConverterKind


class Sar(ConverterKind):
    """``bits`` comparisons long; energy by Walden's figure of merit.

    Area: capacitors grow with 2^bits, the rest with bits (M. Saberi et al., IEEE TCAS-I 58(8),
    2011); with the default constants it is ISAAC's, 361 µm² at 4 bits and 1200 µm² at 8.
    """

    kind = "sar"
    reads = ConverterKind.reads | {"walden", "bit_area", "unit_area"}

    @property
    def comparisons(self) -> int:
        """See :class:`ConverterKind`."""
        return self.settings.bits

    @property
    def circuit_energy(self) -> float:
        """See :class:`ConverterKind`."""
        return float(2**self.settings.bits * self.settings.walden)

    def circuit_area(self, converters: int) -> float:
        """See :class:`ConverterKind`."""
        bits = self.settings.bits
        return converters * (bits * self.settings.bit_area + 2**bits * self.settings.unit_area)

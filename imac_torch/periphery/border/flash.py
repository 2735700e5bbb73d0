"""Flash converters: a comparator per step, all at once."""

from __future__ import annotations

from imac_torch.periphery.border.base import ConverterKind


class Flash(ConverterKind):
    """2^bits - 1 comparators: one comparison long, energy and area grow with 2^bits."""

    kind = "flash"
    reads = ConverterKind.reads | {"comparator_energy", "comparator_area"}

    @property
    def comparisons(self) -> int:
        """See :class:`ConverterKind`."""
        return 1

    @property
    def _comparators(self) -> int:
        return int(2**self.settings.bits - 1)

    @property
    def circuit_energy(self) -> float:
        """See :class:`ConverterKind`."""
        return self._comparators * self.settings.comparator_energy

    def circuit_area(self, converters: int) -> float:
        """See :class:`ConverterKind`."""
        return converters * self._comparators * self.settings.comparator_area

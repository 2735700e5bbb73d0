"""One bit of the code after the other: lines at 0 V or full scale, results shifted and added."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from imac_torch.periphery.border.base import DriverKind
from imac_torch.periphery.border.grid import straight_through


class BitSerial(DriverKind):
    """Σ_k 2^k/steps·plane_k, lowest bit first; a plane has bits, on bipolar lines with the sign."""

    kind = "bit_serial"

    @property
    def steps(self) -> int:
        """See :class:`DriverKind`."""
        return int(2**self.magnitude_bits - 1)

    @property
    def part_weights(self) -> tuple[float, ...]:
        """See :class:`DriverKind`."""
        return tuple(2**bit / self.steps for bit in range(self.magnitude_bits))

    def part_passes(self, inputs: Tensor) -> Iterator[Tensor]:
        """See :class:`DriverKind`.

        Every plane has the gradient of the input: their weights add up to one.
        """
        inside = inputs.clamp(-1.0, 1.0)
        code = (self.steps * inside.detach()).round()
        sign, left = code.sign(), code.abs()
        for _ in range(self.magnitude_bits):
            yield straight_through(inside, sign * left.remainder(2.0))
            left = (left / 2.0).floor()

    @property
    def energy(self) -> float:
        """See :class:`DriverKind`."""
        return len(self.weights) * self.settings.line_energy

    @property
    def area(self) -> float:
        """See :class:`DriverKind`: one-bit drivers."""
        return self.settings.unit_area

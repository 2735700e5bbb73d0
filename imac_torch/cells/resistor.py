"""An access device that is a resistor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from imac_torch.base.units import spice_number
from imac_torch.cells.base import CellCurrents, number
from imac_torch.cells.series import Access
from imac_torch.config.quantity import RESISTANCE
from imac_torch.errors import ConfigError
from imac_torch.numeric.cell_kinds import OHMIC

__all__ = ["Resistor"]


@dataclass(frozen=True)
class Resistor(Access):
    """A transistor that is fully on, or a contact.

    Attributes:
        resistance: Ω.
    """

    resistance: Annotated[float, RESISTANCE]

    def __post_init__(self) -> None:
        """Check the resistance.

        Raises:
            ConfigError: It is not positive.
        """
        if not 0.0 < self.resistance < math.inf:
            raise ConfigError(f"resistance = {self.resistance} Ω must be positive and finite")

    @property
    def bend(self) -> float:
        """See :class:`Access`."""
        return math.inf

    @property
    def code(self) -> tuple[float, ...]:
        """See :class:`Access`."""
        return OHMIC, 0.0, 1.0 / self.resistance, 0.0, 0.0

    def ohms(self) -> float:
        """See :class:`Access`."""
        return self.resistance

    def currents(self, across: Tensor, end: Tensor | None = None) -> CellCurrents:
        """See :class:`Access`."""
        return CellCurrents(
            across / self.resistance, torch.full_like(across, 1.0 / number(self.resistance))
        )

    def lines(self, name: str, first: str, second: str) -> list[str]:
        """See :class:`Access`."""
        return [f"{name} {first} {second} {spice_number(self.resistance)}"]

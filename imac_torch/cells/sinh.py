"""Memory devices that conduct by hopping or tunnelling: i = g·v0·sinh(v/v0)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from imac_torch.base.units import spice_number
from imac_torch.cells.base import Cell, CellCurrents
from imac_torch.config.quantity import BEND
from imac_torch.errors import ConfigError
from imac_torch.numeric.cell_kinds import SINH

__all__ = ["Sinh"]


@dataclass(frozen=True)
class Sinh(Cell):
    """i = g·v0·sinh(v/v0): hopping or trap-assisted tunnelling through an oxide.

    The dependence on voltage in the compact model of P.-Y. Chen and S. Yu, "Compact modeling of
    RRAM devices and its applications in 1T1R and 1S1R array design", IEEE Trans. Electron Devices
    62(12), 4022-4028 (2015), whose I0·exp(-gap/g0)·sinh(V/V0) has the gap's factor in g here.

    Attributes:
        v0: V; the cell is ohmic, with conductance g, well below it.
    """

    v0: Annotated[float, BEND]

    def __post_init__(self) -> None:
        """Check v0.

        Raises:
            ConfigError: It is not positive.
        """
        if not 0.0 < self.v0 < math.inf:
            raise ConfigError(f"v0 = {self.v0} V must be positive and finite")

    @property
    def bend(self) -> float:
        """See :class:`Cell`."""
        return self.v0

    @property
    def code(self) -> tuple[float, ...]:
        """See :class:`Cell`."""
        return SINH, self.v0, 0.0, 0.0, 0.0

    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """See :class:`Cell`."""
        ratio = across / self.v0
        return CellCurrents(
            conductance * self.v0 * torch.sinh(ratio), conductance * torch.cosh(ratio)
        )

    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """See :class:`Cell`."""
        v0 = spice_number(self.v0)
        return [f"G{name} {first} {second} cur='{v0}/{resistance}*sinh(v({first},{second})/{v0})'"]

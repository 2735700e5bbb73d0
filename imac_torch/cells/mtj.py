"""Magnetic tunnel junctions, whose antiparallel state loses its resistance with the voltage."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN, BOLTZMANN_EV, spice_number
from imac_torch.cells.base import Cell, CellCurrents
from imac_torch.config import Memristor
from imac_torch.config.quantity import BEND, CONDUCTANCE
from imac_torch.errors import ConfigError
from imac_torch.numeric.cell_kinds import TUNNEL

__all__ = ["TunnelJunction"]


@dataclass(frozen=True)
class TunnelJunction(Cell):
    """Resistance R_P·(1 + TMR(v)) with TMR(v) = TMR(0)/(1 + (v/vh)²).

    Y. Zhang et al., "Compact modeling of perpendicular-anisotropy CoFeB/MgO magnetic tunnel
    junctions", IEEE Trans. Electron Devices 59(3), 819-826 (2012), which takes vh = 0.5 V. R_P is
    taken as constant (there it falls a little with the voltage). A device of conductance g at small
    voltages has 1 + TMR(0) = g_P/g, so that with x = v/vh it carries
    i = v·(1 + x²)·g·g_P/(g_P + g·x²).

    Attributes:
        vh: V, where half of the tunnel magnetoresistance is left.
        parallel: S, g_P; 0: that of the device's low-resistance state.
    """

    vh: Annotated[float, BEND] = 0.5
    parallel: Annotated[float, CONDUCTANCE] = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not allowed.
        """
        if not (0.0 < self.vh < math.inf and 0.0 <= self.parallel < math.inf):
            raise ConfigError(f"vh = {self.vh} V, parallel = {self.parallel} S: both are positive")

    def of_device(self, device: Memristor) -> TunnelJunction:
        """See :class:`Cell`."""
        return self if self.parallel > 0.0 else replace(self, parallel=1.0 / device.rlow)

    @property
    def bend(self) -> float:
        """See :class:`Cell`."""
        return self.vh

    @property
    def code(self) -> tuple[float, ...]:
        """See :class:`Cell`."""
        return TUNNEL, self.vh, self.parallel, 0.0, 0.0

    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """See :class:`Cell`."""
        square = (across / self.vh) ** 2
        below = self.parallel + conductance * square
        factor = conductance * self.parallel / below
        inner = conductance * (1.0 + square) ** 2
        inner = inner + (self.parallel - conductance) * (1.0 + 3.0 * square)
        return CellCurrents(across * (1.0 + square) * factor, factor * inner / below)

    def noise(
        self, conductance: Tensor, across: Tensor, end: Tensor | None, temperature: float
    ) -> Tensor:
        """See :class:`Cell`: 2q·i·coth(qv/2kT), of one barrier.

        D. Rogovin and D. J. Scalapino, Ann. Phys. 86(1), 1-90 (1974).
        """
        voltage = BOLTZMANN_EV * temperature
        ratio = across / (2.0 * voltage)
        shape = torch.where(ratio.abs() > 1e-6, ratio / torch.tanh(ratio), 1.0)  # 1 + x²/3
        # i/v, which has a value at 0 V
        square = (across / self.vh) ** 2
        secant = (1.0 + square) * conductance * self.parallel
        secant = secant / (self.parallel + conductance * square)
        return 4.0 * BOLTZMANN * temperature * shape.nan_to_num(nan=1.0) * secant

    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """See :class:`Cell`."""
        across = f"v({first},{second})"
        square = f"({across}*{across}*{spice_number(self.vh**-2)})"
        of_parallel = spice_number(1.0 / self.parallel)
        current = f"{across}*(1+{square})/({resistance}+{of_parallel}*{square})"
        return [f"G{name} {first} {second} cur='{current}'"]

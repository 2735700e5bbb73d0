"""Access devices of 1S1R cells: a diode, and a selector that conducts both ways."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN, spice_number
from imac_torch.cells.base import CellCurrents
from imac_torch.cells.series import Access
from imac_torch.config.quantity import BEND, CONDUCTANCE, CURRENT
from imac_torch.errors import ConfigError
from imac_torch.numeric.cell_kinds import DIODE, SINH

__all__ = ["Diode", "Selector"]


class _Exponential(Access):
    """Parameters are positive, and e is reached in v0."""

    v0: float

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not positive.
        """
        for name, value in vars(self).items():
            if not 0.0 < value < math.inf:
                raise ConfigError(f"{name} = {value} must be positive and finite")

    @property
    def bend(self) -> float:
        """See :class:`Access`."""
        return self.v0


@dataclass(frozen=True)
class Diode(_Exponential):
    """i = I_s·(exp(v/v0) - 1) + g·v: W. Shockley, Bell Syst. Tech. J. 28(3), 435-489 (1949).

    It conducts from the input line to the I± line only: inputs below the voltage of that line are
    lost.

    Attributes:
        saturation: A, I_s.
        v0: V, ideality times kT/q.
        leakage: S, g, beside it; keeps the cell from being open.
    """

    saturation: Annotated[float, CURRENT]
    v0: Annotated[float, BEND] = 0.03
    leakage: Annotated[float, CONDUCTANCE] = 1e-12

    @property
    def code(self) -> tuple[float, ...]:
        """See :class:`Access`."""
        return DIODE, self.v0, self.saturation / self.v0, self.leakage, 0.0

    def currents(self, across: Tensor, end: Tensor | None = None) -> CellCurrents:
        """See :class:`Access`."""
        ratio = across / self.v0
        return CellCurrents(
            self.saturation * torch.expm1(ratio) + self.leakage * across,
            self.saturation / self.v0 * torch.exp(ratio) + self.leakage,
        )

    def noise(self, across: Tensor, end: Tensor | None, temperature: float) -> Tensor:
        """See :class:`Access`: 2q of what flows either way, I_s·exp(v/v0) and I_s.

        A. van der Ziel, Proc. IEEE 58(8), 1178-1206 (1970). Where v0 is n times kT/q it is 1/n of
        that, as of n junctions in a row, so that at 0 V it is Nyquist's.
        """
        thermal = 2.0 * BOLTZMANN * temperature
        flow = self.saturation * (torch.exp(across / self.v0) + 1.0)
        return thermal * (flow / self.v0 + 2.0 * self.leakage)

    def lines(self, name: str, first: str, second: str) -> list[str]:
        """See :class:`Access`."""
        current, v0, leakage = map(spice_number, (self.saturation, self.v0, self.leakage))
        across = f"v({first},{second})"
        return [
            f"G{name} {first} {second} cur='{current}*(exp({across}/{v0})-1)+{leakage}*{across}'"
        ]


@dataclass(frozen=True)
class Selector(_Exponential):
    """i = I·sinh(v/v0): a bidirectional exponential selector.

    The selector of 1S1R cells in P.-Y. Chen and S. Yu, IEEE Trans. Electron Devices 62(12),
    4022-4028 (2015); without a threshold that switches.

    Attributes:
        scale: A, I.
        v0: V.
    """

    scale: Annotated[float, CURRENT]
    v0: Annotated[float, BEND]

    @property
    def code(self) -> tuple[float, ...]:
        """See :class:`Access`."""
        return SINH, self.v0, self.scale / self.v0, 0.0, 0.0

    def currents(self, across: Tensor, end: Tensor | None = None) -> CellCurrents:
        """See :class:`Access`."""
        ratio = across / self.v0
        return CellCurrents(
            self.scale * torch.sinh(ratio), self.scale / self.v0 * torch.cosh(ratio)
        )

    def lines(self, name: str, first: str, second: str) -> list[str]:
        """See :class:`Access`."""
        scale, v0 = spice_number(self.scale), spice_number(self.v0)
        return [f"G{name} {first} {second} cur='{scale}*sinh(v({first},{second})/{v0})'"]

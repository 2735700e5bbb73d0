"""Phase-change memories, whose amorphous part conducts by hopping from trap to trap."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Final

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN_EV, spice_number
from imac_torch.cells.base import Cell, CellCurrents
from imac_torch.config import Config, Memristor
from imac_torch.config.quantity import RESISTANCE, Quantity
from imac_torch.errors import ConfigError

__all__ = ["PhaseChange"]

STEPS: Final = 60
"""Of Newton's method, which descends a convex function; some six are taken."""


@dataclass(frozen=True)
class Thermal:
    """Of a circuit: kT/q, V."""

    voltage: float


@dataclass(frozen=True)
class PhaseChange(Cell):
    """An amorphous part of thickness u behind a crystalline resistor.

    Below threshold the amorphous part conducts by Poole-Frenkel hopping, its current growing with
    sinh(q·V·Δz/(2kT·u)) of the voltage V across it, Δz being the distance of its traps (D. Ielmini
    and Y. Zhang, "Analytical model for subthreshold conduction and threshold switching in
    chalcogenide-based memory devices", J. Appl. Phys. 102, 054517, 2007, doi:10.1063/1.2773688).
    Its resistance R_a at small voltages and the voltage of the sinh are both proportional to u,
    which is what is programmed; so all states share one current I_s, and a device of conductance
    1/(R_c + R_a) at small voltages carries i where::

        v = R_c·i + R_a·I_s·asinh(i/I_s),   I_s = (2kT/q)·(u/Δz of the highest state)/(rhigh - R_c)

    It does not switch: keep voltages below threshold.

    Attributes:
        spacings: u/Δz of the high-resistance state.
        crystalline: Ω, R_c; 0: the device's low resistance, which has no amorphous part.
        highest: Ω, of the high-resistance state; 0: the device's.
        thermal: V, kT/q. The circuit's.
    """

    spacings: Annotated[float, Quantity("1", (1.0, 1e3))]
    crystalline: Annotated[float, RESISTANCE] = 0.0
    highest: Annotated[float, RESISTANCE] = 0.0
    thermal: Thermal | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not allowed.
        """
        if not (0.0 < self.spacings < math.inf and self.crystalline >= 0.0 and self.highest >= 0.0):
            raise ConfigError(
                f"spacings = {self.spacings}, crystalline = {self.crystalline} Ω, highest = "
                f"{self.highest} Ω: all are positive"
            )

    def of_device(self, device: Memristor) -> PhaseChange:
        """See :class:`Cell`.

        Raises:
            ConfigError: The crystalline part has more than the device's low resistance.
        """
        found = replace(
            self,
            crystalline=self.crystalline or device.rlow,
            highest=self.highest or device.rhigh,
        )
        if found.crystalline > device.rlow or found.highest <= found.crystalline:
            raise ConfigError(
                f"pcm.crystalline = {found.crystalline} Ω: the states of {device.rlow} to "
                f"{device.rhigh} Ω have it in series, and an amorphous part besides"
            )
        return found

    def of_circuit(self, config: Config) -> PhaseChange:
        """See :class:`Cell`."""
        return replace(self, thermal=Thermal(BOLTZMANN_EV * config.temperature))

    @property
    def scale(self) -> float:
        """A, I_s."""
        thermal = self.thermal or Thermal(BOLTZMANN_EV * Config().temperature)
        return 2.0 * thermal.voltage * self.spacings / (self.highest - self.crystalline)

    @property
    def bend(self) -> float:
        """See :class:`Cell`: of the states that conduct best, which bend at lower voltages."""
        return self.scale * self.crystalline

    def _amorphous(self, conductance: Tensor) -> tuple[Tensor, Tensor]:
        """Ω: R_c and R_a; what conducts better than R_c is a resistor."""
        whole = 1.0 / conductance.clamp(min=1e-30)
        return whole.clamp(max=self.crystalline), (whole - self.crystalline).clamp(min=0.0)

    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """See :class:`Cell`.

        With i = I_s·sinh(y) it is R_c·sinh(y) + R_a·y = v/I_s, whose left side is convex where y is
        positive: Newton's method comes down to it from above, where it began.
        """
        crystalline, amorphous = self._amorphous(conductance)
        wanted = across / self.scale
        with torch.no_grad():
            size = wanted.abs()
            y = torch.minimum(torch.asinh(size / crystalline), size / (crystalline + amorphous))
            for _ in range(STEPS):
                step = crystalline * torch.sinh(y) + amorphous * y - size
                step = step / (crystalline * torch.cosh(y) + amorphous)
                y = y - step
                if not bool((step.abs() > 1e-15 * (1.0 + y)).any()):
                    break
            y = torch.copysign(y, wanted)
            cosh = torch.cosh(y)
            denominator = crystalline * cosh + amorphous
        present = conductance > 0.0
        # One more step moves nothing, but has the derivatives (implicit function theorem).
        rest = crystalline * torch.sinh(y) + amorphous * y - wanted
        current = self.scale * torch.sinh(y - rest / denominator)
        nothing = torch.zeros_like(current)
        return CellCurrents(
            torch.where(present, current, nothing), torch.where(present, cosh / denominator, 0.0)
        )

    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """See :class:`Cell`."""
        whole = float(resistance)
        if whole <= self.crystalline:
            return [f"{name} {first} {second} {resistance}"]
        inner, scale = f"{name}c", self.scale
        slope = spice_number(scale * (whole - self.crystalline))
        return [
            f"{inner} {first} {inner} {spice_number(self.crystalline)}",
            f"G{name} {inner} {second} "
            f"cur='{spice_number(scale)}*sinh(v({inner},{second})/{slope})'",
        ]

"""A memory device with an access device in series, and the node between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from imac_torch.base.units import BOLTZMANN, spice_number
from imac_torch.cells.base import Cell, CellCurrents, Flicker, Numbers, Part, in_messages
from imac_torch.cells.capacitance import NO_CHARGE, CellCapacitance
from imac_torch.config import Config
from imac_torch.errors import SolverError
from imac_torch.numeric.cell_kinds import OHMIC

__all__ = ["Access", "Ohmic", "Series"]

STEPS: Final = 200
"""Of the search for the inner node. Halving the interval alone takes 60 for a volt."""
RESOLUTION: Final = 1e-15
"""Of the voltage across the cell: the inner node is known to rounding."""
LAST_STEP: Final = 1e-8
"""V. Transistors bend over 0.1 V: what a step of Newton's method leaves is its square over that."""
REACH: Final = 0.5
"""V. What leaks from gates may lift an inner node this far beyond the cell's two lines."""


class Access(Numbers, ABC):
    """One kind of access device: a current that grows with the voltage across it.

    Kinds are frozen dataclasses, as cells are.

    Attributes:
        absolute: As of :class:`Cell`.
        gated: Likewise; it is then between vdd and the memory device, see
            :mod:`imac_torch.cells.gated`.
    """

    absolute: ClassVar[bool] = False
    gated: ClassVar[bool] = False

    def __str__(self) -> str:
        return in_messages(self)

    @property
    @abstractmethod
    def bend(self) -> float:
        """V. See :class:`Cell`; infinite for a resistor."""

    def of_circuit(self, config: Config) -> Self:
        """The same, knowing the circuit's supplies and temperature."""
        return self

    def exact(self) -> Self:
        """See :class:`Cell`."""
        return self

    def inside(self, end: Tensor, node: Tensor) -> Tensor | None:
        """Where it is known: V of the I± line and of the inner node; None: everywhere."""
        return None

    def in_series(
        self, memory: Cell, conductance: Tensor, across: Tensor, end: Tensor | None
    ) -> tuple[Tensor, CellCurrents] | None:
        """Voltages across memory devices and currents of cells; None: :class:`Series` finds them.

        See :meth:`Series.currents`; nothing is differentiated.
        """
        return None

    def behind(self, memory: Cell) -> Cell:
        """The cell of both."""
        return Series(memory, self)

    def terminal_capacitances(self) -> tuple[float, float]:
        """F to ground from the inner node and from the I± line, of its own charges."""
        return 0.0, 0.0

    def ohms(self) -> float | None:
        """Ω, of a resistor; None: the current is no straight line."""
        return None

    @property
    def code(self) -> tuple[float, ...] | None:
        """See :class:`Cell`; five numbers."""
        return None

    @property
    def table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """See :class:`Cell`."""
        return None

    @abstractmethod
    def currents(self, across: Tensor, end: Tensor | None = None) -> CellCurrents:
        """Currents and slopes; currents are differentiable.

        Args:
            across: V, from the memory device to the I± line.
            end: V, of the I± line; given where it matters.
        """

    def noise(self, across: Tensor, end: Tensor | None, temperature: float) -> Tensor:
        """See :meth:`Cell.noise`."""
        return 4.0 * BOLTZMANN * temperature * self.currents(across, end).slope

    def flicker(self, across: Tensor, end: Tensor | None) -> Flicker | None:
        """See :meth:`Cell.flicker`."""
        return None

    @abstractmethod
    def lines(self, name: str, first: str, second: str) -> list[str]:
        """See :meth:`Cell.lines`."""

    def part(self, transistors: str) -> Part | None:
        """See :meth:`Cell.part`."""
        return None


@dataclass(frozen=True)
class Ohmic(Cell):
    """A resistor; alone, layers of it are solved another way."""

    @property
    def bend(self) -> float:
        """See :class:`Cell`."""
        return float("inf")

    @property
    def code(self) -> tuple[float, ...]:
        """See :class:`Cell`."""
        return OHMIC, 0.0, 0.0, 0.0, 0.0

    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """See :class:`Cell`."""
        return CellCurrents(conductance * across, conductance.expand_as(across))

    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """See :class:`Cell`."""
        return [f"{name} {first} {second} {resistance}"]


@dataclass(frozen=True)
class Series(Cell):
    """A memory device, from the input line to an inner node, and an access device behind it.

    Attributes:
        memory: From the input line on.
        access: From the inner node to the I± line.
        capacitance: Of both; currents are those at rest.
    """

    memory: Cell
    access: Access
    capacitance: CellCapacitance = NO_CHARGE

    def __str__(self) -> str:
        return f"{self.memory} and {self.access} in series"

    @property
    def absolute(self) -> bool:  # type: ignore[override]
        """See :class:`Cell`."""
        return self.access.absolute

    @property
    def bend(self) -> float:
        """See :class:`Cell`."""
        return min(self.memory.bend, self.access.bend)

    @property
    def limited(self) -> bool:
        """See :class:`Cell`."""
        return self.memory.limited or type(self.access).inside is not Access.inside

    @property
    def code(self) -> tuple[float, ...] | None:
        """See :class:`Cell`."""
        first, second = self.memory.code, self.access.code
        return None if first is None or second is None else (*first, *second)

    @property
    def table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """See :class:`Cell`."""
        return self.access.table

    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """See :class:`Cell`.

        The memory device carries m(u), the access device a(v - u), both growing: one u between 0
        and v gives the same. Newton's steps; where one leads out of the interval, or is not half as
        long as the last (exponentials are descended in many), the interval is halved.

        Raises:
            SolverError: A voltage is no number, or the inner node was not found.
        """
        known = self.access.in_series(
            self.memory, conductance.detach(), across.detach(), _detached(end)
        )
        if known is not None and not torch.is_grad_enabled():
            return known[1]
        with torch.no_grad():
            if known is None:
                at = self._inner(conductance.detach(), across.detach(), _detached(end))
            else:
                at = known[0]
            found = self.memory.currents(conductance.detach(), at)
            behind = self.access.currents(across.detach() - at, _detached(end))
            total = found.slope + behind.slope
            share = torch.where(total > 0.0, found.slope / total, 0.0)
            slope = share * behind.slope
            back = None if behind.back is None else share * behind.back
        if not torch.is_grad_enabled():
            return CellCurrents(found.current, slope, back, _of_cells(behind.leak, conductance))
        # One more step, which moves nothing but has the derivatives of the node (implicit function
        # theorem); the current is that of the memory device there.
        defect = (
            self.memory.currents(conductance, at).current
            - self.access.currents(across - at, end).current
        )
        moved = at - torch.where(total > 0.0, defect / total, 0.0)
        leak = None if behind.leak is None else self.access.currents(across - moved, end).leak
        return CellCurrents(
            self.memory.currents(conductance, moved).current, slope, back,
            _of_cells(leak, conductance),
        )  # fmt: skip

    @torch.no_grad()
    def noise(
        self, conductance: Tensor, across: Tensor, end: Tensor | None, temperature: float
    ) -> Tensor:
        """See :class:`Cell`: each device's, as far as the other lets it through."""
        at, by_memory, by_access = self._shares(conductance, across, end)
        return (
            by_memory.square() * self.memory.noise(conductance, at, None, temperature)
            + by_access.square() * self.access.noise(across - at, end, temperature)
        )

    def over_memory(self, conductance: Tensor, across: Tensor, end: Tensor | None) -> Tensor:
        """See :class:`Cell`."""
        return self._inner(conductance, across, end)

    @torch.no_grad()
    def flicker(
        self, conductance: Tensor, across: Tensor, end: Tensor | None
    ) -> Flicker | None:
        """See :class:`Cell`: the access device's."""
        if type(self.access).flicker is Access.flicker:
            return None
        at, _, by_access = self._shares(conductance, across, end)
        found = self.access.flicker(across - at, end)
        return found and Flicker(by_access.square() * found.density, found.exponent)

    def _shares(
        self, conductance: Tensor, across: Tensor, end: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """V across memory devices; which part of its current each device sends through both."""
        at = self._inner(conductance, across, end)
        first = self.memory.currents(conductance, at).slope
        second = self.access.currents(across - at, end).slope
        total = first + second
        by_memory, by_access = (
            torch.where(total > 0.0, part / total, 0.0) for part in (second, first)
        )
        return at, by_memory, by_access

    def of_both(self, memory: Mapping[str, Tensor], access: Mapping[str, Tensor]) -> Series:
        """See :class:`Cell`."""
        return replace(
            self, memory=self.memory.of_tensors(memory), access=self.access.of_tensors(access)
        )

    def exact(self) -> Series:
        """See :class:`Cell`."""
        return replace(self, memory=self.memory.exact(), access=self.access.exact())

    def inside(self, across: Tensor, end: Tensor | None = None) -> Tensor | None:
        """See :class:`Cell`, of the two lines, between which the inner node is."""
        known = [self.memory.inside(across)]
        if end is not None:
            known.append(self.access.inside(end, end + across))
        found = [item for item in known if item is not None]
        return None if not found else torch.stack(found).all(0)

    def _inner(self, conductance: Tensor, across: Tensor, end: Tensor | None) -> Tensor:
        """V across the memory device."""
        low, high = across.clamp(max=0.0), across.clamp(min=0.0)
        at = across / 2.0
        if self.absolute:
            low, high, at = low - REACH, high + REACH, across
        limit = RESOLUTION * across.abs() + torch.finfo(across.dtype).tiny
        if self.absolute:
            limit = limit + LAST_STEP
        step = across.abs()
        for _ in range(STEPS):
            found = self.memory.currents(conductance, at)
            behind = self.access.currents(across - at, end)
            defect = found.current - behind.current
            low = torch.where(defect < 0.0, at, low)
            high = torch.where(defect > 0.0, at, high)
            following = at - defect / (found.slope + behind.slope)
            good = (following >= low) & (following <= high)
            good &= (following - at).abs() <= 0.5 * step
            following = torch.where(good, following, (low + high) / 2.0)
            # What is known to rounding stays: another step would not be half as long.
            following = torch.where((defect == 0.0) | (step <= limit), at, following)
            step = (following - at).abs()
            at = following
            if not bool((step > limit).any()):
                return at
        left = int((step > limit).sum())
        if left and not bool(torch.isfinite(across).all()):
            return at  # what is no number stays none, and is told as such
        raise SolverError(f"the inner nodes of {left} cells were not found")

    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """See :class:`Cell`."""
        inner = f"{name}m"
        found = [
            *self.memory.lines(name, first, inner, resistance),
            *self.access.lines(f"{name}a", inner, second),
        ]
        for label, value, near, far in (
            ("m", self.capacitance.memory, first, inner),
            ("a", self.capacitance.access, inner, second),
        ):
            if value > 0.0:
                found.append(f"c{name}{label} {near} {far} {spice_number(value)}")
        return found

    def part(self, transistors: str) -> Part | None:
        """See :class:`Cell`."""
        return self.access.part(transistors)


def _of_cells(leak: Tensor | None, conductance: Tensor) -> Tensor | None:
    """No cell, no access device."""
    return None if leak is None else torch.where(conductance > 0.0, leak, 0.0)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()

"""What a kind of bit cell must answer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor
from typing_extensions import Self

from imac_torch.config import Memristor

__all__ = ["Cell", "CellCurrents"]


class CellCurrents(NamedTuple):
    """Currents and their derivatives; all of one shape.

    Attributes:
        current: A, from the input line to the I± line.
        slope: S, derivative by the voltage between them, positive.
    """

    current: Tensor
    slope: Tensor


class Cell(ABC):
    """One kind of bit cell: a current that grows with the voltage between its two lines.

    Kinds are frozen dataclasses; their fields are their parameters, as configurations have them.

    Attributes:
        absolute: Whether the voltage of the I± line matters besides that across the cell.
    """

    absolute: ClassVar[bool] = False

    def of_device(self, device: Memristor) -> Self:
        """The same, knowing the section that it stands in; for kinds that look at the states."""
        return self

    @property
    @abstractmethod
    def bend(self) -> float:
        """V. The slope changes noticeably over it; no step of an iteration is longer."""

    @property
    def known_range(self) -> tuple[float, float]:
        """V across the cell that it is known for; beyond, solutions are said to be outside."""
        return -math.inf, math.inf

    @abstractmethod
    def currents(
        self, conductance: Tensor, across: Tensor, end: Tensor | None = None
    ) -> CellCurrents:
        """Currents and slopes; the current is differentiable by every argument.

        Args:
            conductance: S, of the memory device at small voltages; 0 is an open cell.
            across: V, from the input line to the I± line; shapes broadcast.
            end: V, of the I± line; given where it matters (``absolute``).
        """

    @abstractmethod
    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """The cell in a netlist, in words that every dialect knows.

        Args:
            name: Unique among the elements and inner nodes of its sub-circuit.
            first: Node of the input line.
            second: Node of the I± line.
            resistance: Ω, of the memory device at small voltages.
        """

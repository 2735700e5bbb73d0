"""What a kind of bit cell must answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from imac_torch.base.shown import brief
from imac_torch.base.units import BOLTZMANN
from imac_torch.config import Config, Memristor

__all__ = ["Cell", "CellCurrents", "Flicker", "Part", "in_messages"]


class CellCurrents(NamedTuple):
    """Currents and their derivatives; all of one shape.

    Attributes:
        current: A, from the input line to the I± line.
        slope: S, derivative by the voltage of the input line, not negative.
        back: S, likewise by that of the I± line, with the other sign; None: the same, the current
            is one of the voltage between them.
        leak: A, into the I± line besides; None: nothing.
    """

    current: Tensor
    slope: Tensor
    back: Tensor | None = None
    leak: Tensor | None = None

    @property
    def chord(self) -> Tensor:
        """S, how much of a voltage of the I± line the cell takes from its line."""
        return self.slope if self.back is None else self.back


class Flicker(NamedTuple):
    """1/f noise of a current.

    Attributes:
        density: A²/Hz at 1 Hz.
        exponent: Of the frequency that it falls with.
    """

    density: Tensor
    exponent: float


@dataclass(frozen=True)
class Part:
    """What the netlist of a cell needs besides its lines.

    Attributes:
        name: Of the sub-circuit, unlike any other's.
        text: The sub-circuit.
        files: Further files by name, in the same folder.
        ports: Of the sub-circuit.
    """

    name: str
    text: str
    files: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ("a", "b")


_OF_CIRCUIT = ("bias", "supply", "thermal")
"""Fields of kinds that :meth:`Cell.of_circuit` fills; nobody has set them."""


def in_messages(part: object) -> str:
    """A memory or access device as messages name it: its kind, and what was set."""
    kind = type(part).__name__
    if not is_dataclass(part):
        return kind
    told = [
        f"{item.name}={brief(getattr(part, item.name))}"
        for item in fields(part)
        if not item.name.startswith(_OF_CIRCUIT)
        and (item.default is MISSING or repr(getattr(part, item.name)) != repr(item.default))
    ]
    return f"{kind}({', '.join(told)})"


def number(value: float | Tensor) -> float:
    """A parameter that may be differentiated, where it is not."""
    return float(value.detach()) if isinstance(value, Tensor) else value


class Numbers:
    """Parameters of a kind that its currents are differentiable by."""

    def numbers(self) -> dict[str, Any]:
        """By name: those that are no whole numbers and no choices."""
        assert is_dataclass(self)  # noqa: S101 - no other class is registered
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value for name, value in values.items()
            if isinstance(value, float) and not name.startswith(_OF_CIRCUIT)
        }  # fmt: skip

    def of_tensors(self, values: Mapping[str, Tensor]) -> Self:
        """The same with tensors in place of numbers, for currents that are differentiated.

        Args:
            values: By name, see :meth:`numbers`; 0-dimensional mostly.
        """
        found: Any = self
        same: Self = replace(found, **values)
        return same


class Cell(Numbers, ABC):
    """One kind of bit cell: a current that grows with the voltage between its two lines.

    Kinds are frozen dataclasses; their fields are their parameters, as configurations have them.

    Attributes:
        absolute: Whether the voltage of the I± line matters besides that across the cell.
        gated: Whether the input line holds a gate: it carries nothing, and all of what flows into
            the I± line (``leak``) comes from vdd.
    """

    absolute: ClassVar[bool] = False
    gated: ClassVar[bool] = False

    def __str__(self) -> str:
        return in_messages(self)

    def of_device(self, device: Memristor) -> Self:
        """The same, knowing the section that it stands in; for kinds that look at the states."""
        return self

    @property
    @abstractmethod
    def bend(self) -> float:
        """V. The slope changes noticeably over it; no step of an iteration is longer."""

    def of_circuit(self, config: Config) -> Self:
        """The same, knowing the circuit's supplies and temperature."""
        return self

    def exact(self) -> Self:
        """The same without tables that stand for a slower model."""
        return self

    def of_both(self, memory: Mapping[str, Tensor], access: Mapping[str, Tensor]) -> Self:
        """:meth:`of_tensors` of memory and access device; one without such a device is the former.

        Args:
            memory: Of the memory device.
            access: Of the access device.
        """
        return self.of_tensors(memory)

    def inside(self, across: Tensor, end: Tensor | None = None) -> Tensor | None:
        """Where the cell is known, see :meth:`currents`; None: everywhere.

        Solutions beyond are said to be outside.
        """
        return None

    @property
    def limited(self) -> bool:
        """Whether :meth:`inside` has something to say."""
        return type(self).inside is not Cell.inside

    @property
    def code(self) -> tuple[float, ...] | None:
        """What it is in :mod:`imac_torch.numeric.cell_kinds`; None: kernels ask :meth:`currents`.

        Five numbers, or ten with a device in series.
        """
        return None

    @property
    def table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Coefficients and grid of the transistor that :attr:`code` names; None: it names none.

        See :func:`imac_torch.kernels.elements.transistor`.
        """
        return None

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

    def noise(
        self, conductance: Tensor, across: Tensor, end: Tensor | None, temperature: float
    ) -> Tensor:
        """White noise of the current while both lines are held, A²/Hz; arguments as above.

        4kT times the slope di/dv. Of a resistor that is Nyquist's. Hopping over N barriers in a row
        carries i = g·v0·sinh(v/v0) with v0 = 2NkT/q: each passes as many electrons forth and back
        as shot noise of 2q·(i₊ + i₋) = 4kT·N·di/dv has, and N of them in series are 1/N as noisy.
        For currents of unknown origin it is an assumption, right where they are small.

        Args:
            conductance: See :meth:`currents`.
            across: See :meth:`currents`.
            end: See :meth:`currents`.
            temperature: K.
        """
        return 4.0 * BOLTZMANN * temperature * self.currents(conductance, across, end).slope

    def over_memory(self, conductance: Tensor, across: Tensor, end: Tensor | None) -> Tensor:
        """V across memory devices, of all that their current falls through; arguments as above."""
        return across

    def flicker(
        self, conductance: Tensor, across: Tensor, end: Tensor | None
    ) -> Flicker | None:
        """1/f noise besides; arguments as above. None: none.

        That of memory devices is an effect on their conductances (``device.effects.flicker``).
        """
        return None

    @abstractmethod
    def lines(self, name: str, first: str, second: str, resistance: str) -> list[str]:
        """The cell in a netlist, in words that every dialect knows.

        Args:
            name: Unique among the elements and inner nodes of its sub-circuit.
            first: Node of the input line.
            second: Node of the I± line.
            resistance: Ω, of the memory device at small voltages.
        """

    def part(self, transistors: str) -> Part | None:
        """What :meth:`lines` call, with transistors as the netlist has them; None: nothing.

        Args:
            transistors: See :class:`~imac_torch.netlist.writer.NetlistWriter`.
        """
        return None

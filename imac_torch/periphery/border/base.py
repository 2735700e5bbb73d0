"""What a driver and a converter must answer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from imac_torch.config import Converter, Driver
from imac_torch.config.kinds import CONVERTER_KINDS, DRIVER_KINDS
from imac_torch.periphery.border.grid import Grid, straight_through


@dataclass(frozen=True)
class DriverKind(ABC):
    """What puts inputs on lines: in one or several passes, whose results are added with weights.

    Inputs are relative to full scale, which is a line at vdd. The circuit between driver and
    converter must be linear where there are several passes.

    Attributes:
        settings: The section ``driver`` of the configuration.
    """

    settings: Driver

    kind: ClassVar[str]
    """Name in the configuration."""
    reads: ClassVar[frozenset[str]] = frozenset({"bits", "sign", "line_energy", "unit_area"})
    """Fields of the section that have an effect."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Levels of the magnitude besides 0; full scale is the last."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Of every pass in the result: Σ weight·pass is the input as it is driven."""
        parts = (1.0, -1.0) if self.settings.sign == "two_pass" else (1.0,)
        return tuple(part * weight for part in parts for weight in self.part_weights)

    @property
    def part_weights(self) -> tuple[float, ...]:
        """Of the passes of one sign."""
        return (1.0,)

    def passes(self, inputs: Tensor) -> Iterator[Tensor]:
        """What is on the lines in every pass.

        Args:
            inputs: (…) relative to full scale, in [-1, 1].

        Yields:
            (…) likewise, one per weight; gradients pass straight through the rounding.
        """
        signs = (1.0, -1.0) if self.settings.sign == "two_pass" else (None,)
        for sign in signs:
            part = inputs if sign is None else (sign * inputs).clamp(0.0, 1.0)
            yield from self.part_passes(part)

    @abstractmethod
    def part_passes(self, inputs: Tensor) -> Iterator[Tensor]:
        """The passes of inputs of one sign, or of both on bipolar lines."""

    def rounded(self, inputs: Tensor) -> Tensor:
        """Inputs as they are driven, all passes together; see :meth:`passes`."""
        inside = inputs.clamp(-1.0, 1.0)
        return straight_through(inside, (self.steps * inside.detach()).round() / self.steps)

    @property
    @abstractmethod
    def energy(self) -> float:
        """J per line and input, all passes."""

    @property
    @abstractmethod
    def area(self) -> float:
        """m² per line."""

    @property
    def magnitude_bits(self) -> int:
        """Bits of the magnitude: bipolar lines take one for the sign."""
        return self.settings.bits - (self.settings.sign == "bipolar")


@dataclass(frozen=True)
class ConverterKind(ABC):
    """What turns voltages into numbers.

    Attributes:
        settings: The section ``converter`` of the configuration.
    """

    settings: Converter

    kind: ClassVar[str]
    """Name in the configuration."""
    reads: ClassVar[frozenset[str]] = frozenset(
        {
            "bits", "shared_by", "range", "coverage", "limits", "clock", "schreier",
            "hold_energy", "hold_area", "add_energy", "add_area",
        }
    )  # fmt: skip
    """Fields of the section that have an effect."""

    def grid(self, low: float, high: float) -> Grid:
        """The levels of the range from ``low`` to ``high``, V."""
        return Grid.over(low, high, self.settings.bits)

    @property
    @abstractmethod
    def comparisons(self) -> int:
        """One after the other, per conversion."""

    @property
    @abstractmethod
    def circuit_energy(self) -> float:
        """J per conversion that the circuits take, noise not considered."""

    @abstractmethod
    def circuit_area(self, converters: int) -> float:
        """m² of the converters of one array, adders and what holds outputs left out."""

    @property
    def least_energy(self) -> float:
        """J per conversion that noise asks for.

        Schreier's figure is SNDR + 10·log10(BW/P) with SNDR = 6.02·bits + 1.76 dB and, at the
        Nyquist rate, BW·conversion = 1/2.
        """
        sndr = 20.0 * self.settings.bits * math.log10(2.0) + 10.0 * math.log10(1.5)
        return float(0.5 * 10.0 ** ((sndr - self.settings.schreier) / 10.0))

    @property
    def energy(self) -> float:
        """J per conversion."""
        return max(self.circuit_energy, self.least_energy)

    @property
    def time(self) -> float:
        """S per conversion."""
        return self.comparisons / self.settings.clock

    def area(self, outputs: int, *, adds: bool) -> float:
        """m² at an array of so many outputs: converters, what holds outputs meanwhile, adders.

        Args:
            outputs: Of the array.
            adds: Whether results are added.
        """
        settings = self.settings
        count = -(-outputs // settings.shared_by)
        area = self.circuit_area(count)
        if settings.shared_by > 1:
            area += outputs * settings.hold_area
        return area + count * settings.add_area if adds else area


def driver_of(settings: Driver) -> DriverKind | None:
    """The driver that a configuration names; None: an ideal one."""
    kind = DRIVER_KINDS.get(settings.kind)
    return None if kind is None else kind(settings)


def converter_of(settings: Converter) -> ConverterKind | None:
    """The converter that a configuration names; None: an ideal one."""
    kind = CONVERTER_KINDS.get(settings.kind)
    return None if kind is None else kind(settings)


def register_driver(kind: type[DriverKind]) -> type[DriverKind]:
    """Add a kind of your own: ``Driver(kind=…)`` takes its name from now on, in this process.

    Raises:
        ConfigError: The name is no identifier, or one of the package's own.
    """
    DRIVER_KINDS.register(kind.kind, kind)
    return kind


def register_converter(kind: type[ConverterKind]) -> type[ConverterKind]:
    """Add a kind of your own: ``Converter(kind=…)`` takes its name from now on, in this process.

    Raises:
        ConfigError: The name is no identifier, or one of the package's own.
    """
    CONVERTER_KINDS.register(kind.kind, kind)
    return kind

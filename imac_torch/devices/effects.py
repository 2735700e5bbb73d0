"""What real memory devices do to the conductances they are asked for.

A device model is a sequence of effects. Some happen once, when cells are programmed (spread,
faults, programming error), others anew in every read cycle (read noise), others with time or
temperature. An effect is any object with ``cycle`` (bool) and ``apply``; your own takes ten lines::

    @dataclass(frozen=True)
    class Shrink:
        factor: float
        cycle: bool = False

        def apply(self, conductance, window, generator):
            return conductance * self.factor

    devices = DeviceModel((Shrink(0.9), LogNormal(0.05)))

All randomness comes from the generator given, on the CPU, so that a seed means the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from imac_torch.config import Memristor
from imac_torch.errors import ConfigError
from imac_torch.mapping.quantization import ConductancePair

BOLTZMANN: Final = 8.617333262e-5
"""Boltzmann constant, eV/K (CODATA 2018)."""


@dataclass(frozen=True)
class Window:
    """Conductances of the two end states, S."""

    low: float
    high: float

    @classmethod
    def of(cls, device: Memristor) -> Window:
        """The window of a configured device."""
        return cls(1.0 / device.rhigh, 1.0 / device.rlow)


class Effect(Protocol):
    """One thing that happens to conductances."""

    @property
    def cycle(self) -> bool:
        """Whether it happens anew in every read cycle (else once, at programming)."""
        ...

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """Conductances (any shape, S) to conductances of the same shape; 0 is an open cell."""
        ...


def draw_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers (float64) of the shape and on the device of ``like``."""
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(like.device)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(like.device)


def _check(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value < high:
        raise ConfigError(f"{name} = {value} must be in [{low:g}, {high:g})")


@dataclass(frozen=True)
class Uniform:
    """Resistances spread uniformly: R·(1 ± spread), IMAC-Sim's ``weight_var``."""

    spread: float
    cycle: bool = False

    def __post_init__(self) -> None:
        """Check the spread."""
        _check("spread", self.spread, 0.0, 1.0)

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        factor = 1.0 + self.spread * (2.0 * _uniform(conductance, generator) - 1.0)
        return conductance / factor


@dataclass(frozen=True)
class Gaussian:
    """Conductances spread normally, cut off at 0.

    Attributes:
        sigma: Standard deviation relative to the cell's conductance, or, with ``of_window``, to
            that of the low-resistance state.
        of_window: What sigma is relative to.
        cycle: Whether it is drawn anew in every cycle.
    """

    sigma: float
    of_window: bool = False
    cycle: bool = False

    def __post_init__(self) -> None:
        """Check sigma."""
        _check("sigma", self.sigma, 0.0)

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        unit = window.high if self.of_window else conductance
        noise = self.sigma * unit * draw_normal(conductance, generator)
        return torch.where(conductance > 0.0, (conductance + noise).clamp(min=0.0), conductance)


@dataclass(frozen=True)
class LogNormal:
    """Resistances spread log-normally: R·exp(σ·N(0, 1)); the median stays."""

    sigma: float
    cycle: bool = False

    def __post_init__(self) -> None:
        """Check sigma."""
        _check("sigma", self.sigma, 0.0)

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        return conductance * torch.exp(self.sigma * draw_normal(conductance, generator))


@dataclass(frozen=True)
class StateSpread:
    """Log-normal spread that differs between the end states.

    The standard deviation of ln R is interpolated linearly in ln g between the states.

    Attributes:
        sigma_low_resistance: Of ln R in the low-resistance state.
        sigma_high_resistance: Of ln R in the high-resistance state.
        cycle: Whether it is drawn anew in every cycle.
    """

    sigma_low_resistance: float
    sigma_high_resistance: float
    cycle: bool = False

    def __post_init__(self) -> None:
        """Check both."""
        _check("sigma_low_resistance", self.sigma_low_resistance, 0.0)
        _check("sigma_high_resistance", self.sigma_high_resistance, 0.0)

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        position = _position(conductance, window)
        sigma = self.sigma_high_resistance + position * (
            self.sigma_low_resistance - self.sigma_high_resistance
        )
        return conductance * torch.exp(sigma * draw_normal(conductance, generator))


def _position(conductance: Tensor, window: Window) -> Tensor:
    """0 in the high-, 1 in the low-resistance state, logarithmic between."""
    inside = conductance.clamp(window.low, window.high)
    return torch.log(inside / window.low) / math.log(window.high / window.low)


@dataclass(frozen=True)
class Stuck:
    """Faulty cells at given rates: stuck at rlow ("on"), at rhigh ("off"), or open.

    Attributes:
        on: Share of cells stuck in the low-resistance state.
        off: Share stuck in the high-resistance state.
        open: Share that do not conduct at all.
    """

    on: float = 0.0
    off: float = 0.0
    open: float = 0.0

    def __post_init__(self) -> None:
        """Check the rates."""
        for name in ("on", "off", "open"):
            _check(f"rate of {name}", getattr(self, name), 0.0, 1.0 + 1e-12)
        if self.on + self.off + self.open > 1.0:
            raise ConfigError(f"{self}: more than all cells are faulty")

    @property
    def cycle(self) -> bool:
        """Faults are permanent."""
        return False

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        # Where there is no cell none is faulty.
        draw = _uniform(conductance, generator).masked_fill(conductance == 0.0, 2.0)
        result = torch.where(draw < self.on, window.high, conductance)
        off = (draw >= self.on) & (draw < self.on + self.off)
        result = torch.where(off, window.low, result)
        missing = (draw >= self.on + self.off) & (draw < self.on + self.off + self.open)
        return torch.where(missing, 0.0, result)


@dataclass(frozen=True)
class Levels:
    """Programming to a limited number of equally spaced conductances, with an error.

    Attributes:
        count: States from the high- to the low-resistance one.
        sigma: Standard deviation of the programmed conductance in steps between states.
    """

    count: int
    sigma: float = 0.0

    def __post_init__(self) -> None:
        """Check both."""
        if self.count < 2:
            raise ConfigError(f"count = {self.count}: at least 2 states are needed")
        _check("sigma", self.sigma, 0.0)

    @property
    def cycle(self) -> bool:
        """Programming happens once."""
        return False

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        step = (window.high - window.low) / (self.count - 1)
        position = (conductance - window.low) / step
        index = position.round().clamp(0, self.count - 1)
        index = index + (position - position.detach())  # gradients pass straight through
        programmed = window.low + step * (index + self.sigma * draw_normal(conductance, generator))
        return torch.where(conductance > 0.0, programmed.clamp(min=0.0), conductance)


@dataclass(frozen=True)
class ReadNoise:
    """Normal fluctuation of the conductance in every read (of every image), relative to it."""

    sigma: float

    def __post_init__(self) -> None:
        """Check sigma."""
        _check("sigma", self.sigma, 0.0)

    @property
    def cycle(self) -> bool:
        """It is there in every cycle."""
        return True

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        factor = 1.0 + self.sigma * draw_normal(conductance, generator)
        return (conductance * factor).clamp(min=0.0)


@dataclass(frozen=True)
class Drift:
    """Structural relaxation: g(t) = g(t0)·(t/t0)^-ν with ν spread from cell to cell.

    The power law of phase-change memories; M. Le Gallo and A. Sebastian, "An overview of
    phase-change memory device physics", J. Phys. D: Appl. Phys. 53, 213002 (2020),
    doi:10.1088/1361-6463/ab7794.

    Attributes:
        time: Since programming, s.
        exponent: Mean of ν.
        spread: Standard deviation of ν.
        reference: t0, s.
    """

    time: float
    exponent: float
    spread: float = 0.0
    reference: float = 1.0

    def __post_init__(self) -> None:
        """Check all."""
        for name in ("exponent", "spread"):
            _check(name, getattr(self, name), 0.0)
        if not 0.0 < self.reference <= self.time < math.inf:
            raise ConfigError(f"time = {self.time} s must be at least {self.reference} s")

    @property
    def cycle(self) -> bool:
        """The exponent belongs to the cell."""
        return False

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        exponent = self.exponent + self.spread * draw_normal(conductance, generator)
        return conductance * torch.exp(-exponent * math.log(self.time / self.reference))


@dataclass(frozen=True)
class Temperature:
    """Linear temperature coefficient of resistance: R·(1 + α·(T - T0)).

    Attributes:
        temperature: K.
        coefficient: α, 1/K; positive for metallic filaments, negative where conduction is
            activated.
        reference: T0, K.
    """

    temperature: float
    coefficient: float
    reference: float = 298.15

    @property
    def cycle(self) -> bool:
        """No randomness at all."""
        return False

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`.

        Raises:
            ConfigError: The resistance would not be positive.
        """
        factor = 1.0 + self.coefficient * (self.temperature - self.reference)
        if factor <= 0.0:
            raise ConfigError(f"{self}: the resistance would be {factor} times nominal")
        return conductance / factor


@dataclass(frozen=True)
class Activated:
    """Thermally activated conduction of the high-resistance state.

    g(T) = g(T0)·exp(-(Ea/k)·(1/T - 1/T0)), with Ea falling linearly in ln g to zero in the
    low-resistance state.

    Attributes:
        temperature: K.
        energy: Ea of the high-resistance state, eV.
        reference: T0, K.
    """

    temperature: float
    energy: float
    reference: float = 298.15

    @property
    def cycle(self) -> bool:
        """No randomness at all."""
        return False

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        energy = self.energy * (1.0 - _position(conductance, window))
        inverse = 1.0 / self.temperature - 1.0 / self.reference
        return conductance * torch.exp(-energy / BOLTZMANN * inverse)


@dataclass(frozen=True)
class FaultMap:
    """Known faulty cells of one layer.

    Attributes:
        cells: (2, M, N+1) int8: plane 0 is the positive, plane 1 the negative side; 0 is a good
            cell, 1 stuck at rlow, 2 stuck at rhigh, 3 open.
    """

    cells: Tensor

    def apply(self, pair: ConductancePair, window: Window) -> ConductancePair:
        """Conductances (..., M, N+1) with the faults in.

        Raises:
            ConfigError: The map has another shape or unknown codes.
        """
        if tuple(self.cells.shape) != (2, *pair.positive.shape[-2:]):
            raise ConfigError(
                f"the fault map is {tuple(self.cells.shape)}, the layer needs "
                f"{(2, *pair.positive.shape[-2:])}"
            )
        if bool(((self.cells < 0) | (self.cells > 3)).any()):
            raise ConfigError("fault codes are 0 (good), 1 (rlow), 2 (rhigh) and 3 (open)")
        sides = []
        for side, codes in zip((pair.positive, pair.negative), self.cells, strict=True):
            codes = codes.to(side.device)
            result = torch.where(codes == 1, window.high, side)
            result = torch.where(codes == 2, window.low, result)
            sides.append(torch.where(codes == 3, 0.0, result))
        return ConductancePair(*sides)


@dataclass(frozen=True)
class DeviceModel:
    """What becomes of nominal conductances: effects in order.

    Attributes:
        effects: Applied one after the other, those at programming before those of each cycle.
    """

    effects: Sequence[Effect] = ()

    @property
    def varies_by_cycle(self) -> bool:
        """Whether two read cycles of the same cells differ."""
        return any(effect.cycle for effect in self.effects)

    def program(
        self, pair: ConductancePair, device: Memristor, generator: torch.Generator
    ) -> ConductancePair:
        """Conductances (..., M, N+1) after programming, as they stay from cycle to cycle."""
        return self._apply(pair, device, generator, cycle=False)

    def read(
        self, pair: ConductancePair, device: Memristor, generator: torch.Generator
    ) -> ConductancePair:
        """Conductances (..., M, N+1) in one read cycle of programmed cells."""
        return self._apply(pair, device, generator, cycle=True)

    def sample(
        self, pair: ConductancePair, device: Memristor, generator: torch.Generator
    ) -> ConductancePair:
        """Programmed and read once."""
        return self.read(self.program(pair, device, generator), device, generator)

    def _apply(
        self, pair: ConductancePair, device: Memristor, generator: torch.Generator, *, cycle: bool
    ) -> ConductancePair:
        window = Window.of(device)
        sides = [pair.positive, pair.negative]
        for effect in self.effects:
            if effect.cycle == cycle:
                sides = [effect.apply(side, window, generator) for side in sides]
        return ConductancePair(*sides)


@dataclass(frozen=True)
class DeviceSample:
    """One draw of a device model, which can be had again and again.

    Attributes:
        model: What happens to the devices.
        seed: Of the draw, from 0.
    """

    model: DeviceModel
    seed: int

    def of(self, pair: ConductancePair, device: Memristor) -> ConductancePair:
        """What becomes of conductances (..., M, N+1); differentiable as its effects are."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.model.sample(pair, device, generator)

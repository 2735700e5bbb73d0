"""Built-in effects, and cells that are known one by one.

All randomness comes from the generator given, on the CPU, so that a seed means the same everywhere.
What an effect must answer is :class:`Effect` in :mod:`imac_torch.devices.model`; their names in
configurations are in :mod:`imac_torch.config.kinds`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Final

import numpy as np
import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN_EV
from imac_torch.config.quantity import AGE, ENERGY, FRACTION, TEMPERATURE, Quantity
from imac_torch.devices.model import Effect, PairEffect, Window, draw_normal, with_noise
from imac_torch.errors import ConfigError
from imac_torch.mapping.quantization import ConductancePair

_BAND: Final = Quantity("Hz", (1e-9, 1e12), 1e16)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(like.device)


def _check(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value < high:
        raise ConfigError(f"{name} = {value} must be in [{low:g}, {high:g})")


@dataclass(frozen=True)
class Uniform:
    """Resistances spread uniformly: R·(1 ± spread), IMAC-Sim's ``weight_var``."""

    spread: Annotated[float, FRACTION]
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

    sigma: Annotated[float, FRACTION]
    of_window: bool = False
    cycle: bool = False

    def __post_init__(self) -> None:
        """Check sigma."""
        _check("sigma", self.sigma, 0.0)

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        unit = window.high if self.of_window else conductance
        return with_noise(conductance, self.sigma * unit * draw_normal(conductance, generator))


@dataclass(frozen=True)
class LogNormal:
    """Resistances spread log-normally: R·exp(σ·N(0, 1)); the median stays."""

    sigma: Annotated[float, FRACTION]
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

    sigma_low_resistance: Annotated[float, FRACTION]
    sigma_high_resistance: Annotated[float, FRACTION]
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
class Stuck(Effect):
    """Faulty cells at given rates: stuck at rlow ("on"), at rhigh ("off"), or open.

    Attributes:
        on: Share of cells stuck in the low-resistance state.
        off: Share stuck in the high-resistance state.
        open: Share that do not conduct at all.
    """

    on: Annotated[float, FRACTION] = 0.0
    off: Annotated[float, FRACTION] = 0.0
    open: Annotated[float, FRACTION] = 0.0

    def __post_init__(self) -> None:
        """Check the rates."""
        for name in ("on", "off", "open"):
            _check(f"rate of {name}", getattr(self, name), 0.0, 1.0 + 1e-12)
        if self.on + self.off + self.open > 1.0:
            raise ConfigError(f"{self}: more than all cells are faulty")

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
class Levels(Effect):
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

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        step = (window.high - window.low) / (self.count - 1)
        position = (conductance - window.low) / step
        index = position.round().clamp(0, self.count - 1)
        index = index + (position - position.detach())  # gradients pass straight through
        programmed = window.low + step * (index + self.sigma * draw_normal(conductance, generator))
        return torch.where(conductance > 0.0, programmed.clamp(min=0.0), conductance)


@dataclass(frozen=True)
class ReadNoise(Effect):
    """Normal fluctuation of the conductance in every read (of every image), relative to it."""

    sigma: Annotated[float, FRACTION]

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
class Flicker(Effect):
    """1/f noise in every read: a conductance fluctuates with the density S_g/g² = K/f.

    Between two frequencies that is a variance of K·ln(f₂/f₁) (F. N. Hooge, "1/f noise is no surface
    effect", Phys. Lett. A 29, 139-140, 1969: K = α/N of N carriers). The lowest frequency is the
    inverse of the time since devices were last looked at, the highest what a read does not average
    any more, half of the inverse of its length.

    Attributes:
        strength: K.
        lowest: f₁, Hz.
        highest: f₂, Hz.
    """

    strength: float
    lowest: Annotated[float, _BAND] = 1.0
    highest: Annotated[float, _BAND] = 1e9

    def __post_init__(self) -> None:
        """Check all."""
        _check("strength", self.strength, 0.0)
        if not 0.0 < self.lowest < self.highest < math.inf:
            raise ConfigError(f"lowest = {self.lowest} Hz must be above 0 and below highest")

    @property
    def cycle(self) -> bool:
        """It is there in every cycle."""
        return True

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        sigma = math.sqrt(self.strength * math.log(self.highest / self.lowest))
        return with_noise(conductance, sigma * conductance * draw_normal(conductance, generator))


@dataclass(frozen=True)
class Telegraph(Effect):
    """Random telegraph noise: a trap beside the filament raises the resistance while it is filled.

    Which cells have a trap stays from read to read. A read sees a trap filled with the probability
    τ_e/(τ_c + τ_e) of its times of capture and emission (S. Machlup, "Noise in semiconductors:
    spectrum of a two-parameter random signal", J. Appl. Phys. 25, 341-343, 1954), independently of
    other reads: reads are shorter than these times and farther apart. How much a trap depletes
    depends on the filament (S. Ambrogio et al., "Understanding switching variability and random
    telegraph noise in resistive RAM", IEDM 2013), so that there is no amplitude for all devices.

    Attributes:
        amplitude: ΔR/R of a filled trap.
        cells: Share of cells that have one.
        filled: Probability that it is filled.
    """

    amplitude: Annotated[float, FRACTION]
    cells: Annotated[float, FRACTION] = 1.0
    filled: Annotated[float, FRACTION] = 0.5

    def __post_init__(self) -> None:
        """Check all."""
        _check("amplitude", self.amplitude, 0.0)
        _check("cells", self.cells, 0.0, 1.0 + 1e-12)
        _check("filled", self.filled, 0.0, 1.0 + 1e-12)

    @property
    def cycle(self) -> bool:
        """It is there in every cycle."""
        return True

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`, of a read that stands alone."""
        return self.apply_to_cells(conductance, window, generator, generator)

    def apply_to_cells(
        self,
        conductance: Tensor,
        window: Window,
        generator: torch.Generator,
        cells: torch.Generator,
    ) -> Tensor:
        """See :class:`imac_torch.devices.model.CellEffect`."""
        trapped = _uniform(conductance, cells) < self.cells
        filled = _uniform(conductance, generator) < self.filled
        return torch.where(trapped & filled, conductance / (1.0 + self.amplitude), conductance)


@dataclass(frozen=True)
class Drift(Effect):
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

    time: Annotated[float, AGE]
    exponent: float
    spread: float = 0.0
    reference: Annotated[float, AGE] = 1.0

    def __post_init__(self) -> None:
        """Check all."""
        for name in ("exponent", "spread"):
            _check(name, getattr(self, name), 0.0)
        if not 0.0 < self.reference <= self.time < math.inf:
            raise ConfigError(f"time = {self.time} s must be at least {self.reference} s")

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        exponent = self.exponent + self.spread * draw_normal(conductance, generator)
        return conductance * torch.exp(-exponent * math.log(self.time / self.reference))


@dataclass(frozen=True)
class Temperature(Effect):
    """Linear temperature coefficient of resistance: R·(1 + α·(T - T0)).

    Attributes:
        temperature: K.
        coefficient: α, 1/K; positive for metallic filaments, negative where conduction is
            activated.
        reference: T0, K.
    """

    temperature: Annotated[float, TEMPERATURE]
    coefficient: float
    reference: Annotated[float, TEMPERATURE] = 298.15

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
class Activated(Effect):
    """Thermally activated conduction of the high-resistance state.

    g(T) = g(T0)·exp(-(Ea/k)·(1/T - 1/T0)), with Ea falling linearly in ln g to zero in the
    low-resistance state.

    Attributes:
        temperature: K.
        energy: Ea of the high-resistance state, eV.
        reference: T0, K.
    """

    temperature: Annotated[float, TEMPERATURE]
    energy: Annotated[float, ENERGY]
    reference: Annotated[float, TEMPERATURE] = 298.15

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`."""
        energy = self.energy * (1.0 - _position(conductance, window))
        inverse = 1.0 / self.temperature - 1.0 / self.reference
        return conductance * torch.exp(-energy / BOLTZMANN_EV * inverse)


@dataclass(frozen=True, eq=False)
class FaultMap(PairEffect):
    """Known faulty cells of one layer.

    Attributes:
        cells: (2, M·L, N+1) int8: plane 0 is the positive, plane 1 the negative side; 0 is a good
            cell, 1 stuck at rlow, 2 stuck at rhigh, 3 open. None: they are in the file.
        file: A ``.npy`` file of such an array, which numpy's ``save`` writes.
    """

    cells: Tensor | None = None
    file: str = ""

    def __post_init__(self) -> None:
        """Check that there is one of both."""
        if self.cells is None and not self.file:
            raise ConfigError("a fault map needs its cells, or a file that holds them")

    def opened(self) -> FaultMap:
        """The same with the cells that are in the file.

        Raises:
            ConfigError: There are no cells, or the file does not hold such an array.
        """
        if self.cells is not None:
            return self
        try:
            codes = np.load(self.file, allow_pickle=False)
            return replace(self, cells=torch.from_numpy(codes.astype(np.int8, casting="same_kind")))
        except (OSError, ValueError, TypeError, EOFError, AttributeError) as error:
            raise ConfigError(
                f"fault_map.file = {self.file!r}: {error}; write the (2, M, N+1) codes with "
                "numpy.save"
            ) from None

    def apply_pair(
        self, pair: ConductancePair, window: Window, generator: torch.Generator
    ) -> ConductancePair:
        """See :class:`PairEffect`.

        Raises:
            ConfigError: The map has another shape or unknown codes.
        """
        cells = self.opened().cells
        shape = (2, *pair.positive.shape[-2:])
        if cells is None or tuple(cells.shape) != shape:
            found = None if cells is None else tuple(cells.shape)
            raise ConfigError(f"the fault map is {found}, the layer needs {shape}")
        if bool(((cells < 0) | (cells > 3)).any()):
            raise ConfigError("fault codes are 0 (good), 1 (rlow), 2 (rhigh) and 3 (open)")
        sides = []
        for side, codes in zip((pair.positive, pair.negative), cells, strict=True):
            codes = codes.to(side.device)
            result = torch.where(codes == 1, window.high, side)
            result = torch.where(codes == 2, window.low, result)
            sides.append(torch.where(codes == 3, 0.0, result))
        return ConductancePair(*sides)


@dataclass(frozen=True, eq=False)
class Factors(PairEffect):
    """Cells known one by one, as multiples of what they should be; measured, for example.

    Attributes:
        positive: (M·L, N+1) float64.
        negative: Likewise.
    """

    positive: Tensor
    negative: Tensor

    @classmethod
    def between(cls, nominal: ConductancePair, found: ConductancePair) -> Factors:
        """What makes one pair of the other; 1 where there is no cell."""
        sides = ((nominal.positive, found.positive), (nominal.negative, found.negative))
        return cls(*(torch.where(n > 0.0, f / n, torch.ones_like(f)) for n, f in sides))

    def apply_pair(
        self, pair: ConductancePair, window: Window, generator: torch.Generator
    ) -> ConductancePair:
        """See :class:`PairEffect`.

        Raises:
            ConfigError: They are for a layer of another shape.
        """
        if self.positive.shape != pair.positive.shape[-2:]:
            raise ConfigError(
                f"the devices known are {tuple(self.positive.shape)}, the layer's are "
                f"{tuple(pair.positive.shape[-2:])}"
            )
        return ConductancePair(
            pair.positive * self.positive.to(pair.positive.device),
            pair.negative * self.negative.to(pair.negative.device),
        )

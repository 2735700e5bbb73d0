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
    register_effect("shrink", Shrink)  # and configurations and saved networks know it

Conversion, training (:func:`imac_torch.varied`) and :class:`imac_torch.MonteCarlo` all come here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.config import Memristor
from imac_torch.config.kinds import DEVICE_EFFECTS
from imac_torch.config.named import build_named
from imac_torch.mapping.quantization import ConductancePair

READ_MULTIPLIER: Final = 0xDA942042E4DD58B5
"""Odd and without a pattern in common with other multipliers: reads do not share their seeds."""


CELLS: Final = -1
"""In the place of a read's number: of what stays of cells from read to read."""


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
        return False

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """Conductances (any shape, S) to conductances of the same shape; 0 is an open cell."""
        ...


@runtime_checkable
class PairEffect(Protocol):
    """An effect that has to know which side of a pair it is about."""

    @property
    def cycle(self) -> bool:
        """See :class:`Effect`."""
        return False

    def apply_pair(
        self, pair: ConductancePair, window: Window, generator: torch.Generator
    ) -> ConductancePair:
        """Pairs (..., M·L, N+1) S to pairs of the same shape."""
        ...


@runtime_checkable
class CellEffect(Protocol):
    """An effect of every read that needs something of each cell which stays from read to read."""

    @property
    def cycle(self) -> bool:
        """See :class:`Effect`."""
        return True

    def apply_to_cells(
        self,
        conductance: Tensor,
        window: Window,
        generator: torch.Generator,
        cells: torch.Generator,
    ) -> Tensor:
        """See :class:`Effect`; ``cells`` gives the same in every read."""
        ...


@runtime_checkable
class ReferenceEffect(Protocol):
    """An effect that knows what the devices should be."""

    @property
    def cycle(self) -> bool:
        """See :class:`Effect`."""
        return False

    def restore(self, before: ConductancePair, pair: ConductancePair) -> ConductancePair:
        """Pairs (..., M·L, N+1) S to pairs of the same shape.

        Args:
            before: As programming left them (``programs``), or was asked for them; as a read began.
            pair: As the effects before this one have left them.
        """
        ...


def with_noise(conductance: Tensor, noise: Tensor) -> Tensor:
    """Conductances with noise on them, cut off at 0; open cells stay open."""
    return torch.where(conductance > 0.0, (conductance + noise).clamp(min=0.0), conductance)


def draw_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers (float64) of the shape and on the device of ``like``."""
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(like.device)


@dataclass(frozen=True)
class DeviceModel:
    """What becomes of nominal conductances: effects in order.

    Attributes:
        effects: Applied one after the other, those at programming before those of each cycle.
    """

    effects: Sequence[Effect | PairEffect | ReferenceEffect] = ()

    @classmethod
    def of(cls, device: Memristor) -> DeviceModel:
        """The effects of a configured device: its variation, then the others in order.

        Raises:
            ConfigError: A file that one names cannot be read.
        """
        settings = list((device.effects or {}).items())
        if device.variation > 0.0:
            settings.insert(0, ("uniform", {"kind": "uniform", "spread": device.variation}))
        made = [build_named(DEVICE_EFFECTS, *item) for item in settings]
        return cls(tuple(item.opened() if hasattr(item, "opened") else item for item in made))

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
        self,
        pair: ConductancePair,
        device: Memristor,
        generator: torch.Generator,
        cells: torch.Generator | None = None,
    ) -> ConductancePair:
        """Conductances (..., M, N+1) in one read cycle of programmed cells.

        Args:
            pair: As programmed.
            device: Of the configuration.
            generator: Of the read.
            cells: Of what stays of cells from read to read (:class:`CellEffect`); None: the same
                generator, for a read that stands alone.
        """
        return self._apply(pair, device, generator, cells, cycle=True)

    def sample(
        self, pair: ConductancePair, device: Memristor, generator: torch.Generator
    ) -> ConductancePair:
        """Programmed and read once."""
        return self.read(self.program(pair, device, generator), device, generator)

    def _apply(
        self,
        pair: ConductancePair,
        device: Memristor,
        generator: torch.Generator,
        cells: torch.Generator | None = None,
        *,
        cycle: bool,
    ) -> ConductancePair:
        window, before = Window.of(device), pair
        for effect in self.effects:
            if effect.cycle != cycle:
                continue
            sides = (pair.positive, pair.negative)
            if isinstance(effect, ReferenceEffect):
                pair = effect.restore(before, pair)
            elif isinstance(effect, PairEffect):
                pair = effect.apply_pair(pair, window, generator)
            elif isinstance(effect, CellEffect):
                own = generator if cells is None else cells
                pair = ConductancePair(
                    *(effect.apply_to_cells(side, window, generator, own) for side in sides)
                )
            else:
                pair = ConductancePair(*(effect.apply(side, window, generator) for side in sides))
            if getattr(effect, "programs", False):
                before = pair  # what the first read finds
        return pair


def relative_spread(
    device: Memristor, pair: ConductancePair, rows: Tensor, shape: tuple[int, int]
) -> float:
    """Rms of what becomes of conductances besides a common factor, relative to theirs.

    Of spread without other effects exactly, else of one draw.

    Args:
        device: Of the configuration.
        pair: (m, N+1) S, of some rows.
        rows: (m,) int64, which.
        shape: Rows and columns of the whole layer.
    """
    if not device.effects:
        return device.variation / math.sqrt(3.0)
    model = DeviceModel.of(device)
    whole = any(isinstance(effect, PairEffect) for effect in model.effects)
    if whole:  # some know the cells of a layer one by one
        empty = pair.positive.new_zeros(shape)
        pair = ConductancePair(
            *(empty.index_copy(0, rows, side) for side in (pair.positive, pair.negative))
        )
    drawn = model.sample(pair, device, torch.Generator().manual_seed(0))
    sides = ((pair.positive, drawn.positive), (pair.negative, drawn.negative))
    parts = [[side[rows] if whole else side for side in both] for both in sides]
    before, after = (torch.cat(both).flatten() for both in zip(*parts, strict=True))
    power = before.square().sum()
    rest = after - before * (after @ before) / power
    return float((rest.square().sum() / power).sqrt())


@dataclass(frozen=True, eq=False)
class DeviceSample(Brief):
    """One draw of a device model, which can be had again and again, of any conductances.

    Attributes:
        model: What happens to the devices.
        start: (K,) uint8, state of the generator when programming begins.
        read: Likewise when the first read begins; None: it goes on where programming ended.
    """

    model: DeviceModel
    start: Tensor
    read: Tensor | None = None

    @classmethod
    def seeded(cls, model: DeviceModel, seed: int) -> DeviceSample:
        """The draw of a seed, from 0."""
        return cls(model, torch.Generator().manual_seed(seed).get_state())

    @classmethod
    def known(cls, *effects: Effect | PairEffect) -> DeviceSample:
        """Of effects that draw nothing: cells that are known one by one."""
        return cls.seeded(DeviceModel(effects), 0)

    def of(
        self, pair: ConductancePair, device: Memristor, read: int | None = 0
    ) -> ConductancePair:
        """What becomes of conductances (..., M, N+1); differentiable as its effects are.

        Args:
            pair: As they should be.
            device: Of the configuration.
            read: From 0; None: programmed and not read.
        """
        generator = torch.Generator()
        generator.set_state(self.start)
        programmed = self.model.program(pair, device, generator)
        if read is None:
            return programmed
        begin = generator.get_state() if self.read is None else self.read
        return self.model.read(programmed, device, reader(begin, read), reader(begin, CELLS))


def reader(first: Tensor, read: int) -> torch.Generator:
    """The generator of a read.

    Args:
        first: (K,) uint8, state of the generator when the first read begins.
        read: From 0, or :data:`CELLS`.
    """
    generator = torch.Generator()
    generator.set_state(first)
    if read:
        seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        generator.manual_seed((seed + read * READ_MULTIPLIER) % 2**63)
    return generator

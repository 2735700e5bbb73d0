"""Programming by pulses with verification: what it leaves, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.base.shown import Table
from imac_torch.base.units import quantity
from imac_torch.config import Memristor
from imac_torch.config.quantity import FRACTION, TIME, VOLTAGE
from imac_torch.devices.model import (
    DeviceModel,
    DeviceSample,
    Effect,
    Window,
    draw_normal,
)
from imac_torch.errors import ConfigError
from imac_torch.mapping.quantization import ConductancePair

__all__ = ["Programming", "WriteVerify", "Written", "programming_of", "programming_tables"]

HEADINGS: Final = (
    "layer", "cells", "pulses", "most of a cell", "missed", "energy", "time by cells",
    "time by rows",
)  # fmt: skip
"""Of the table of what programming took."""


class Written(NamedTuple):
    """What pulses made of cells; all of one shape.

    Attributes:
        conductance: S.
        up: Pulses towards low resistance.
        down: Pulses towards high resistance.
        missed: Whether the last look still found the cell outside the tolerance.
        charge_up: S, conductances during pulses up, added: times V²·t the energy.
        charge_down: S, likewise.
    """

    conductance: Tensor
    up: Tensor
    down: Tensor
    missed: Tensor
    charge_up: Tensor
    charge_down: Tensor


@dataclass(frozen=True)
class WriteVerify(Effect):
    """Pulses until a look at the cell finds it near enough, from the high-resistance state on.

    With x from 0 to 1 between the end states, a pulse up makes Δx = (B - x)·(1 - exp(-c/P)) and one
    down Δx = -(B - 1 + x)·(1 - exp(-c/P)), B = 1/(1 - exp(-c)): P equal pulses lead from one end to
    the other, along an exponential of curvature c (P.-Y. Chen, X. Peng and S. Yu, "NeuroSim+: an
    integrated device-to-algorithm framework for benchmarking synaptic devices and array
    architectures", IEDM 2017, where c = P/A). Every pulse has its own error. How a device answers
    to pulses is its maker's to say: there are no values for all.

    Attributes:
        tolerance: Of the window between the end states, in conductance.
        pulses: P.
        curvature: c; 0: all pulses alike.
        spread: Standard deviation of a pulse's change, of the window.
        noise: Standard deviation of a look at the cell, relative to it.
        limit: Of pulses for one cell; what is not reached by then stays as it is.
        set_voltage: V, of pulses up; None: energies are not known.
        reset_voltage: V, of pulses down; None: that of pulses up.
        pulse: s; None: energies and times are not known.
        look: s, a verification.
    """

    programs: ClassVar[bool] = True

    tolerance: Annotated[float, FRACTION]
    pulses: int
    curvature: float = 0.0
    spread: Annotated[float, FRACTION] = 0.0
    noise: Annotated[float, FRACTION] = 0.0
    limit: int = 200
    set_voltage: Annotated[float | None, VOLTAGE] = None
    reset_voltage: Annotated[float | None, VOLTAGE] = None
    pulse: Annotated[float | None, TIME] = None
    look: Annotated[float, TIME] = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: One is not allowed.
        """
        for name in ("spread", "noise", "look", "curvature"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} = {getattr(self, name)} must be 0 or more")
        if not 0.0 < self.tolerance < 1.0:
            raise ConfigError(f"tolerance = {self.tolerance} must be between 0 and 1")
        if self.pulses < 1 or self.limit < 1:
            raise ConfigError(f"pulses = {self.pulses} and limit = {self.limit} are at least 1")
        if self.pulse is not None and self.pulse <= 0.0:
            raise ConfigError(f"pulse = {self.pulse} s must be positive")
        if self.spread == 0.0 and self.tolerance < 0.5 * self.largest:
            raise ConfigError(
                f"tolerance = {self.tolerance} of the window is never reached: pulses are "
                f"{self.largest:.3g} of it and all alike; take more of them, or give them a spread"
            )

    @property
    def largest(self) -> float:
        """The longest pulse, of the window."""
        return self._change(torch.zeros((), dtype=torch.float64, device="cpu")).item()

    def _change(self, position: Tensor) -> Tensor:
        """Of a pulse up from 0 to 1."""
        if self.curvature < 1e-9:
            return torch.full_like(position, 1.0 / self.pulses)
        reach = -1.0 / math.expm1(-self.curvature)
        return (reach - position) * -math.expm1(-self.curvature / self.pulses)

    def apply(self, conductance: Tensor, window: Window, generator: torch.Generator) -> Tensor:
        """See :class:`Effect`; gradients pass straight through."""
        found = self.write(conductance.detach(), window, generator).conductance
        return found + (conductance - conductance.detach())

    @torch.no_grad()
    def write(self, target: Tensor, window: Window, generator: torch.Generator) -> Written:
        """Program cells to conductances (any shape, S); 0 is no cell.

        The generator moves on by one number, however many pulses are needed: what is drawn after
        this, of other cells and layers too, does not depend on it.
        """
        own = torch.Generator()
        if self.spread > 0.0 or self.noise > 0.0:
            own.manual_seed(int(torch.randint(2**62, (), generator=generator, device="cpu")))
        span = window.high - window.low
        present = target > 0.0
        wanted = ((target - window.low) / span).clamp(0.0, 1.0)
        at = torch.zeros_like(target)
        up, down = (torch.zeros_like(target, dtype=torch.int64) for _ in range(2))
        charges = [torch.zeros_like(target) for _ in range(2)]
        missed = present.clone()
        for number in range(self.limit + 1):
            seen = at
            if self.noise > 0.0:
                sigma = self.noise * (at + window.low / span)
                seen = at + sigma * draw_normal(at, own)
            missed = missed & ((seen - wanted).abs() > self.tolerance)
            if number == self.limit or not bool(missed.any()):
                break
            rising = missed & (seen < wanted)
            falling = missed & ~rising
            change = torch.where(rising, self._change(at), -self._change(1.0 - at))
            if self.spread > 0.0:
                change = change + self.spread * draw_normal(at, own)
            now = window.low + span * at
            for count, charge, which in ((up, charges[0], rising), (down, charges[1], falling)):
                count += which
                charge += torch.where(which, now, 0.0)
            at = torch.where(missed, (at + change).clamp(0.0, 1.0), at)
        conductance = torch.where(present, window.low + span * at, target)
        return Written(conductance, up, down, missed, *charges)


@dataclass(frozen=True)
class Programming:
    """What it took to program a layer.

    Attributes:
        layer: Its name.
        cells: How many there are.
        pulses: All of them.
        largest: Those of the cell that took most.
        missed: Cells that were not within the tolerance after the last pulse.
        energy: J, in the cells; None: not known.
        time: s, one cell after the other; None: not known.
        time_by_rows: s, one row after the other, cells of a row at once; None: not known.
    """

    layer: str
    cells: int
    pulses: int
    largest: int
    missed: int
    energy: float | None
    time: float | None
    time_by_rows: float | None

    @classmethod
    def total(cls, written: Sequence[Programming]) -> Programming:
        """Of all layers, one after the other; what is not known of one is not known of all."""

        def added(values: list[float | None]) -> float | None:
            known = [value for value in values if value is not None]
            return math.fsum(known) if len(known) == len(values) else None

        return cls(
            "all layers",
            sum(item.cells for item in written),
            sum(item.pulses for item in written),
            max(item.largest for item in written),
            sum(item.missed for item in written),
            added([item.energy for item in written]),
            added([item.time for item in written]),
            added([item.time_by_rows for item in written]),
        )

    def row(self) -> tuple[str, ...]:
        """Cells of the table under :data:`HEADINGS`."""
        counts = (self.cells, self.pulses, self.largest, self.missed)
        taken = ((self.energy, "J"), (self.time, "s"), (self.time_by_rows, "s"))
        return (
            self.layer,
            *(f"{count:,}" for count in counts),
            *("–" if value is None else quantity(value, unit) for value, unit in taken),
        )

    @classmethod
    def of(cls, layer: str, effect: WriteVerify, sides: tuple[Written, Written]) -> Programming:
        """Of both sides of a layer, (M·L, N+1) each."""
        counts = torch.stack([side.up + side.down for side in sides])
        energy = time = by_rows = None
        if effect.pulse is not None:
            every = effect.pulse + effect.look
            total, looks = int(counts.sum()), int((sides[0].conductance > 0).sum())
            looks += int((sides[1].conductance > 0).sum())
            time = total * every + looks * effect.look  # the last look finds a cell good
            lines = torch.stack([(side.conductance > 0.0).any(-1) for side in sides])
            by_rows = float((counts.amax(-1) * every + lines * effect.look).sum())
            if effect.set_voltage is not None:
                back = effect.set_voltage if effect.reset_voltage is None else effect.reset_voltage
                squares = (effect.set_voltage**2, back**2)
                energy = effect.pulse * sum(
                    squares[0] * float(side.charge_up.sum())
                    + squares[1] * float(side.charge_down.sum())
                    for side in sides
                )
        return cls(
            layer,
            sum(int((side.conductance > 0.0).sum()) for side in sides),
            int(counts.sum()),
            int(counts.max()),
            sum(int(side.missed.sum()) for side in sides),
            energy,
            time,
            by_rows,
        )


def programming_tables(written: Sequence[Programming]) -> tuple[Table, ...]:
    """One, a row per layer and one of all of them; none where nothing is written by pulses."""
    if not written:
        return ()
    whole = () if len(written) == 1 else (Programming.total(written),)
    return (Table("programming", [item.row() for item in (*written, *whole)], HEADINGS),)


def programming_of(
    layer: str, samples: tuple[DeviceSample, ...], pair: ConductancePair, device: Memristor
) -> Programming | None:
    """What programming a layer took, drawn again as it was; None: it was not written by pulses.

    Args:
        layer: Its name.
        samples: What has become of its devices.
        pair: (M·L, N+1) S, as they should be.
        device: Of the configuration.
    """
    effects = [effect for sample in samples for effect in sample.model.effects]
    if not any(isinstance(effect, WriteVerify) for effect in effects):
        return None
    window = Window.of(device)
    for sample in samples:
        generator = torch.Generator()
        generator.set_state(sample.start)
        begun = pair
        for effect in sample.model.effects:
            if isinstance(effect, WriteVerify):
                positive = effect.write(pair.positive.detach(), window, generator)
                negative = effect.write(pair.negative.detach(), window, generator)
                return Programming.of(layer, effect, (positive, negative))
            pair = DeviceModel((effect,)).program(pair, device, generator)
        pair = sample.of(begun, device, None)
    return None

"""What a circuit sees of a cell that is no resistor: a conductance, at voltages it works at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.cells.build import build_cell, series_resistance
from imac_torch.config import Config, Memristor
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.numeric.modes import lasting

__all__ = ["Seen"]

NODES: Final = 257
"""Conductances between which the seen one is interpolated."""
VOLTAGES: Final = 16
"""That stand for those of all lines."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Conductances as they are programmed, and as lines at their voltages find them.

    Of all resistors the one with the least squared error of its current at voltages v is
    h(g) = Σ v·i(v; g)/Σ v², the I± line being at 0 V. Between nodes both are interpolated linearly,
    so that each is exactly the inverse of the other; beyond the end states they go on so.

    Attributes:
        device: A resistor with the end states that are seen.
        programmed: (K,) S, ascending.
        seen: (K,) S, ascending.
        step: S, between the states that can be programmed; None: all can.
    """

    device: Memristor
    programmed: Tensor
    seen: Tensor
    step: float | None = None

    @classmethod
    @lasting()
    def of(cls, config: Config, rms: Tensor) -> Seen | None:
        """Of the cells of a (per-layer) configuration; None: they are seen as they are.

        Cells whose input holds a gate are seen as they are, too.

        Args:
            config: Of the layer.
            rms: (C,) V, of the lines.
        """
        device = config.device
        if device.ohmic:
            return None
        ends = torch.tensor(
            [1.0 / device.rhigh, 1.0 / device.rlow], dtype=torch.float64, device="cpu"
        )
        first, last = ends.log().tolist()
        g = torch.linspace(first, last, NODES, dtype=torch.float64, device="cpu").exp()
        cell = build_cell(device, config)
        if cell is None:
            h = g / (1.0 + series_resistance(device) * g)
        elif cell.gated:
            return None
        else:
            ranked = rms.detach().cpu().double().sort().values
            which = torch.linspace(0, len(ranked) - 1, VOLTAGES, device="cpu").round()
            one = ranked[which.to(torch.int64)].clamp(min=1e-6)
            volts = torch.cat([one, -one]).expand(NODES, -1)
            current = cell.currents(
                g[:, None].expand_as(volts).contiguous(), volts.contiguous(),
                torch.zeros_like(volts) if cell.absolute else None,
            ).current  # fmt: skip
            h = (volts * current).sum(-1) / volts.square().sum(-1)
        found = device.replace(
            rlow=float(1.0 / h[-1]), rhigh=float(1.0 / h[0]), bend=None, cell=None, access=None
        )
        low, high = ends.tolist()
        step = None if device.states is None else (high - low) / (device.states - 1)
        return cls(found, g, h, step)

    def by_lines(self, pair: ConductancePair) -> ConductancePair:
        """Programmed conductances as lines see them."""
        return self._each(pair, self.programmed, self.seen)

    def to_program(self, pair: ConductancePair) -> ConductancePair:
        """What to program to be seen as wanted: a state of the device; open cells stay open."""
        found = self._each(pair, self.seen, self.programmed)
        if self.step is None:
            return found
        low, high, step = float(self.programmed[0]), float(self.programmed[-1]), self.step
        sides = []
        for side in (found.positive, found.negative):
            known = side.detach()
            state = (low + step * ((known - low) / step).round()).clamp(low, high)
            sides.append(side + torch.where(known > 0.0, state - known, 0.0))
        return ConductancePair(*sides)

    @staticmethod
    def _each(pair: ConductancePair, nodes: Tensor, values: Tensor) -> ConductancePair:
        sides = []
        for side in (pair.positive, pair.negative):
            x, y = nodes.to(side.device), values.to(side.device)
            index = torch.searchsorted(x, side.detach().contiguous(), right=True) - 1
            index = index.clamp(0, len(x) - 2)
            slope = (y[index + 1] - y[index]) / (x[index + 1] - x[index])
            found = (y[index] + slope * (side - x[index])).clamp(min=0.0)
            sides.append(torch.where(side > 0.0, found, side))
        return ConductancePair(*sides)

"""Crossbars of curved cells in time, where they hold no charge.

They follow the lines that drive them at once, so that a stage asks for the operating point at its
voltages. For the neurons in front they are the linear network that has the mean slopes of their
cells, and what they draw besides; the slopes are taken anew where turns become many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.dc.curved import CurvedLayer, solve_cells
from imac_torch.dc.newton import NewtonOptions
from imac_torch.dc.tangents import CurvedCells
from imac_torch.elimination.choice import eliminate
from imac_torch.elimination.ports import PortNetwork
from imac_torch.results.solution import Status
from imac_torch.transient.dynamics import SeriesModel
from imac_torch.transient.found import KEPT, FoundLines, Seen
from imac_torch.transient.lines import Ends, LineState

TOLERANCE: Final = 1e-6
"""V, of a Newton step, :class:`NewtonOptions`; sweeps stop at a thousandth. Errors of a step are
found as differences of solutions, and are 1e-6 V where 1e-4 V is asked for."""
MANY: Final = 4
"""Turns of neurons and cells behind which slopes are taken anew."""
SHARED: Final = 32
"""Images whose slopes stand for those of all."""


class _Known(NamedTuple):
    """What was found for (B, N) V that drive the lines; (B,) bool, where cells are known there."""

    voltages: Tensor
    seen: Seen
    inside: Tensor


class CurvedLines(FoundLines):
    """Crossbars of curved cells without charge."""

    accelerated = True

    def __init__(self, layer: CurvedLayer) -> None:
        self.layer, self.array = layer, layer.cells[0]
        self._options = NewtonOptions(tolerance=TOLERANCE)
        self._last: list[_Known] = []
        self._many = False
        self._linear(self.array.cells)

    def _linear(self, slopes: Tensor) -> None:
        """Stand for cells of (2, H, V, R, K) S."""
        ports = linear_ports(self.array, slopes)
        super().__init__(SeriesModel.static(ports), ports)

    @property
    def name(self) -> str:
        """For reports."""
        return "static, curved cells"

    @property
    def loads(self) -> bool:
        """See :class:`FoundLines`; gates draw nothing."""
        return not self.array.cell.gated

    def start(self, voltages: Tensor) -> LineState:
        """See :class:`Lines`: forget what was before, and take the slopes there."""
        self._last, self._many = [], False
        self._linear(self._slopes(voltages[:, :-1]))
        return super().start(voltages)

    def _known(self, voltages: Tensor) -> _Known:
        """What was found for (B, N) V; a step asks for the same many times."""
        for known in self._last:
            if torch.equal(known.voltages, voltages):
                return known
        self._last = [self._find(voltages), *self._last[: KEPT - 1]]
        return self._last[0]

    def seen(self, voltages: Tensor) -> Seen:
        """See :class:`FoundLines`."""
        return self._known(voltages).seen

    @property
    def limited(self) -> bool:
        """See :class:`FoundLines`."""
        return self.array.cell.limited

    def inside(self, voltages: Tensor) -> Tensor:
        """See :class:`FoundLines`."""
        return self._known(voltages).inside

    def _find(self, voltages: Tensor) -> _Known:
        solved = solve_cells(
            self.array, self.layer.vdd, self._options, _finite(voltages), keep=False
        )
        read_out = self.array.spec.read_out
        inside = solved.status == int(Status.CONVERGED)
        good = inside | (solved.status == int(Status.OUTSIDE))
        ends = Ends(*(
            torch.where(good[:, None, None], end, torch.nan)
            for end in (solved.positive_end, solved.negative_end)
        ))  # fmt: skip
        combined = read_out.combination.of_partitions(ends.output(read_out))
        currents = solved.currents.clone()
        currents[:, -1] += solved.supplied
        return _Known(voltages, Seen(combined, currents, ends), inside)

    def drawn(self, voltages: Tensor) -> Tensor:
        """See :class:`FoundLines`."""
        if not self.loads:
            return torch.zeros_like(voltages)
        lines = torch.nn.functional.pad(voltages, (0, 1), value=float(self.layer.vdd))
        return (self.seen(voltages).currents - self.ports.input_currents(lines))[:, :-1]

    def took(self, turns: int) -> None:
        """See :class:`FoundLines`."""
        self._many |= turns > MANY

    def renew(self) -> None:
        """See :class:`FoundLines`."""
        if self._many:
            self._many = False
            self._linear(self._slopes(self._last[0].voltages))

    def _slopes(self, voltages: Tensor) -> Tensor:
        """(2, H, V, R, K) S of the cells at (B, N) V, the mean over some that are solved."""
        some = _finite(voltages[:SHARED])
        solved = solve_cells(self.array, self.layer.vdd, self._options, some)
        slopes = self.array.currents(solved.state).chord
        good = solved.status == int(Status.CONVERGED)
        return slopes[good].mean(0) if bool(good.any()) else self.array.cells


def _finite(voltages: Tensor) -> Tensor:
    """With 0 V instead of those of images that have no operating point."""
    return torch.where(torch.isfinite(voltages).all(-1, keepdim=True), voltages, 0.0)


def linear_ports(array: CurvedCells, slopes: Tensor) -> PortNetwork:
    """The layer with resistors of (2, H, V, R, K) S; gates draw nothing all the same."""
    spec = array.spec
    ports, _ = eliminate(slopes[0].contiguous(), slopes[1].contiguous(), array.wires)
    network = PortNetwork.of(spec, array.layout, ports)
    if array.cell.gated:
        network = replace(network, admittance=torch.zeros_like(network.admittance))
    return network

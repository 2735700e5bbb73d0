"""Crossbars with wire capacitances: block elimination with shunts, exact and reduced.

Every cell has a capacitance to ground on its input line, its I+ and its I- line. With the backward
rules of :mod:`imac_torch.transient.integrator` each is a conductance σ·c with a known current
besides, so that one time step is the DC elimination of :mod:`imac_torch.elimination.rows` with
shunts, factored once per step size. The same elimination at σ = 0, and at a few other
ones, gives the reduced model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.circuit.wires import input_line_capacitances, output_line_capacitance
from imac_torch.config import Interconnect
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.chain import Shunts
from imac_torch.elimination.interior import CellValues, Interior, PortResponse
from imac_torch.elimination.ports import PortNetwork
from imac_torch.errors import SolverError

POWER_ITERATIONS: Final = 12
"""Of the longest time constant, which the reduced model needs to a few percent only."""
SLOWER: Final = 1.05
"""What it is multiplied by, because iterations find too short a one."""
PEAK_POINTS: Final = 400
"""Times, evenly spread by their logarithm, at which the answer to a ramp is looked at."""


@dataclass(frozen=True)
class LineCapacitances:
    """Capacitance of one cell's segments to ground.

    Attributes:
        input_line: (C,) F, of every column's input line.
        output_line: F, 0-dimensional, of an I+ and of an I- line.
    """

    input_line: Tensor
    output_line: Tensor

    @classmethod
    def of(cls, interconnect: Interconnect, spec: CrossbarSpec) -> LineCapacitances | None:
        """What the configuration asks for, as :func:`imac_torch.circuit.build_layer` places it.

        Returns:
            None where wire capacitances are off, and cells have none.
        """
        positive = spec.conductances.positive
        if not interconnect.capacitance:
            none = torch.zeros_like(positive[..., 0, :])
            return cls(none, none[..., 0]) if spec.capacitance.memory > 0.0 else None
        parts = [
            input_line_capacitances(interconnect, last - first)
            for first, last in spec.column_ranges
        ]
        return cls(
            torch.cat(parts).to(positive),
            torch.tensor(
                output_line_capacitance(interconnect),
                dtype=positive.dtype,
                device=positive.device,
            ),
        )


@dataclass(frozen=True)
class DynamicBlocks:
    """The blocks of a layer with their capacitors.

    Attributes:
        positive: (blocks, R, K) S; blocks are partitions, H major, V minor.
        negative: (blocks, R, K) S.
        wires: Segments and amplifier inputs.
        capacitance: (blocks, R, K) F each, from nodes to ground, zero where padded.
        cells: (2, blocks, R, K) F of the cells of the I+ and of the I- side; None: they have none.
        port_capacitance: (C,) F at the input pins themselves: that of input lines without
            resistance, which no elimination can hold. Summed over vertical partitions.
        layout: Of the layer.
    """

    positive: Tensor
    negative: Tensor
    wires: Termination
    capacitance: Shunts
    port_capacitance: Tensor
    layout: BlockLayout
    cells: Tensor | None = None

    @classmethod
    def of(cls, spec: CrossbarSpec, capacitances: LineCapacitances) -> DynamicBlocks:
        """Gather a layer's cells; conductances without sample dimensions."""
        layout = BlockLayout.of(spec)
        cells = torch.ones_like(spec.conductances.positive)
        input_line = cells * capacitances.input_line
        at_pins = torch.zeros_like(capacitances.input_line)
        if float(spec.input_segment) == 0.0:
            at_pins = input_line.sum(dim=0)
            input_line = torch.zeros_like(input_line)

        def blocks(values: Tensor) -> Tensor:
            return layout.gather(values).flatten(0, 1)

        output_line = blocks(cells * capacitances.output_line)
        positive, negative = map(blocks, vars(spec.conductances).values())
        held = None
        if spec.capacitance.memory > 0.0:  # an open cell is none
            there = torch.stack([positive, negative]) > 0.0
            held = spec.capacitance.memory * there.to(positive)
        return cls(
            positive,
            negative,
            Termination.of(spec),
            Shunts(blocks(input_line), output_line, output_line),
            at_pins,
            layout,
            held,
        )

    def charges(self, at: CellValues) -> CellValues:
        """C of all nodes, at V."""
        found = at.scaled(self.capacitance)
        if self.cells is None:
            return found
        plus, minus = (
            held[..., None] * (at.input_line - side)
            for held, side in zip(self.cells, (at.positive, at.negative), strict=True)
        )
        return CellValues(
            found.input_line + plus + minus, found.positive - plus, found.negative - minus
        )

    @property
    def vertical(self) -> int:
        """V."""
        return int(self.layout.row_index.shape[0])

    def spread(self, inputs: Tensor) -> Tensor:
        """(B, C) voltages of the layer's inputs → (blocks, K, B)."""
        shares = self.layout.gather_inputs(inputs).permute(1, 2, 0)  # (H, K, B)
        return shares.repeat_interleave(self.vertical, dim=0)

    def input_currents(self, currents: Tensor) -> Tensor:
        """(blocks, K, B) → (B, C): partitions over rows load in parallel."""
        summed = currents.unflatten(0, (-1, self.vertical)).sum(dim=1)
        return self.layout.scatter_inputs(summed.permute(2, 0, 1))

    def ends(self, values: Tensor) -> Tensor:
        """(blocks, R, B) → (B, M·L, H)."""
        horizontal = self.layout.column_index.shape[0]
        rows = values.unflatten(0, (horizontal, self.vertical))  # (H, V, R, B)
        flat = rows.flatten(1, 2)[:, self.layout.row_position]  # (H, M, B)
        return flat.permute(2, 1, 0)

    def factor(self, shift: float) -> Interior:
        """Eliminate with every capacitor c replaced by a conductance ``shift``·c (1/s)."""
        positive, negative = self.positive, self.negative
        if self.cells is not None:
            positive, negative = positive + shift * self.cells[0], negative + shift * self.cells[1]
        return Interior.of(positive, negative, self.wires, self.capacitance.times(shift))


@dataclass(frozen=True)
class SeriesModel:
    """A layer's linear part as a sum of high-pass filters x_k = s/(s + p_k), the same for all.

    Y(s) = Y_0 + Σ_k Y_k·x_k, likewise the line ends, k = 1 … K; Y_0 is the DC solution itself. All
    natural frequencies of the crossbars are real (resistors and capacitors), so that what they make
    of an input is a sum of such filters, of more time constants than one can count; each of these
    is left to the K given ones, with the share that interpolation gives it. That is linear in what
    the crossbars are, so that nobody has to know their modes: Y at K - 1 real s and its derivative
    at 0 give the Y_k (with interpolation points and poles that suit, all time constants from 0 to
    the slowest are met at once: see :data:`FITS`).

    Attributes:
        poles: (K+1,) p_k, 1/s; the last one is of the slowest mode, of which most is missed where
            inputs have no corners.
        admittance: (K+1, H, K, K) S; the first is the DC solver's.
        positive_end: (K+1, M·L, C).
        negative_end: (K+1, M·L, C).
        port_capacitance: (C,) F at the pins themselves.
        missed: (K+1,), what the filters make of that mode: x_{K+1} less its parts of the others.
    """

    poles: Tensor
    admittance: Tensor
    positive_end: Tensor
    negative_end: Tensor
    port_capacitance: Tensor
    missed: Tensor

    @property
    def order(self) -> int:
        """K."""
        return int(self.admittance.shape[0]) - 1

    @classmethod
    def static(cls, ports: PortNetwork) -> SeriesModel:
        """A layer without wire capacitances."""
        none = ports.positive_end.new_zeros(1)
        return cls(
            none + 1e12,
            ports.admittance[None],
            ports.positive_end[None],
            ports.negative_end[None],
            torch.zeros_like(ports.positive_end[0]),
            none,
        )

    @classmethod
    def of(
        cls,
        blocks: DynamicBlocks,
        ports: PortNetwork,
        order: int,
        *,
        swing: float = 0.0,
        transition: float = 1.0,
        target: float = 0.0,
        loads: bool = False,
    ) -> SeriesModel:
        """Reduce a layer.

        Args:
            blocks: With capacitors.
            ports: The DC elimination of the same layer.
            order: K >= 1, at most.
            swing: V, of all inputs at once, in either direction.
            transition: s, within which they ramp.
            target: V. Fewer terms are taken where such ramps leave no more than this; 0: all.
            loads: Whether inputs are neurons' outputs. What lines draw moves these by no more than
                they move themselves.

        Raises:
            SolverError: :data:`FITS` has no such order.
        """
        if order > len(FITS):
            raise SolverError(
                f"order = {order}: reduced wires have up to {len(FITS)} filters a line; "
                "leave it out, or take every node (wires='exact')"
            )
        layout = blocks.layout
        elimination = blocks.factor(0.0)
        count, _, columns = blocks.positive.shape
        unit = torch.eye(columns, dtype=ports.admittance.dtype, device=ports.admittance.device)
        unit = unit.expand(count, columns, columns)
        voltages, at_rest = elimination.solve(unit, None)
        slowest = SLOWER * _slowest(elimination, blocks, voltages)
        # Inputs that change at random: their contributions add up like their squares.
        transfer = ports.combine_columns(ports.positive_end, ports.negative_end)
        largest = max(float(transfer.square().sum(-1).max().sqrt()), float(loads))
        size = swing * largest * slowest / transition
        fits = FITS[:order]
        fit = next((fit for fit in fits if target > 0.0 and fit.missed * size <= target), fits[-1])
        parts = (layout.column_index.shape[0], blocks.vertical)

        def flat(seen: PortResponse) -> list[Tensor]:
            return [
                seen.currents.unflatten(0, parts).sum(dim=1),
                layout.scatter(seen.positive_end.unflatten(0, parts)),
                layout.scatter(seen.negative_end.unflatten(0, parts)),
            ]

        # d/ds at 0, in units of the slowest time constant, then Y(s) - Y(0).
        _, first = elimination.solve(None, blocks.charges(voltages).times(-1.0 / slowest))
        known, here = [flat(first)], flat(at_rest)
        for place in fit.places:
            seen = blocks.factor(place / slowest).ports(unit)
            known.append([there - now for there, now in zip(flat(seen), here, strict=True)])
        solution = torch.linalg.inv(fit.matrix()).to(unit)
        admittance, positive, negative = (
            torch.cat([dc[None], torch.tensordot(solution, torch.stack(values), dims=1)])
            for dc, values in zip(
                (ports.admittance, ports.positive_end, ports.negative_end),
                zip(*known, strict=True),
                strict=True,
            )
        )
        shares = fit.shares(torch.ones(1, dtype=torch.float64, device="cpu"))[:, 0]
        times = [*fit.times, 1.0]
        return cls(
            unit.new_tensor([1.0 / (slowest * part) for part in times]),
            admittance,
            positive,
            negative,
            blocks.port_capacitance,
            torch.cat([-shares, torch.ones_like(shares[:1])]).to(unit),
        )


class Fit(NamedTuple):
    """Filters for all time constants from 0 to 1, relative to the slowest.

    Attributes:
        missed: The most by which the answer to a ramp of slope 1 is ever off, of a mode of any such
            time constant. (Of the slowest mode itself it is 1 without filters.)
        times: K time constants.
        places: K - 1 real s at which the mode is met, besides its derivative at 0.
    """

    missed: float
    times: tuple[float, ...]
    places: tuple[float, ...]

    def _known(self, times: Tensor) -> Tensor:
        """(K, n): what modes s·τ/(1 + s·τ) are at the places."""
        places = torch.tensor(self.places, dtype=torch.float64, device="cpu")
        product = places[:, None] * times
        return torch.cat([times[None], product / (1.0 + product)])

    def matrix(self) -> Tensor:
        """(K, K), of the filters."""
        return self._known(torch.tensor(self.times, dtype=torch.float64, device="cpu"))

    def shares(self, times: Tensor) -> Tensor:
        """(K, n): of every filter in modes of (n,) time constants."""
        return torch.linalg.solve(self.matrix(), self._known(times))


FITS: Final = (
    Fit(0.0994, (0.7626,), ()),
    Fit(0.0221, (0.8794, 0.3158), (2.119,)),
    Fit(7.3e-3, (0.9165, 0.4688, 0.1125), (1.187, 6.216)),
    Fit(3.0e-3, (0.935, 0.5662, 0.2071, 0.0433), (1.076, 2.979, 13.039)),
    Fit(1.4e-3, (0.9482, 0.6305, 0.29, 0.0967, 0.0209), (1.312, 1.923, 5.316, 33.582)),
    Fit(
        6.7e-4, (0.9569, 0.6782, 0.3688, 0.1509, 0.0491, 0.0104),
        (1.361, 1.482, 5.877, 9.688, 67.706),
    ),
    Fit(
        3.5e-4, (0.9623, 0.7151, 0.4132, 0.1912, 0.0763, 0.0233, 0.0048),
        (1.313, 1.633, 2.493, 13.469, 15.251, 95.626),
    ),
)
"""By number of filters: times and places make what the worst mode misses smallest (found once by
descent from an even spread; a test looks at what they promise)."""


def ramp_step(poles: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """x(t + h) = e·x(t) + slope·r for x' = slope - p·x: inputs behind filters on a ramp.

    Args:
        poles: (n,) p, 1/s.
        step: h, s.

    Returns:
        e, (n,), and r, (n,) s.
    """
    return torch.exp(-step * poles), -torch.expm1(-step * poles) / poles


def exponentials(poles: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """(n,) s and (n,) s²: ∫ e^(-p·t) dt and ∫ t·e^(-p·t) dt from 0 to ``step``."""
    product = step * poles
    # The closed form loses digits like product², the series is off by product³/30.
    second = torch.where(
        product < 1e-3,
        0.5 - product / 3 + product.square() / 8,
        -(torch.expm1(-product) + product * torch.exp(-product)) / product.square(),
    )
    return -torch.expm1(-product) / poles, step**2 * second


def ramp_peak(poles: Tensor, parts: Tensor, transition: float) -> float:
    """The most that a sum of such filters ever makes of a ramp from 0 to 1.

    Behind the ramp the same comes with the opposite sign, so that what is left of it adds at most
    as much again.
    """
    longest, shortest = 1.0 / float(poles.min()), 1.0 / float(poles.max())
    shortest = min(shortest, transition)
    span = math.log(min(8.0 * longest, transition) / (1e-3 * shortest))
    grid = torch.linspace(0.0, 1.0, PEAK_POINTS, dtype=torch.float64, device="cpu")
    time = 1e-3 * shortest * torch.exp(span * grid)
    passed = -torch.expm1(-time[:, None] * poles.cpu()) / poles.cpu()
    return float((passed @ parts.cpu()).abs().max()) / transition


def _slowest(elimination: Interior, blocks: DynamicBlocks, voltages: CellValues) -> float:
    """Longest time constant (s) by power iteration with G⁻¹C; it comes from below."""
    vector = CellValues(*(
        part.sum(dim=-1, keepdim=True)
        for part in (voltages.input_line, voltages.positive, voltages.negative)
    ))
    longest = 0.0
    for _ in range(POWER_ITERATIONS):
        vector = vector.times(1.0 / _size(vector))
        vector, _ = elimination.solve(None, blocks.charges(vector))
        longest = _size(vector)
    return longest


def _size(vector: CellValues) -> float:
    parts = (vector.input_line, vector.positive, vector.negative)
    return max(float(part.abs().max()) for part in parts)

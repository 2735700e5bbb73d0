"""A layer of curved cells with every cell replaced by a conductance and a current source.

Conductances and sources are apart: conductances decide what eliminations cost, and those of one
elimination may serve many input vectors, whose cells differ in their sources.

Shapes: B input vectors, or 1 where all share their conductances; H, V partitions of R rows and
K columns; M outputs, L slices, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from imac_torch.cells import CellCurrents
from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.load import Load
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.interior import CellValues, Injection, Interior


@dataclass(frozen=True)
class FoundCells:
    """Voltages of a crossbar.

    Attributes:
        state: (B, Q, 2, H, V, R, K) V: across the cells of the I+ and of the I- side and, for cells
            that ask for it (Q = 2), of the I± lines there.
        positive_end: (B, H, V, R) V.
        negative_end: (B, H, V, R) V.
    """

    state: Tensor
    positive_end: Tensor
    negative_end: Tensor


class CurvedCells:
    """One layer's cells in blocks, and its lines.

    Attributes:
        spec: The crossbars.
        layout: Where cells lie in blocks.
        cell: What the cells are.
    """

    def __init__(self, spec: CrossbarSpec) -> None:
        self.spec = spec
        self.layout = BlockLayout.of(spec)
        self.wires = Termination.of(spec)
        self.positive = self.layout.gather(spec.conductances.positive)
        self.negative = self.layout.gather(spec.conductances.negative)
        assert spec.cell is not None  # noqa: S101 - ohmic layers go another way
        self.cell = spec.cell

    @property
    def cells(self) -> Tensor:
        """(2, H, V, R, K) S at small voltages, I+ side first."""
        return torch.stack([self.positive, self.negative])

    @property
    def code(self) -> tuple[float, ...] | None:
        """Of the cells, see :meth:`imac_torch.cells.Cell.code`."""
        return self.cell.code

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Of the voltages that cells are known by, see :class:`FoundCells`."""
        return (2 if self.cell.absolute else 1, 2, *self.positive.shape)

    def currents(self, state: Tensor) -> CellCurrents:
        """Of cells at (B, Q, 2, H, V, R, K) V."""
        return self.cell.currents(
            self.cells, state[:, 0], state[:, 1] if self.cell.absolute else None
        )

    def supplied(self, state: Tensor) -> Tensor:
        """(B,) A from vdd, of cells whose gates inputs hold."""
        if not self.cell.gated:
            return state.new_zeros(len(state))
        leak = self.currents(state).leak
        assert leak is not None  # noqa: S101 - it is all that there is
        return leak.flatten(1).sum(-1)

    def inside(self, state: Tensor) -> Tensor | None:
        """(B, 2, H, V, R, K), where cells are known at such voltages; None: everywhere."""
        return self.cell.inside(state[:, 0], state[:, 1] if self.cell.absolute else None)

    def eliminate(self, slopes: Tensor) -> Eliminated:
        """The layer with (b, 2, H, V, R, K) S of the cells, lines eliminated."""
        return Eliminated(self, slopes, Interior.of(slopes[:, 0], slopes[:, 1], self.wires))

    def ends(self, found: FoundCells) -> tuple[Tensor, Tensor]:
        """(B, M·L, H) V of the I+ and of the I- ends."""
        return self.by_row(found.positive_end), self.by_row(found.negative_end)

    def by_row(self, ends: Tensor) -> Tensor:
        """(B, H, V, R) → (B, M·L, H)."""
        return ends.flatten(-2)[..., self.layout.row_position].transpose(-1, -2)


@dataclass(frozen=True)
class Eliminated:
    """The conductances of a layer, its lines eliminated.

    Attributes:
        layer: Whose cells they are.
        slopes: (b, 2, H, V, R, K) S of the cells.
        interior: Blocks (b, H, V). Where vectors share them they are its right sides, else each
            has one.
    """

    layer: CurvedCells
    slopes: Tensor
    interior: Interior

    @cached_property
    def ports(self) -> Tensor:
        """(b, H, K, K) S into the input lines."""
        return self.interior.admittance.sum(-3)

    def columns(self, vectors: Tensor) -> Tensor:
        """(B, ...) as right sides (b, ..., Q)."""
        if len(self.slopes) < len(vectors):
            return vectors.movedim(0, -1)[None].contiguous()
        return vectors[..., None]

    def vectors(self, columns: Tensor) -> Tensor:
        """The way back."""
        return columns.movedim(-1, 1).flatten(0, 1)

    def load(self, vdd: Tensor) -> Load:
        """What the layer draws from the neurons that drive it, without its sources."""
        ports = self.ports
        return Load.of_blocks(self.layer.layout, ports, torch.zeros_like(ports[..., 0]), vdd)

    def tangents(self, found: CellCurrents, across: Tensor) -> Tangents:
        """With the currents of the cells, at (B, 2, H, V, R, K) V across them."""
        sources = found.current - self.slopes * across
        into = sources if found.leak is None else sources + found.leak
        plus, minus = (self.columns(side) for side in sources.unbind(1))
        ends = (plus, minus) if into is sources else (self.columns(x) for x in into.unbind(1))
        return Tangents(
            self, sources, self.interior.inject(CellValues(-plus - minus, *ends))
        )


@dataclass(frozen=True)
class Tangents:
    """A layer with every cell replaced by a conductance and a current source.

    Attributes:
        eliminated: Its conductances.
        sources: (B, 2, H, V, R, K) A of the cells.
        injection: The same as they reach the lines.
    """

    eliminated: Eliminated
    sources: Tensor
    injection: Injection

    @property
    def drawn(self) -> Tensor:
        """(B, H, K) A into the input lines at 0 V."""
        return self.eliminated.vectors(self.injection.currents).sum(-2)

    def load(self, without: Load) -> Load:
        """What the layer draws from the neurons, each vector a sample.

        Args:
            without: :meth:`Eliminated.load`.
        """
        drawn = without.layout.scatter_inputs(self.drawn)[..., :-1]
        return without.with_drawn(drawn[:, None])

    def currents(self, inputs: Tensor) -> Tensor:
        """(B, C) A into the input lines for (B, C) V on them, the bias included."""
        known, layout = self.eliminated, self.eliminated.layer.layout
        currents = known.ports @ known.columns(layout.gather_inputs(inputs))
        return layout.scatter_inputs(known.vectors(currents) + self.drawn)

    def follow(self, inputs: Tensor) -> FoundCells:
        """Voltages everywhere for (B, C) V on the input lines, the bias included."""
        known = self.eliminated
        voltages = known.columns(known.layer.layout.gather_inputs(inputs)[:, :, None, :])
        found, seen = known.interior.follow(voltages, self.injection)
        sides = torch.stack([found.positive, found.negative], dim=1)
        across = known.vectors(found.input_line[:, None] - sides)
        if known.layer.cell.absolute:
            state = torch.stack([across, known.vectors(sides)], dim=1)
        else:
            state = across[:, None]
        return FoundCells(
            state, known.vectors(seen.positive_end), known.vectors(seen.negative_end)
        )

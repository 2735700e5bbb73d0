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
from imac_torch.dc.clamped import ClampedAmplifiers
from imac_torch.dc.load import Load
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.feedback import at_ends
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

    @property
    def ends(self) -> Tensor:
        """(B, 2, H, V, R) V."""
        return torch.stack([self.positive_end, self.negative_end], dim=1)


class CurvedCells:
    """One layer's cells in blocks, and its lines.

    Attributes:
        spec: The crossbars.
        layout: Where cells lie in blocks.
        cell: What the cells are.
        amplifiers: With offsets or a swing; None: they are linear.
    """

    def __init__(self, spec: CrossbarSpec) -> None:
        self.spec = spec
        self.layout = BlockLayout.of(spec)
        self.wires = Termination.of(spec)
        self.positive = self.layout.gather(spec.conductances.positive)
        self.negative = self.layout.gather(spec.conductances.negative)
        assert spec.cell is not None  # noqa: S101 - ohmic layers go another way
        self.cell = spec.cell
        self.amplifiers = ClampedAmplifiers.of(spec, self.layout)

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

    def packed(self, state: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
        """The state with (B, M·L, H) V of both ends as one column more, where these iterate."""
        if self.amplifiers is None:
            return state
        column = self.amplifiers.in_blocks(ends)[:, None, ..., None]
        return torch.cat([state, column.expand(*state.shape[:-1], 1)], -1)

    def unpacked(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        """State and (B, 2, H, V, R) A into ends, of what :meth:`packed` made."""
        if self.amplifiers is None:
            return state, None
        return state[..., :-1], self.amplifiers.injected(state[:, 0, ..., -1])

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

    def tangents(
        self, found: CellCurrents, across: Tensor, injected: Tensor | None = None
    ) -> Tangents:
        """With the currents of the cells.

        Args:
            found: The currents.
            across: (B, 2, H, V, R, K) V, at which they are.
            injected: (B, 2, H, V, R) A into the I+ and the I- ends; None: nothing.
        """
        sources = found.current - self.slopes * across
        into = sources if found.leak is None else sources + found.leak
        plus, minus = (self.columns(side) for side in sources.unbind(1))
        to_plus, to_minus = plus, minus
        if into is not sources:
            to_plus, to_minus = (self.columns(side) for side in into.unbind(1))
        moved = None
        if injected is not None:
            nodes, moved = at_ends(self.interior, *(self.columns(x) for x in injected.unbind(1)))
            to_plus, to_minus = to_plus + nodes[0], to_minus + nodes[1]
        inner = self.interior.inject(CellValues(-plus - minus, to_plus, to_minus))
        return Tangents(self, sources, inner, moved)


@dataclass(frozen=True)
class Tangents:
    """A layer with every cell replaced by a conductance and a current source.

    Attributes:
        eliminated: Its conductances.
        sources: (B, 2, H, V, R, K) A of the cells.
        injection: The same as they reach the lines, with what is injected into ends.
        moved: V that this moves the ends by besides; None: nothing is.
    """

    eliminated: Eliminated
    sources: Tensor
    injection: Injection
    moved: tuple[Tensor, Tensor] | None = None

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
        ends = seen.positive_end, seen.negative_end
        if self.moved is not None:
            ends = ends[0] + self.moved[0], ends[1] + self.moved[1]
        return FoundCells(state, known.vectors(ends[0]), known.vectors(ends[1]))

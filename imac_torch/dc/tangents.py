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

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.load import Load
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.chain import LineEnds, chain_inverse, eliminate_lines
from imac_torch.elimination.linalg import solve
from imac_torch.reference.nonlinear import Sinh


def _apply(matrix: Tensor, vectors: Tensor) -> Tensor:
    """(b, ..., K, K) times (B, ..., K); a matrix that all share is not copied."""
    if len(matrix) < len(vectors):
        return torch.einsum("...ij,b...j->b...i", matrix[0], vectors)
    return (matrix @ vectors[..., None]).squeeze(-1)


@dataclass(frozen=True)
class CellVoltages:
    """(B, H, V, R, K) V across the cells of both sides, (B, H, V, R) V at the line ends."""

    positive: Tensor
    negative: Tensor
    positive_end: Tensor
    negative_end: Tensor


class CurvedLayer:
    """One layer's cells in blocks, and its lines.

    Attributes:
        spec: The crossbars.
        layout: Where cells lie in blocks.
        curve: Of the cells, None where they are ohmic.
    """

    def __init__(self, spec: CrossbarSpec) -> None:
        self.spec = spec
        self.layout = BlockLayout.of(spec)
        self.wires = Termination.of(spec)
        self.positive = self.layout.gather(spec.conductances.positive.detach())
        self.negative = self.layout.gather(spec.conductances.negative.detach())
        self.curve = None if spec.bend is None else Sinh(spec.bend)

    @property
    def cells(self) -> Tensor:
        """(2, H, V, R, K) S at small voltages, I+ side first."""
        return torch.stack([self.positive, self.negative])

    def current(self, across: Tensor) -> tuple[Tensor, Tensor]:
        """A and S of cells at (B, 2, H, V, R, K) V."""
        cells = self.cells
        if self.curve is None:
            return cells * across, cells.expand_as(across)
        return self.curve.current(cells, across)

    def eliminate(self, slopes: Tensor) -> Eliminated:
        """The layer with (b, 2, H, V, R, K) S of the cells, lines eliminated."""
        plus, minus = slopes.unbind(1)
        wires, ends = self.wires, LineEnds.of(self.wires)
        admittance = eliminate_lines(plus, minus, wires).admittance
        z_plus = chain_inverse(plus, wires.output_segment, ends.positive_end)
        z_minus = chain_inverse(minus, wires.output_segment, ends.negative_end)
        # From the far end of the input lines: i_r = excess·v_r and v_r = v_{r-1} - r·i_r.
        identity = torch.eye(plus.shape[-1], dtype=plus.dtype, device=plus.device)
        below = torch.zeros_like(admittance[..., 0, :, :])
        reduced = []
        for row in range(plus.shape[-2] - 1, -1, -1):
            excess = admittance[..., row, :, :] + below
            matrix = identity + wires.input_segment * excess
            solved = solve(matrix.flatten(0, -3), excess.flatten(0, -3))
            below = solved.reshape(excess.shape)
            reduced.append(below)
        reduced.reverse()
        return Eliminated(self, reduced, slopes, z_plus, z_minus)

    def combined(self, found: CellVoltages) -> Tensor:
        """(B, M) V of the ideal combined source."""
        read_out = self.spec.read_out
        return read_out.combination.of_partitions(read_out.output(*self.ends(found)))

    def ends(self, found: CellVoltages) -> tuple[Tensor, Tensor]:
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
        reduced: R tensors (b, H, V, K, K) S: current into an input line from a row on, per
            voltage before it.
        slopes: (b, 2, H, V, R, K) S of the cells.
        z_positive: (b, H, V, R, K, K) Ω, node voltages of I+ lines per injected current.
        z_negative: Likewise of I- lines.
    """

    layer: CurvedLayer
    reduced: list[Tensor]
    slopes: Tensor
    z_positive: Tensor
    z_negative: Tensor

    @cached_property
    def ports(self) -> Tensor:
        """(b, H, K, K) S into the input lines."""
        return self.reduced[0].sum(-3)

    def load(self, vdd: Tensor) -> Load:
        """What the layer draws from the neurons that drive it, without its sources."""
        ports = self.ports
        return Load.of_blocks(self.layer.layout, ports, torch.zeros_like(ports[..., 0]), vdd)

    def tangents(self, sources: Tensor) -> Tangents:
        """With (B, 2, H, V, R, K) A of sources beside the cells."""
        wires = self.layer.wires
        ends = LineEnds.of(wires)
        plus, minus = self.slopes.unbind(1)
        plus_source, minus_source = sources.unbind(1)
        # Lines and rows as the sources alone drive them, input nodes held at 0 V.
        line_plus = _apply(self.z_positive, plus_source)
        virtual = wires.alpha * ends.positive_share * line_plus[..., -1:]
        line_minus = _apply(self.z_negative, minus_source)
        line_minus = line_minus + self.z_negative[..., -1] * ends.negative_end * virtual
        drawn = plus_source - plus * line_plus + minus_source - minus * line_minus
        # i_r = excess·v_r + e: what a row adds is (1 + r·excess)⁻¹·e = e - r·reduced·e.
        source = torch.zeros_like(drawn[..., 0, :])
        behind = []
        for row in range(drawn.shape[-2] - 1, -1, -1):
            total = drawn[..., row, :] + source
            source = total - wires.input_segment * _apply(self.reduced[row], total)
            behind.append(source)
        behind.reverse()
        return Tangents(self, sources, behind)


@dataclass(frozen=True)
class Tangents:
    """A layer with every cell replaced by a conductance and a current source.

    Attributes:
        eliminated: Its conductances.
        sources: (B, 2, H, V, R, K) A of the cells.
        behind: R tensors (B, H, V, K) A: current into an input line from a row on that is there
            without voltages.
    """

    eliminated: Eliminated
    sources: Tensor
    behind: list[Tensor]

    @property
    def drawn(self) -> Tensor:
        """(B, H, K) A into the input lines at 0 V."""
        return self.behind[0].sum(-2)

    def load(self, without: Load) -> Load:
        """What the layer draws from the neurons, each vector a sample.

        Args:
            without: :meth:`Eliminated.load`.
        """
        drawn = without.layout.scatter_inputs(self.drawn)[..., :-1]
        count = len(drawn)
        return Load(
            without.admittance.expand(count, -1, -1, -1),
            without.offset + drawn,
            without.layout,
            without.left.expand(count, -1, -1),
            without.right.expand(count, -1, -1),
        )

    def currents(self, inputs: Tensor) -> Tensor:
        """(B, C) A into the input lines for (B, C) V on them, the bias included."""
        layout = self.eliminated.layer.layout
        currents = _apply(self.eliminated.ports, layout.gather_inputs(inputs)) + self.drawn
        return layout.scatter_inputs(currents)

    def follow(self, inputs: Tensor) -> CellVoltages:
        """Voltages everywhere for (B, C) V on the input lines, the bias included."""
        known, layer = self.eliminated, self.eliminated.layer
        wires, ends = layer.wires, LineEnds.of(layer.wires)
        voltage = layer.layout.gather_inputs(inputs)[:, :, None, :]
        voltage = voltage.expand(self.behind[0].shape)
        rows = []
        for reduced, source in zip(known.reduced, self.behind, strict=True):
            voltage = voltage - wires.input_segment * (_apply(reduced, voltage) + source)
            rows.append(voltage)
        cell = torch.stack(rows, dim=-2)
        driven_plus, driven_minus = (known.slopes * cell[:, None] + self.sources).unbind(1)
        plus = _apply(known.z_positive, driven_plus)
        end_plus = ends.positive_share * plus[..., -1]
        virtual = wires.alpha * end_plus
        minus = _apply(known.z_negative, driven_minus)
        minus = minus + known.z_negative[..., -1] * ends.negative_end * virtual[..., None]
        share = ends.negative_share
        end_minus = share * minus[..., -1] + (1.0 - share) * virtual
        return CellVoltages(cell - plus, cell - minus, end_plus, end_minus)

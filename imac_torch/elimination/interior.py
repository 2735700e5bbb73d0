"""Blocks from the inside: every node's voltage, for voltages at the lines and currents into nodes.

Rows are reduced to their ports as in :mod:`imac_torch.elimination.rows`; then the input lines are
followed outwards and every row's I± lines are solved for the currents of its cells. Shunts from
nodes to ground (capacitors in a time step) are part of the elimination.

Shapes: blocks (...,) of R rows and K columns, Q right sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from imac_torch.elimination.blocks import Termination
from imac_torch.elimination.chain import LineEnds, Shunts, eliminate_lines
from imac_torch.elimination.rows import reduce_rows


@dataclass(frozen=True)
class CellValues:
    """One vector per cell and right side; (..., R, K, Q) each, V, or A into the nodes."""

    input_line: Tensor
    positive: Tensor
    negative: Tensor

    def __add__(self, other: CellValues) -> CellValues:
        return CellValues(
            self.input_line + other.input_line,
            self.positive + other.positive,
            self.negative + other.negative,
        )

    def scaled(self, factors: Shunts) -> CellValues:
        """Times (..., R, K) factors."""
        return CellValues(
            self.input_line * factors.input_line[..., None],
            self.positive * factors.positive[..., None],
            self.negative * factors.negative[..., None],
        )

    def times(self, factor: float) -> CellValues:
        """Times a number."""
        return CellValues(
            self.input_line * factor, self.positive * factor, self.negative * factor
        )


class PortResponse(NamedTuple):
    """What ports see.

    Attributes:
        currents: (..., K, Q) A into the input lines.
        positive_end: (..., R, Q) V.
        negative_end: (..., R, Q) V.
    """

    currents: Tensor
    positive_end: Tensor
    negative_end: Tensor


class Injection(NamedTuple):
    """Currents into the nodes, and what they make of the rows.

    Attributes:
        nodes: (..., R, K, Q) A each.
        behind: R tensors (..., K, Q) A: what flows into an input line from a row on that is there
            without voltages.
    """

    nodes: CellValues
    behind: list[Tensor]

    @property
    def currents(self) -> Tensor:
        """(..., K, Q) A into the input lines at 0 V."""
        return self.behind[0]


@dataclass(frozen=True)
class Interior:
    """Blocks whose rows are reduced, ready to be followed.

    Attributes:
        positive: (..., R, K) S, cells of the I+ side.
        negative: (..., R, K) S.
        wires: Segments and read-outs.
        ends: Of the lines.
        positive_line: (..., R, K, K) Ω, node voltages of I+ lines per injected current.
        negative_line: Likewise of I- lines.
        reduced: (..., R, K, K) S: current into an input line from a row on, per voltage before it.
    """

    positive: Tensor
    negative: Tensor
    wires: Termination
    ends: LineEnds
    positive_line: Tensor
    negative_line: Tensor
    reduced: Tensor

    @classmethod
    def of(
        cls,
        positive: Tensor,
        negative: Tensor,
        wires: Termination,
        shunts: Shunts | None = None,
    ) -> Interior:
        """Eliminate blocks.

        Args:
            positive: (..., R, K) S.
            negative: (..., R, K) S.
            wires: Segments and read-outs.
            shunts: (..., R, K) S each, from nodes to ground; None: nothing.
        """
        rows = eliminate_lines(positive, negative, wires, shunts)
        return cls(
            positive, negative, wires, LineEnds.of(wires), rows.positive_line, rows.negative_line,
            reduce_rows(rows.admittance, wires.input_segment),
        )  # fmt: skip

    @property
    def admittance(self) -> Tensor:
        """(..., K, K) S into the input lines."""
        return self.reduced[..., 0, :, :]

    def _lines(self, plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """I± nodes (..., R, K, Q) and ends (..., R, Q) for currents (..., R, K, Q) into nodes."""
        ends, alpha = self.ends, self.wires.alpha
        positive = self.positive_line @ plus
        virtual = alpha * ends.positive_share * positive[..., -1, :]
        driven = self.negative_line[..., -1] * ends.negative_end
        negative = self.negative_line @ minus + driven[..., None] * virtual[..., None, :]
        return positive, negative, *ends.voltages(positive[..., -1, :], negative[..., -1, :], alpha)

    def ports(self, voltages: Tensor) -> PortResponse:
        """What ports see of (..., K, Q) V at the input lines, without what lies between them."""
        cell = torch.stack(self._rows(voltages, None)[1], dim=-3)
        ends, alpha = self.ends, self.wires.alpha
        plus, minus = (
            (line[..., -1, :] * side)[..., None, :] @ cell
            for line, side in (
                (self.positive_line, self.positive), (self.negative_line, self.negative)
            )
        )
        positive, negative = plus.squeeze(-2), minus.squeeze(-2)
        driven = self.negative_line[..., -1, -1] * ends.negative_end
        negative = negative + driven[..., None] * (alpha * ends.positive_share * positive)
        return PortResponse(self.admittance @ voltages, *ends.voltages(positive, negative, alpha))

    def inject(self, nodes: CellValues) -> Injection:
        """Currents into the nodes, swept up the rows from what flows with input nodes at 0 V."""
        plus, minus, _, _ = self._lines(nodes.positive, nodes.negative)
        drawn = -self.positive[..., None] * plus - self.negative[..., None] * minus
        drawn = drawn - nodes.input_line
        # i_r = E_r·v_r + e: what a row adds is (1 + r·E_r)⁻¹·e = e - r·Y_r·e.
        segment, behind = self.wires.input_segment, list(drawn.unbind(-3))
        for row in range(len(behind) - 1, -1, -1):
            if row + 1 < len(behind):
                behind[row] = behind[row] + behind[row + 1]
            step = segment * (self.reduced[..., row, :, :] @ behind[row])
            behind[row] = behind[row] - step
        return Injection(nodes, behind)

    def _rows(
        self, voltages: Tensor, injection: Injection | None
    ) -> tuple[Tensor, list[Tensor]]:
        """(..., K, Q) A into the input lines, and V of every row's nodes on them."""
        segment, rows, currents = self.wires.input_segment, [], []
        for row, reduced in enumerate(self.reduced.unbind(-3)):
            current = reduced @ voltages
            if injection is not None:
                current = current + injection.behind[row]
            currents.append(current)
            voltages = voltages - segment * current
            rows.append(voltages)
        return currents[0], rows

    def follow(
        self, voltages: Tensor, injection: Injection | None
    ) -> tuple[CellValues, PortResponse]:
        """Node voltages and what ports see.

        Args:
            voltages: (..., K, Q) V at the input lines.
            injection: Into the nodes; None: nothing.
        """
        currents, rows = self._rows(voltages, injection)
        cell = torch.stack(rows, dim=-3)
        plus, minus = self.positive[..., None] * cell, self.negative[..., None] * cell
        if injection is not None:
            plus, minus = plus + injection.nodes.positive, minus + injection.nodes.negative
        positive, negative, positive_end, negative_end = self._lines(plus, minus)
        return (
            CellValues(cell, positive, negative),
            PortResponse(currents, positive_end, negative_end),
        )

    def solve(
        self, voltages: Tensor | None, nodes: CellValues | None
    ) -> tuple[CellValues, PortResponse]:
        """:meth:`follow` in one go; ``voltages`` None: 0 V, ``nodes`` None: no currents."""
        injection = None if nodes is None else self.inject(nodes)
        if voltages is None:
            voltages = torch.zeros_like(self.reduced[..., 0, :, 0])[..., None]
        return self.follow(voltages, injection)

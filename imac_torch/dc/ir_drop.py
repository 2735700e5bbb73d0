"""Voltages inside the crossbars of a layer: how much the wires take from every cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.chain import LineEnds, chain_inverse, eliminate_lines
from imac_torch.elimination.linalg import solve
from imac_torch.elimination.ports import refuse_curved
from imac_torch.errors import SolverError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.numeric.budget import map_bytes, require_memory
from imac_torch.numeric.modes import lasting

__all__ = ["CellVoltages", "cell_voltages"]


@dataclass(frozen=True)
class CellVoltages:
    """Node voltages of every cell of a layer.

    Shapes: B samples, M rows (of all slices), C = N+1 columns (the bias last).

    Attributes:
        driven: (B, C) V, at the start of every input line.
        cell: (B, M, C) V, on the input line at the cell (nodes ``a``).
        positive: (B, M, C) V, on the I+ line at the cell (nodes ``p``).
        negative: (B, M, C) V, on the I- line at the cell (nodes ``n``).
        positive_end: (B, M, C) V, of the I+ end of the cell's own partition.
        negative_end: (B, M, C) V, likewise of the I- end.
        conductances: Of the cells, (M, C) S each.
    """

    driven: Tensor
    cell: Tensor
    positive: Tensor
    negative: Tensor
    positive_end: Tensor
    negative_end: Tensor
    conductances: ConductancePair

    @property
    def positive_current(self) -> Tensor:
        """(B, M, C) A through the positive memristors, from the input line to the I+ line."""
        return self.conductances.positive * (self.cell - self.positive)

    @property
    def negative_current(self) -> Tensor:
        """(B, M, C) A through the negative memristors, from the input line to the I- line."""
        return self.conductances.negative * (self.cell - self.negative)

    @property
    def input_drop(self) -> Tensor:
        """(B, M, C) V lost on the input line between its source and the cell."""
        return self.driven[:, None, :] - self.cell

    @property
    def output_drop(self) -> Tensor:
        """(B, M, C) V between the cell's I± nodes and the ends at the amplifier.

        The larger one in magnitude of the I+ and the I- line, with its sign.
        """
        plus = self.positive - self.positive_end
        minus = self.negative - self.negative_end
        return torch.where(plus.abs() >= minus.abs(), plus, minus)


@lasting()
def cell_voltages(spec: CrossbarSpec, inputs: Tensor) -> CellVoltages:
    """Solve for the voltages inside the crossbars of one layer, exactly.

    Rows are eliminated as for the ports; then the input lines are followed outwards,
    v_r = (1 - r·Y_r)·v_{r-1}, and every row's I± lines are solved for the cells' currents.

    Args:
        spec: The crossbars; conductances (M, C) without sample dimensions.
        inputs: (B, C) float64, V, at the input lines, the bias last.

    Returns:
        All voltages.

    Raises:
        SolverError: The layer is too large for it, or inputs do not fit.
    """
    refuse_curved(spec, "a map of voltages inside arrays")
    positive, negative = spec.conductances.positive, spec.conductances.negative
    if positive.ndim != 2 or inputs.ndim != 2 or inputs.shape[1] != positive.shape[1]:
        raise SolverError(
            f"maps need conductances (M, C) and inputs (B, C), got {tuple(positive.shape)} and "
            f"{tuple(inputs.shape)}"
        )
    layout, wires = BlockLayout.of(spec), Termination.of(spec)
    plus, minus = layout.gather(positive), layout.gather(negative)  # (H, V, R, K)
    horizontal, vertical, rows, columns = plus.shape
    require_memory(
        map_bytes(horizontal * vertical, rows, columns, len(inputs)),
        f"a map of the voltages inside arrays of {rows}×{columns} cells",
        "take smaller arrays (crossbar.rows, crossbar.columns), or fewer images",
        plus.device,
    )
    segment = wires.input_segment
    admittance = eliminate_lines(plus, minus, wires).admittance
    identity = torch.eye(columns, dtype=plus.dtype, device=plus.device)
    reduced: list[Tensor] = []
    below = torch.zeros_like(admittance[:, :, 0])
    for row in range(rows - 1, -1, -1):
        excess = admittance[:, :, row] + below
        matrix = (identity + segment * excess).flatten(0, 1)
        below = solve(matrix, excess.flatten(0, 1)).reshape(excess.shape)
        reduced.append(below)
    reduced.reverse()
    voltages = layout.gather_inputs(inputs).movedim(0, -1)[:, None]  # (H, 1, K, B)
    voltages = voltages.expand(horizontal, vertical, columns, inputs.shape[0])
    cells = []
    for row in range(rows):
        voltages = voltages - segment * (reduced[row] @ voltages)
        cells.append(voltages)
    cell = torch.stack(cells, dim=2)  # (H, V, R, K, B)
    ends = LineEnds.of(wires)
    z_plus = chain_inverse(plus, wires.output_segment, ends.positive_end)
    z_minus = chain_inverse(minus, wires.output_segment, ends.negative_end)
    line_plus = z_plus @ (plus[..., None] * cell)
    end_plus = ends.positive_share * line_plus[..., -1, :]
    virtual = wires.alpha * end_plus
    line_minus = z_minus @ (minus[..., None] * cell)
    line_minus = line_minus + z_minus[..., -1:].mul(ends.negative_end) * virtual[..., None, :]
    share = ends.negative_share
    end_minus = share * line_minus[..., -1, :] + (1.0 - share) * virtual

    def whole(blocks: Tensor) -> Tensor:
        """(H, V, R, K, B) → (B, M, C)."""
        return layout.scatter(blocks.movedim(-1, 0))

    return CellVoltages(
        driven=inputs,
        cell=whole(cell),
        positive=whole(line_plus),
        negative=whole(line_minus),
        positive_end=whole(end_plus[..., None, :].expand_as(line_plus)),
        negative_end=whole(end_minus[..., None, :].expand_as(line_minus)),
        conductances=spec.conductances,
    )

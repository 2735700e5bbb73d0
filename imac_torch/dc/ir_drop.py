"""Voltages inside the crossbars of a layer: how much the wires take from every cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.dc.clamped import refuse_amplifiers
from imac_torch.dc.curved import solve_cells
from imac_torch.dc.newton import NewtonOptions
from imac_torch.dc.tangents import CurvedCells
from imac_torch.elimination.blocks import BlockLayout, Termination
from imac_torch.elimination.feedback import passive, respond
from imac_torch.elimination.interior import CellValues, Interior, PortResponse
from imac_torch.elimination.ports import eliminate_layer
from imac_torch.errors import SolverError
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.numeric.budget import map_bytes, require_memory
from imac_torch.numeric.modes import lasting
from imac_torch.results.solution import Status

__all__ = ["CellVoltages", "cell_voltages"]


@dataclass(frozen=True)
class CellVoltages(Brief):
    """Node voltages of every cell of a layer.

    Shapes: B samples, M rows (of all slices), C = N+1 columns (the bias last).

    Attributes:
        driven: (B, C) V, at the start of every input line.
        cell: (B, M, C) V, on the input line at the cell (nodes ``a``).
        positive: (B, M, C) V, on the I+ line at the cell (nodes ``p``).
        negative: (B, M, C) V, on the I- line at the cell (nodes ``n``).
        positive_end: (B, M, C) V, of the I+ end of the cell's own partition.
        negative_end: (B, M, C) V, likewise of the I- end.
        conductances: Of the cells, (M, C) S each; of curved ones at small voltages.
        curved: (2, B, M, C) A through the cells of the I+ and of the I- side, where they are
            curved; None: they are resistors.
        memory: (2, B, M, C) V across the memory devices of curved cells; None: no access devices.
        source: V of the line that the currents of cells come from whose gates inputs hold; None:
            input lines.
    """

    driven: Tensor
    cell: Tensor
    positive: Tensor
    negative: Tensor
    positive_end: Tensor
    negative_end: Tensor
    conductances: ConductancePair
    curved: Tensor | None = None
    memory: Tensor | None = None
    source: Tensor | None = None

    @property
    def positive_current(self) -> Tensor:
        """(B, M, C) A through the positive memristors, to the I+ line."""
        if self.curved is not None:
            return self.curved[0]
        return self.conductances.positive * (self.cell - self.positive)

    @property
    def negative_current(self) -> Tensor:
        """(B, M, C) A through the negative memristors, to the I- line."""
        if self.curved is not None:
            return self.curved[1]
        return self.conductances.negative * (self.cell - self.negative)

    @property
    def power(self) -> Tensor:
        """(B, M, C) W in both cells, access devices included."""
        above = self.cell if self.source is None else self.source
        plus = self.positive_current * (above - self.positive)
        return plus + self.negative_current * (above - self.negative)

    @property
    def access_power(self) -> Tensor:
        """(B, M, C) W of that in access devices."""
        if self.memory is None:
            return torch.zeros_like(self.cell)
        plus, minus = self.memory
        return self.power - self.positive_current * plus - self.negative_current * minus

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
def cell_voltages(
    spec: CrossbarSpec, inputs: Tensor, drawn: Tensor | None = None
) -> CellVoltages:
    """Solve for the voltages inside the crossbars of one layer, exactly.

    See :mod:`imac_torch.elimination.interior`.

    Args:
        spec: The crossbars; conductances (M, C) without sample dimensions.
        inputs: (B, C) float64, V, at the input lines, the bias last.
        drawn: (B, M) A that neurons draw, which only amplifiers in a layer need that notice what
            they deliver; None: not known.

    Raises:
        SolverError: The layer is too large for it, or inputs do not fit, or amplifiers at rails
            are not found, or curved cells are not.
    """
    positive, negative = spec.conductances.positive, spec.conductances.negative
    if positive.ndim != 2 or inputs.ndim != 2 or inputs.shape[1] != positive.shape[1]:
        raise SolverError(
            "maps need conductances (M, C), without samples or groups, and inputs (B, C), got "
            f"{tuple(positive.shape)} and {tuple(inputs.shape)}"
        )
    layout = BlockLayout.of(spec)
    if spec.cell is not None:
        return _of_curved(spec, layout, inputs)
    plus, minus = layout.gather(positive), layout.gather(negative)  # (H, V, R, K)
    horizontal, vertical, rows, columns = plus.shape
    require_memory(
        map_bytes(horizontal * vertical, rows, columns, len(inputs)),
        f"a map of the voltages inside arrays of {rows}×{columns} cells",
        "take smaller arrays (crossbar.rows, crossbar.columns), or fewer images",
        plus.device,
    )
    voltages = layout.gather_inputs(inputs).movedim(0, -1)[:, None]  # (H, 1, K, B)
    voltages = voltages.expand(horizontal, vertical, columns, inputs.shape[0])
    if spec.read_out.ideal:
        found, seen = Interior.of(plus, minus, Termination.of(spec)).follow(voltages, None)
    else:
        inner = Interior.of(plus, minus, passive(spec))
        found, seen = _of_real(spec, inner, inputs, voltages, drawn)

    def whole(blocks: Tensor) -> Tensor:
        """(H, V, R, K, B) → (B, M, C)."""
        return layout.scatter(blocks.movedim(-1, 0))

    return CellVoltages(
        driven=inputs,
        cell=whole(found.input_line),
        positive=whole(found.positive),
        negative=whole(found.negative),
        positive_end=whole(seen.positive_end[..., None, :].expand_as(found.positive)),
        negative_end=whole(seen.negative_end[..., None, :].expand_as(found.negative)),
        conductances=spec.conductances,
    )


def _of_curved(spec: CrossbarSpec, layout: BlockLayout, inputs: Tensor) -> CellVoltages:
    """Of curved cells: their currents are known, and input lines fall by what they carry."""
    assert spec.cell is not None  # noqa: S101 - asked for such cells only
    refuse_amplifiers(spec)
    cells = CurvedCells(spec)
    bias = inputs[:1, -1].sum()  # 0 V of no image
    if not bool((inputs[:, -1] == bias).all()):
        raise SolverError(
            "inputs have different voltages on the bias line, the last one: a map of curved cells "
            "is solved for one of them at a time"
        )
    solved = solve_cells(cells, bias, NewtonOptions(), inputs[:, :-1])
    if bool((solved.status == int(Status.OUTSIDE)).any()):
        raise SolverError(
            f"a map of voltages inside arrays: cells ({spec.cell}) are at voltages beyond those "
            "that they are known at; measure further, or take smaller inputs or supplies"
        )
    if bool((solved.status != int(Status.CONVERGED)).any()):
        raise SolverError("a map of voltages inside arrays: curved cells were not found")
    currents, state = cells.currents(solved.state), solved.state.unbind(1)
    found = currents.current  # (B, 2, H, V, R, K)
    behind = found.sum(1).flip(-2).cumsum(-2).flip(-2)
    if spec.cell.gated and currents.leak is not None:
        found = currents.leak
    inner = spec.cell.over_memory(cells.cells, state[0], state[1] if len(state) > 1 else None)
    line = layout.gather_inputs(inputs)[:, :, None, None] - spec.input_segment * behind.cumsum(-2)
    positive, negative = (layout.scatter(line - side) for side in solved.state[:, 0].unbind(1))
    widths = torch.tensor([last - first for first, last in spec.column_ranges], device="cpu")
    widths = widths.to(inputs.device)
    return CellVoltages(
        driven=inputs,
        cell=layout.scatter(line),
        positive=positive,
        negative=negative,
        positive_end=solved.positive_end.repeat_interleave(widths, -1),
        negative_end=solved.negative_end.repeat_interleave(widths, -1),
        conductances=spec.conductances,
        curved=torch.stack([layout.scatter(side) for side in found.unbind(1)]),
        memory=torch.stack([layout.scatter(side) for side in inner.unbind(1)]),
        source=bias if spec.cell.gated else None,
    )


def _of_real(
    spec: CrossbarSpec,
    interior: Interior,
    inputs: Tensor,
    voltages: Tensor,
    drawn: Tensor | None,
) -> tuple[CellValues, PortResponse]:
    """With amplifiers that have offsets or a swing: known outputs, behind their resistors."""
    network, _ = eliminate_layer(spec)
    feedback = network.feedback
    assert feedback is not None  # noqa: S101 - read-outs are not ideal
    if feedback.notices and drawn is None:
        raise SolverError(
            "amplifiers that notice what they deliver (amplifier.table, open_loop_resistance) "
            "drive these neurons: a map of voltages inside arrays needs what they draw (drawn)"
        )
    sampled = network.with_sample()
    assert sampled.feedback is not None  # noqa: S101 - of the same network
    noticed = drawn[None] if feedback.notices and drawn is not None else None
    found = sampled.feedback.limited(sampled.blocks(inputs[None]), noticed)
    if not bool(found.converged.all()):
        raise SolverError("a map of voltages inside arrays: amplifiers were not found")
    return respond(interior, voltages, *feedback.injected(found.outputs[0], spec.read_out))

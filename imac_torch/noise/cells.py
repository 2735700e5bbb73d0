"""Small signals and noise of blocks of curved cells at an operating point.

A cell there is what its derivatives say, of both lines it is at, and a source of noise. The result
is no reciprocal network at one temperature, so that admittances do not tell the noise: it is the
sum over cells and wires of what each does to the ports. All of that is known from the voltages
inside the transposed network with one port after the other at 1 V (S. W. Director and R. A. Rohrer,
IEEE Trans. Circuit Theory 16, 318, 1969). Rows are eliminated from the last one up, nothing is
divided by the resistance of a segment, and wires may be ideal.

Shapes: N blocks of R rows and K columns, two sides; Q = 2R + K ports: the ends of the I+ lines,
those of the I- lines, and the input lines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN
from imac_torch.cells.base import Cell, Flicker
from imac_torch.dc.curved import solve_cells
from imac_torch.dc.newton import NewtonOptions
from imac_torch.dc.tangents import CurvedCells
from imac_torch.elimination.chain import Shunts
from imac_torch.elimination.linalg import solve
from imac_torch.errors import SolverError
from imac_torch.noise.ports import EndPorts
from imac_torch.numeric.modes import differentiating, leaf
from imac_torch.results.solution import Status

__all__ = ["CellSignals", "cell_signals", "curved_ports"]


@dataclass(frozen=True)
class CellSignals:
    """Cells of a layer at an operating point; (H, V, 2, R, K) each.

    With voltages l of the input line and p of the I± line the current out of the input line is
    a·l - b·p, that into the I± line c·l - d·p.

    Attributes:
        a: S.
        b: S.
        c: S.
        d: S.
        noise: A²/Hz, of the current through the cell.
        gated: Whether that comes from vdd, not from the input line.
        flicker: A²/Hz at 1 Hz, 1/f noise besides, and its exponent; None: none.
    """

    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    noise: Tensor
    gated: bool
    flicker: Flicker | None = None

    def noise_at(self, frequency: float) -> Tensor:
        """A²/Hz of the current at a frequency, Hz; at 0 without 1/f noise."""
        if self.flicker is None or frequency <= 0.0:
            return self.noise
        return self.noise + self.flicker.density * frequency**-self.flicker.exponent

    @property
    def transposed(self) -> CellSignals:
        """The same with what the lines do to each other exchanged."""
        return replace(self, b=self.c, c=self.b)

    def beside(self, admittance: Tensor) -> CellSignals:
        """With (H, V, 2, R, K) S between the two lines, complex, which make no noise."""
        parts = {name: getattr(self, name) + admittance for name in "abcd"}
        return replace(self, **parts)  # type: ignore[arg-type]


def cell_signals(
    array: CurvedCells, vdd: Tensor, inputs: Tensor, temperature: float, *, flicker: bool = True
) -> CellSignals:
    """The cells at (1, N) V on the lines, with their 1/f noise (``flicker``) or without.

    Raises:
        SolverError: There is no such operating point.
    """
    found = solve_cells(array, vdd, NewtonOptions(), inputs)
    if int(found.status[0]) not in (int(Status.CONVERGED), int(Status.OUTSIDE)):
        raise SolverError("curved cells were not found, and so no noise of them")
    cell, state = array.cell, found.state[0].movedim(1, 3)  # (Q, H, V, 2, R, K)
    conductance = array.cells.detach().movedim(0, 2)
    across, end = state[0], state[1] if cell.absolute else None
    (a, a_end), (leak, leak_end) = _derivatives(cell, conductance, across, end)
    return CellSignals(
        a, a - a_end, a + leak, a + leak - a_end - leak_end,
        cell.noise(conductance, across, end, temperature), cell.gated,
        cell.flicker(conductance, across, end) if flicker else None,
    )  # fmt: skip


def _derivatives(
    cell: Cell, conductance: Tensor, across: Tensor, end: Tensor | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Of the current and of the leak, by the voltage across and by that of the I± line."""
    with differentiating():
        at = [leaf(across), *([] if end is None else [leaf(end)])]
        found = cell.currents(conductance, at[0], *at[1:])
        pairs = []
        for item in (found.current, found.leak):
            if item is None or not item.requires_grad:
                parts = [torch.zeros_like(across)] * len(at)
            else:
                parts = list(torch.autograd.grad(
                    item.sum(), at, retain_graph=True, materialize_grads=True
                ))  # fmt: skip
            pairs.append((parts[0], parts[1] if len(at) > 1 else torch.zeros_like(across)))
    return pairs[0], pairs[1]


def curved_ports(
    cells: CellSignals,
    input_segment: Tensor,
    output_segment: Tensor,
    temperature: float,
    shunts: Shunts | None = None,
    frequency: float = 0.0,
) -> EndPorts:
    """Blocks as their ports see them, with their noise.

    Args:
        cells: Of all blocks.
        input_segment: Ω, 0-dimensional.
        output_segment: Ω, 0-dimensional.
        temperature: K, of the wires.
        shunts: (H, V, R, K) S each from nodes to ground, complex: capacitors at a frequency.
        frequency: Hz, of the noise.
    """
    batch = cells.a.shape[:2]
    dtype = cells.a.dtype if shunts is None else shunts.input_line.dtype
    flat = replace(
        cells, **{name: getattr(cells, name).flatten(0, 1).to(dtype) for name in "abcd"}
    )
    none = torch.zeros_like(flat.a)
    ground = none[:, 0], none
    if shunts is not None:
        ground = (
            shunts.input_line.flatten(0, 1),
            torch.stack([shunts.positive, shunts.negative], dim=2).flatten(0, 1),
        )
    segments = float(input_segment), float(output_segment)
    forward = _Inside.of(flat, *ground, *segments)
    back = _Inside.of(flat.transposed, *ground, *segments)
    seen = -back.lines if cells.gated else (back.rows[:, None] - back.lines)
    own = cells.noise_at(frequency).flatten(0, 1)[..., None].to(dtype)
    there = seen.conj()
    # i_q = Σ n·(λ_line - λ_end) of the cells' sources, and e·i of those in series with segments.
    covariance = torch.einsum("nsrkq,nsrkp->nqp", seen * own, there)
    thermal = 4.0 * BOLTZMANN * temperature
    for currents, resistance in ((back.down, segments[0]), (back.along, segments[1])):
        carried = currents.flatten(1, -2)
        covariance = covariance + thermal * resistance * carried.mT @ carried.conj()
    ends = 2 * cells.a.shape[3]
    whole = forward.ports.unflatten(0, batch)
    return EndPorts(
        whole[..., :ends, :ends], whole[..., :ends, ends:], whole[..., ends:, ends:],
        whole[..., ends:, :ends], covariance.unflatten(0, batch),
    )  # fmt: skip


@dataclass(frozen=True)
class _Inside:
    """Blocks with each port at 1 V in turn.

    Attributes:
        ports: (N, Q, Q) S, currents into the ports, per port at 1 V (last).
        rows: (N, R, K, Q) V of the input lines at the cells.
        lines: (N, 2, R, K, Q) V of the I± lines there.
        down: (N, R, K, Q) A in the segments of input lines in front of each cell.
        along: (N, 2, R, K, Q) A in the segments of I± lines behind each cell.
    """

    ports: Tensor
    rows: Tensor
    lines: Tensor
    down: Tensor
    along: Tensor

    @classmethod
    def of(
        cls, cells: CellSignals, at_rows: Tensor, at_lines: Tensor, inward: float, outward: float
    ) -> _Inside:
        """Eliminate blocks.

        Args:
            cells: (N, 2, R, K) each.
            at_rows: (N, R, K) S from input lines to ground.
            at_lines: (N, 2, R, K) S from I± lines to ground.
            inward: Ω, of an input line's segment.
            outward: Ω, of an I± line's.
        """
        count, _, rows, columns = cells.a.shape
        like, ports = cells.a, 2 * rows + columns
        places = torch.arange(columns, device=like.device)
        # From a cell to the end of its line, as far as another cell's current goes the same way.
        shared = outward * (columns - torch.maximum(places[:, None], places)).to(like.dtype)
        unit = torch.eye(columns, dtype=like.dtype, device=like.device)
        own = cells.d + at_lines  # (N, 2, R, K)
        matrix = unit + shared * own[..., None, :]
        right = torch.cat([unit[:, :1] * 0 + 1.0, shared], dim=1).expand(*own.shape[:3], -1, -1)
        solved = solve(
            matrix.flatten(0, 2), right.reshape(-1, columns, columns + 1)
        ).reshape(*own.shape, columns + 1)
        # Of the lines: p = by_end·e + by_row·l.
        by_end, by_row = solved[..., 0], solved[..., 1:] * cells.c[..., None, :]
        drawn = torch.diag_embed(cells.a.sum(1) + at_rows) - (cells.b[..., None] * by_row).sum(1)
        from_ends = like.new_zeros(count, rows, columns, 2 * rows)
        for side in range(2):
            for row in range(rows):
                from_ends[:, row, :, side * rows + row] = -(cells.b * by_end)[:, side, row]
        behind = like.new_zeros(count, columns, columns), like.new_zeros(count, columns, 2 * rows)
        through = []
        for row in range(rows - 1, -1, -1):
            admittance, sources = drawn[:, row] + behind[0], from_ends[:, row] + behind[1]
            both = solve(unit + inward * admittance, torch.cat([admittance, sources], dim=-1))
            behind = both[..., :columns], both[..., columns:]
            through.append(behind)
        through.reverse()
        line = torch.cat([like.new_zeros(columns, 2 * rows), unit], dim=1).expand(count, -1, -1)
        ends = torch.eye(2 * rows, ports, dtype=like.dtype, device=like.device)
        voltages, down = [], []
        for admittance, sources in through:
            current = admittance @ line + sources @ ends
            line = line - inward * current
            voltages.append(line)
            down.append(current)
        found = torch.stack(voltages, dim=1)  # (N, R, K, Q)
        at_end = ends.unflatten(0, (2, rows))[None, :, :, None]  # (1, 2, R, 1, Q)
        lines = by_end[..., None] * at_end + by_row @ found[:, None]
        into = cells.c[..., None] * found[:, None] - own[..., None] * lines
        along = into.cumsum(-2)
        whole = torch.cat([-along[..., -1, :].flatten(1, 2), down[0]], dim=1)
        return cls(whole, found, lines, torch.stack(down, dim=1), along)

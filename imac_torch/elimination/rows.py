"""Row recursion: blocks eliminated to their ports row by row. Best for the usual small arrays."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.elimination.blocks import Advance, BlockPorts, Termination
from imac_torch.elimination.chain import LineEnds, eliminate_lines
from imac_torch.elimination.linalg import solve
from imac_torch.kernels import Kernel, choose_kernel
from imac_torch.kernels.threads import run_blocks
from imac_torch.numeric.budget import CHUNK_BYTES
from imac_torch.numeric.modes import first_order, once

LOOKS: Final = 100
"""How often it is told how many blocks are done."""


def eliminate_rows(
    positive: Tensor,
    negative: Tensor,
    wires: Termination,
    *,
    kernel: Kernel = "auto",
    advance: Advance | None = None,
) -> BlockPorts:
    """Eliminate every inner node of a batch of blocks.

    Rows are joined by the input lines' segments of r Ω. With E_r the admittance of the block from
    row r on, seen from row r's input nodes, Y_r = (1 + r·E_r)⁻¹·E_r is the same seen through row
    r's segments, and E_{r-1} = A_{r-1} + Y_r; the source sees Y_1. Voltages of row r are
    1 - r·Y_r times those of row r-1. In this form nothing cancels, and r may be 0.

    Args:
        positive: (..., R, K) S, conductances of the I+ side; leading dimensions are blocks,
            partitions, samples.
        negative: (..., R, K) S.
        wires: Segments and amplifier inputs, shared by all blocks.
        kernel: "torch", "numba" (CPU, float64), or "auto".
        advance: Called with the number of blocks done just now.

    Returns:
        Ports with the same leading dimensions. Differentiable once in everything.

    Raises:
        SolverError: The kernel is unknown or cannot be used here; in backward, if a second
            derivative is asked for.
    """
    batch = positive.shape[:-2]
    count, columns = positive.shape[-2:]
    positive = positive.reshape(-1, count, columns)
    negative = negative.reshape(-1, count, columns)
    if choose_kernel(kernel, positive) == "numba":
        scalars = line_scalars(wires)
        admittance, positive_end, negative_end = _eliminate_compiled(
            positive, negative, scalars, advance
        )
    else:
        size = count * columns * columns * positive.element_size()
        step = max(1, CHUNK_BYTES // max(1, 8 * size))
        parts = []
        for k in range(0, max(1, positive.shape[0]), step):
            rows = eliminate_lines(positive[k : k + step], negative[k : k + step], wires)
            ends_of_rows = torch.stack([rows.positive_end, rows.negative_end], dim=-2)
            found = RowRecursion.apply(rows.admittance, ends_of_rows, wires.input_segment)
            parts.append(tuple(once(item) for item in found))
            if advance is not None:
                advance(len(positive[k : k + step]))
        admittance = torch.cat([part[0] for part in parts])
        transfers = torch.cat([part[1] for part in parts])
        positive_end, negative_end = transfers[..., 0, :], transfers[..., 1, :]
    return BlockPorts(
        admittance.reshape(*batch, columns, columns),
        positive_end.reshape(*batch, count, columns),
        negative_end.reshape(*batch, count, columns),
    )


def line_scalars(wires: Termination) -> Tensor:
    """(7,) as kernels have them, see :mod:`imac_torch.kernels.lines`."""
    ends = LineEnds.of(wires)
    return torch.stack([
        wires.input_segment, wires.output_segment, ends.positive_end, ends.negative_end,
        ends.positive_share, ends.negative_share, wires.alpha,
    ])  # fmt: skip


def reduce_rows(admittance: Tensor, segment: Tensor) -> Tensor:
    """Y_r of :func:`eliminate_rows` from the rows' admittances.

    Args:
        admittance: (..., R, K, K) S.
        segment: 0-dimensional, Ω.

    Returns:
        (..., R, K, K) S.
    """
    rows = admittance.flatten(0, -4) if admittance.ndim > 4 else admittance
    identity = torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    reduced = torch.empty_like(rows)
    excess = rows[:, -1]
    for r in range(rows.shape[1] - 1, -1, -1):
        reduced[:, r] = solve(identity + segment * excess, excess)
        if r > 0:
            excess = rows[:, r - 1] + reduced[:, r]
    return reduced.reshape(admittance.shape)


class RowRecursion(torch.autograd.Function):
    """The recursion over rows, with its adjoint.

    Let V_r = (1 - r·Y_r)·V_{r-1}, V_0 = 1 be the voltages of row r's nodes per source voltage and
    w_r its end transfers, so that ends are w_r·V_r. With cotangents Ȳ and t̄_r of the ports:
    upwards U_r = (1 - r·Y_r)ᵀ·(w_rᵀ·t̄_r + U_{r+1}), downwards the adjoint voltages
    L_r = (1 - r·Y_r)ᵀ·L_{r-1} - r·U_r, L_0 = Ȳ. Then Ā_r = L_r·V_rᵀ, w̄_r = t̄_r·V_rᵀ and
    r̄ = -Σ <Y_rᵀ·L_{r-1} + U_r, Y_r·V_{r-1}>, a product of currents: Tellegen's theorem. Products
    only, no further solve, and their number does not depend on how many ends there are.
    """

    @staticmethod
    def forward(
        ctx: Any, admittance: Tensor, ends: Tensor, segment: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, R, K, K) S, (B, R, 2, K), Ω → (B, K, K) S, (B, R, 2, K)."""
        blocks, count, columns, _ = admittance.shape
        reduced = reduce_rows(admittance, segment)
        transfers = torch.empty_like(ends)
        voltages = torch.eye(columns, dtype=admittance.dtype, device=admittance.device)
        voltages = voltages.expand(blocks, columns, columns)
        for r in range(count):
            voltages = voltages - segment * (reduced[:, r] @ voltages)
            transfers[:, r] = ends[:, r] @ voltages
        ctx.save_for_backward(reduced, ends, segment)
        return reduced[:, 0].clone(), transfers

    @staticmethod
    def backward(
        ctx: Any, grad_admittance: Tensor, grad_transfers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cotangents of the ports to those of the rows and of the segment."""
        reduced, ends, segment = ctx.saved_tensors
        blocks, count, columns, _ = reduced.shape
        upward = torch.empty_like(reduced)
        source = torch.zeros_like(grad_admittance)
        for r in range(count - 1, -1, -1):
            source = source + ends[:, r].mT @ grad_transfers[:, r]
            source = source - segment * (reduced[:, r].mT @ source)
            upward[:, r] = source
        grad_rows = torch.empty_like(reduced)
        grad_ends = torch.empty_like(ends)
        grad_segment = torch.zeros_like(segment)
        voltages = torch.eye(columns, dtype=reduced.dtype, device=reduced.device)
        voltages = voltages.expand(blocks, columns, columns)
        adjoints = grad_admittance
        for r in range(count):
            currents = reduced[:, r] @ voltages
            adjoint_currents = reduced[:, r].mT @ adjoints + upward[:, r]
            grad_segment = grad_segment - (currents * adjoint_currents).sum()
            voltages = voltages - segment * currents
            adjoints = adjoints - segment * adjoint_currents
            grad_rows[:, r] = adjoints @ voltages.mT
            grad_ends[:, r] = grad_transfers[:, r] @ voltages.mT
        return grad_rows, grad_ends, grad_segment


def _eliminate_compiled(
    positive: Tensor, negative: Tensor, scalars: Tensor, advance: Advance | None
) -> tuple[Tensor, Tensor, Tensor]:
    if torch.is_grad_enabled() and any(x.requires_grad for x in (positive, negative, scalars)):
        result: tuple[Tensor, Tensor, Tensor] = CompiledElimination.apply(
            positive, negative, scalars
        )
        return result
    return _run_forward(positive, negative, scalars, None, advance)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.ascontiguousarray(tensor.detach().numpy())


def _run_forward(
    positive: Tensor,
    negative: Tensor,
    scalars: Tensor,
    saved: NDArray[np.float64] | None,
    advance: Advance | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    count, columns = positive.shape[1:]
    return _run_cut(positive, negative, (count,), (columns,), scalars, saved, advance)


def eliminate_cut(
    positive: Tensor,
    negative: Tensor,
    row_ends: tuple[int, ...],
    column_ends: tuple[int, ...],
    wires: Termination,
    advance: Advance | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Eliminate the blocks of layers where they lie, compiled and without gradients.

    Args:
        positive: (..., M, C) S, conductances of the I+ side.
        negative: (..., M, C) S.
        row_ends: Last rows (1-based) of the V vertical partitions.
        column_ends: Last columns of the H horizontal partitions.
        wires: Segments and amplifier inputs.
        advance: Called with the number of blocks done just now.

    Returns:
        (..., H, V, K, K) S, and ends of the I+ and I- lines, (..., M, C) twice: what the ports of
        :class:`imac_torch.elimination.blocks.BlockPorts` are before and after ``scatter``.
    """
    first, second = (
        side.detach().reshape(-1, *side.shape[-2:]) for side in (positive, negative)
    )
    admittance, plus, minus = _run_cut(
        first, second, row_ends, column_ends, line_scalars(wires), None, advance
    )
    blocks = (*positive.shape[:-2], len(column_ends), len(row_ends), *admittance.shape[-2:])
    return admittance.reshape(blocks), plus.reshape_as(positive), minus.reshape_as(positive)


def _run_cut(
    positive: Tensor,
    negative: Tensor,
    row_ends: tuple[int, ...],
    column_ends: tuple[int, ...],
    scalars: Tensor,
    saved: NDArray[np.float64] | None,
    advance: Advance | None,
) -> tuple[Tensor, Tensor, Tensor]:
    from imac_torch.kernels import rows as kernels  # imports numba

    cuts = [np.array([0, *ends]) for ends in (row_ends, column_ends)]
    blocks = len(positive) * len(row_ends) * len(column_ends)
    columns = int(np.diff(cuts[1]).max())
    admittance = np.empty((blocks, columns, columns))
    ends = np.empty((2, *positive.shape))
    sides = _array(positive), _array(negative)
    saved = np.empty((0, 0, 0, 0)) if saved is None else saved
    arguments = *sides, *cuts, _array(scalars), admittance, ends[0], ends[1], saved
    threads = torch.get_num_threads()
    step = max(blocks, 1) if advance is None else max(8 * threads, -(-blocks // LOOKS))
    for first in range(0, blocks, step):

        def shifted(begin: int, end: int, *rest: Any, first: int = first) -> None:  # noqa: ANN401
            kernels.eliminate_up(first + begin, first + end, *rest)

        count = min(step, blocks - first)
        run_blocks(shifted, count, threads, *arguments)
        if advance is not None:
            advance(count)
    return torch.from_numpy(admittance), torch.from_numpy(ends[0]), torch.from_numpy(ends[1])


class CompiledElimination(torch.autograd.Function):
    """Lines and rows in one compiled pass over each block, and its adjoint."""

    @staticmethod
    def forward(
        ctx: Any, positive: Tensor, negative: Tensor, scalars: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, R, K) S twice, (7,) → (B, K, K) S, (B, R, K) twice."""
        from imac_torch.kernels.rows import padded

        blocks, count, columns = positive.shape
        width = padded(columns)
        fits = 8 * blocks * count * width**2 <= CHUNK_BYTES
        ctx.reduced = np.empty((blocks if fits else 0, count, width, width))
        ctx.save_for_backward(positive, negative, scalars)
        return _run_forward(positive, negative, scalars, ctx.reduced if fits else None)

    @staticmethod
    def backward(
        ctx: Any, grad_admittance: Tensor, grad_positive_end: Tensor, grad_negative_end: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cotangents of the ports to those of conductances and scalars."""
        from imac_torch.kernels import rows as kernels

        positive, negative, scalars = ctx.saved_tensors
        blocks = positive.shape[0]
        gradients = np.empty((2, *positive.shape))
        grad_scalars = np.zeros((blocks, scalars.shape[0]))
        run_blocks(
            kernels.eliminate_backward,
            blocks,
            torch.get_num_threads(),
            _array(positive),
            _array(negative),
            _array(scalars),
            ctx.reduced,
            _array(grad_admittance),
            _array(grad_positive_end),
            _array(grad_negative_end),
            gradients[0],
            gradients[1],
            grad_scalars,
        )
        found = (gradients[0], gradients[1], grad_scalars.sum(axis=0))
        first, second, third = (
            first_order(torch.from_numpy(item), *ctx.saved_tensors) for item in found
        )
        return first, second, third

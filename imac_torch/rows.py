"""Row recursion: blocks eliminated to their ports row by row. Best for the usual small arrays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imac_torch.blocks import BlockPorts, Termination
from imac_torch.chain import RowNetworks, eliminate_lines


def eliminate_rows(positive: Tensor, negative: Tensor, wires: Termination) -> BlockPorts:
    """Eliminate every inner node of a batch of blocks.

    Rows are joined by the input lines' segments gv. With E_r the admittance of the block below
    and including row r, seen from row r's input nodes, X_r = (gv + E_r)⁻¹·E_r and
    E_{r-1} = A_{r-1} + gv·X_r; the source sees Y = gv·X_1. Voltages of row r are (1 - X_r) times
    those of row r-1. In this form (excess admittances) nothing cancels.

    Args:
        positive: (..., R, K) S, conductances of the I+ side.
        negative: (..., R, K) S.
        wires: Segments and amplifier inputs.

    Returns:
        Ports with the same leading dimensions. Differentiable in everything.
    """
    rows = eliminate_lines(positive, negative, wires)
    if float(wires.input_segment) == 0.0:
        return BlockPorts(rows.admittance.sum(-3), rows.positive_end, rows.negative_end)
    return _join_rows(rows, 1.0 / wires.input_segment)


def _join_rows(rows: RowNetworks, wire: Tensor) -> BlockPorts:
    batch = rows.admittance.shape[:-3]
    count, columns = rows.admittance.shape[-3:-1]
    ends = torch.stack([rows.positive_end, rows.negative_end], dim=-2)
    admittance, transfers = _RowRecursion.apply(
        rows.admittance.reshape(-1, count, columns, columns),
        ends.reshape(-1, count, 2, columns),
        wire,
    )
    transfers = transfers.reshape(*batch, count, 2, columns)
    return BlockPorts(
        admittance.reshape(*batch, columns, columns),
        transfers[..., 0, :],
        transfers[..., 1, :],
    )


class _RowRecursion(torch.autograd.Function):
    """The recursion over rows with its adjoint.

    With cotangents of X from Y and from the transfers, E = gv·X/(1-X) gives
    Ē = (1-X)ᵀ·X̄·(1-X)ᵀ/gv: the adjoint needs products only, no further solve.
    """

    @staticmethod
    def forward(
        ctx: Any, admittance: Tensor, ends: Tensor, wire: Tensor  # noqa: ANN401 - torch's context
    ) -> tuple[Tensor, Tensor]:
        blocks, count, columns, _ = admittance.shape
        identity = torch.eye(columns, dtype=admittance.dtype, device=admittance.device)
        transfers = ends.clone()
        inner = torch.empty_like(admittance)  # X_r
        excess = admittance[:, -1]
        for r in range(count - 1, -1, -1):
            solved = torch.linalg.solve(excess + wire * identity, excess)
            inner[:, r] = solved
            below = transfers[:, r:].reshape(blocks, -1, columns)
            below -= below @ solved
            if r > 0:
                excess = admittance[:, r - 1] + wire * solved
        ctx.save_for_backward(inner, ends, wire)
        return wire * inner[:, 0], transfers

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_admittance: Tensor, grad_transfers: Tensor  # noqa: ANN401
    ) -> tuple[Tensor, Tensor, Tensor]:
        inner, ends, wire = ctx.saved_tensors
        blocks, count, columns, _ = inner.shape
        # partial[r]: transfers of rows r..R from row r-1's nodes, rebuilt from the last row up.
        partial = ends.clone()
        stored: list[Tensor] = [partial] * count
        for r in range(count - 1, -1, -1):
            stored[r] = partial[:, r:].reshape(blocks, -1, columns).clone()
            below = partial[:, r:].reshape(blocks, -1, columns)
            below -= below @ inner[:, r]
        grad_rows = torch.empty_like(inner)
        grad_ends = torch.empty_like(ends)
        grad_wire = (grad_admittance * inner[:, 0]).sum()
        cotangent = wire * grad_admittance
        flowing = grad_transfers.reshape(blocks, -1, columns)
        for r in range(count):
            cotangent = cotangent - stored[r].transpose(-1, -2) @ flowing
            kept = flowing - flowing @ inner[:, r].transpose(-1, -2)
            grad_ends[:, r] = kept[:, :2]
            flowing = kept[:, 2:]
            # (1-X)ᵀ·X̄·(1-X)ᵀ / gv
            left = cotangent - inner[:, r].transpose(-1, -2) @ cotangent
            grad_excess = (left - left @ inner[:, r].transpose(-1, -2)) / wire
            grad_rows[:, r] = grad_excess
            # dX/dgv at fixed E is -(1-X)·X/gv
            grad_wire = grad_wire - (left * inner[:, r]).sum() / wire
            if r + 1 < count:
                grad_wire = grad_wire + (grad_excess * inner[:, r + 1]).sum()
                cotangent = wire * grad_excess
        return grad_rows, grad_ends, grad_wire

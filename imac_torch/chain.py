"""One crossbar row, its two I± lines eliminated: exact, for all rows of all blocks at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.blocks import Termination


@dataclass(frozen=True)
class RowNetworks:
    """Rows seen from their cells' input sides.

    Attributes:
        admittance: (..., R, K, K) S, current out of each input node into the row.
        positive_end: (..., R, K), voltage of the I+ end per input node voltage.
        negative_end: (..., R, K), voltage of the I- end per input node voltage.
    """

    admittance: Tensor
    positive_end: Tensor
    negative_end: Tensor


def chain_inverse(conductance: Tensor, segment: Tensor, end: Tensor) -> Tensor:
    """Resistance matrices of lines: node voltages per injected current.

    A line is a chain of nodes joined by ``segment``, each with its cell's ``conductance`` to a
    common reference and the last one with ``end`` besides. A tridiagonal matrix has a
    semiseparable inverse (Vandebril et al., "Matrix Computations and Semiseparable Matrices",
    2008, ch. 1): Z_ij = Z_jj·Π_{k=i}^{j-1} l_k for i < j, where l_k is the voltage ratio of
    neighbouring nodes for a current injected further on. Everything is a sum or a ratio of
    positive numbers, so no digits are lost, however small the conductances.

    Args:
        conductance: (..., K) S, >= 0.
        segment: 0-dimensional, Ω, > 0.
        end: 0-dimensional, S, > 0.

    Returns:
        (..., K, K) Ω, symmetric.
    """
    wire = 1.0 / segment
    columns = conductance.shape[-1]
    left = [conductance[..., 0]]  # conductance seen at node i with the rest of the line cut
    for i in range(1, columns):
        left.append(conductance[..., i] + wire * left[-1] / (wire + left[-1]))
    right = [conductance[..., -1] + end]
    for i in range(columns - 2, -1, -1):
        right.append(conductance[..., i] + wire * right[-1] / (wire + right[-1]))
    from_left = torch.stack(left, dim=-1)
    from_right = torch.stack(right[::-1], dim=-1)
    diagonal = 1.0 / (from_left + (from_right - conductance))
    ratio = torch.log1p(from_left[..., :-1] * segment)  # -log l_k
    total = torch.nn.functional.pad(ratio.cumsum(-1), (1, 0))
    decay = torch.exp(-(total[..., None, :] - total[..., :, None]).clamp(min=0.0))
    upper = torch.triu(decay * diagonal[..., None, :])
    return upper + torch.triu(upper, diagonal=1).transpose(-1, -2)


def eliminate_lines(positive: Tensor, negative: Tensor, wires: Termination) -> RowNetworks:
    """Eliminate the I+ and I- line of every row.

    With Z± the resistance matrices of the lines, G± = diag(g±), end transfers w+ (I+ end per
    input node) and α·w+ the voltage of the amplifier's virtual node, which the I- line ends in:
    A = G+ + G- - G+Z+G+ - G-Z-G- - u·α·w+ᵀ (u: current into the nodes per virtual-node voltage).

    Args:
        positive: (..., R, K) S.
        negative: (..., R, K) S.
        wires: Segment resistances and amplifier inputs; an ideal line has segment 0.

    Returns:
        The rows' admittances and end transfers.
    """
    identity = torch.eye(positive.shape[-1], dtype=positive.dtype, device=positive.device)
    if float(wires.output_segment) > 0.0:
        segment = wires.output_segment
        positive_end = 1.0 / (segment + wires.positive_load)
        negative_end = 1.0 / (segment + wires.negative_load)
        z_plus = chain_inverse(positive, segment, positive_end)
        z_minus = chain_inverse(negative, segment, negative_end)
        share_plus = wires.positive_load * positive_end
        share_minus = wires.negative_load * negative_end
        reach_plus = z_plus[..., -1, :] * positive
        reach_minus = z_minus[..., -1, :] * negative
    else:
        negative_end = 1.0 / wires.negative_load
        sum_plus = positive.sum(-1, keepdim=True) + 1.0 / wires.positive_load
        sum_minus = negative.sum(-1, keepdim=True) + negative_end
        z_plus = (1.0 / sum_plus)[..., None].expand(*positive.shape, positive.shape[-1])
        z_minus = (1.0 / sum_minus)[..., None].expand(*negative.shape, negative.shape[-1])
        share_plus = share_minus = torch.ones_like(wires.alpha)
        reach_plus = positive / sum_plus
        reach_minus = negative / sum_minus
    end_plus = share_plus * reach_plus
    # The virtual node drives the I- line through negative_end; nodes respond by Z-[:, last].
    virtual = wires.alpha * end_plus
    last = z_minus[..., -1, -1, None]
    driven_end = share_minus * last * negative_end + (1.0 - share_minus)
    end_minus = share_minus * reach_minus + driven_end * virtual
    admittance = (
        identity * (positive + negative)[..., None, :]
        - positive[..., :, None] * z_plus * positive[..., None, :]
        - negative[..., :, None] * z_minus * negative[..., None, :]
        - (negative_end * reach_minus)[..., :, None] * virtual[..., None, :]
    )
    return RowNetworks(admittance, end_plus, end_minus)

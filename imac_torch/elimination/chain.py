"""One crossbar row, its two I± lines eliminated: exact, for all rows of all blocks at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.elimination.blocks import Termination


@dataclass(frozen=True)
class RowNetworks:
    """Rows seen from their cells' input sides.

    Attributes:
        admittance: (..., R, K, K) S, current out of each input node into the row.
        positive_end: (..., R, K), voltage of the I+ end per input node voltage.
        negative_end: (..., R, K), voltage of the I- end per input node voltage.
        positive_line: (..., R, K, K) Ω, node voltages of the I+ line per injected current.
        negative_line: Likewise of the I- line, the virtual node at 0 V.
    """

    admittance: Tensor
    positive_end: Tensor
    negative_end: Tensor
    positive_line: Tensor
    negative_line: Tensor


@dataclass(frozen=True)
class Shunts:
    """Conductances from the nodes of cells to ground, (..., R, K) S each, or capacitances."""

    input_line: Tensor
    positive: Tensor
    negative: Tensor

    def times(self, factor: float) -> Shunts:
        """Times a number."""
        return Shunts(self.input_line * factor, self.positive * factor, self.negative * factor)


@dataclass(frozen=True)
class LineEnds:
    """What I± lines end in, as two-terminal elements; 0-dimensional tensors.

    Attributes:
        positive_end: S, from the last node of an I+ line to ground.
        negative_end: S, from the last node of an I- line to the virtual node.
        positive_share: Voltage of the I+ end per voltage of the last node.
        negative_share: Likewise of the I- end, both relative to the virtual node.
    """

    positive_end: Tensor
    negative_end: Tensor
    positive_share: Tensor
    negative_share: Tensor

    @classmethod
    def of(cls, wires: Termination) -> LineEnds:
        """The last segment in series with the amplifier's input."""
        positive_end = 1.0 / (wires.output_segment + wires.positive_load)
        negative_end = 1.0 / (wires.output_segment + wires.negative_load)
        return cls(
            positive_end,
            negative_end,
            wires.positive_load * positive_end,
            wires.negative_load * negative_end,
        )

    def voltages(
        self, positive: Tensor, negative: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """V of the I+ and I- ends from the last nodes' V and the read-out's coupling."""
        positive_end = self.positive_share * positive
        share = self.negative_share
        return positive_end, share * negative + (1.0 - share) * (alpha * positive_end)


def _chain(
    conductance: Tensor, segment: Tensor, end: Tensor, shunt: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(..., K, K) resistance matrices of lines, and (..., K) S beside each node's own cell.

    A line is a chain of nodes joined by ``segment``, each with its cell's ``conductance`` (and a
    ``shunt``) to a common reference and the last one with ``end`` besides; the matrices are node
    voltages per injected current. A tridiagonal matrix has a
    semiseparable inverse (Vandebril et al., "Matrix Computations and Semiseparable Matrices",
    2008, ch. 1): Z_ij = Z_jj·Π_{k=i}^{j-1} l_k for i < j, where l_k is the voltage ratio of
    neighbouring nodes for a current injected further on. Everything is a sum or a ratio of
    positive numbers, so no digits are lost, however small the conductances.
    """
    if shunt is not None:
        conductance = conductance + shunt
    columns = conductance.shape[-1]
    nothing = torch.zeros_like(conductance[..., 0])
    from_left = [nothing]
    for i in range(columns - 1):
        own = conductance[..., i] + from_left[-1]
        from_left.append(own / (1.0 + segment * own))
    from_right = [nothing + end]
    for i in range(columns - 1, 0, -1):
        own = conductance[..., i] + from_right[-1]
        from_right.append(own / (1.0 + segment * own))
    left = torch.stack(from_left, dim=-1)
    others = left + torch.stack(from_right[::-1], dim=-1)
    diagonal = 1.0 / (conductance + others)
    ratio = torch.log1p((conductance + left)[..., :-1] * segment)  # -log l_k
    total = torch.nn.functional.pad(ratio.cumsum(-1), (1, 0))
    # Below the diagonal, where exponents would grow, they are 0 and left out afterwards.
    decay = torch.exp(-torch.triu(total[..., None, :] - total[..., :, None]))
    upper = torch.triu(decay * diagonal[..., None, :])
    whole = upper + torch.triu(upper, diagonal=1).transpose(-1, -2)
    return whole, others if shunt is None else others + shunt


def eliminate_lines(
    positive: Tensor, negative: Tensor, wires: Termination, shunts: Shunts | None = None
) -> RowNetworks:
    """Eliminate the I+ and I- line of every row.

    With Z± the resistance matrices of the lines, G± = diag(g±), end transfers w+ (I+ end per
    input node) and α·w+ the voltage of the amplifier's virtual node, which the I- line ends in:
    A = G+ + G- - G+Z+G+ - G-Z-G- - u·α·w+ᵀ (u: current into the nodes per virtual-node voltage).
    The diagonal g - g²Z_ii is evaluated as g·o·Z_ii, o being what else meets at the node: where
    cells conduct well, the line floats at their voltage and the difference would cancel.

    Args:
        positive: (..., R, K) S.
        negative: (..., R, K) S.
        wires: Segment resistances and amplifier inputs; an ideal line has segment 0.
        shunts: From the nodes to ground; None: nothing.
    """
    ends = LineEnds.of(wires)
    shunt_plus, shunt_minus = (
        (None, None) if shunts is None else (shunts.positive, shunts.negative)
    )
    segment = wires.output_segment
    z_plus, others_plus = _chain(positive, segment, ends.positive_end, shunt_plus)
    z_minus, others_minus = _chain(negative, segment, ends.negative_end, shunt_minus)
    reach_plus = z_plus[..., -1, :] * positive
    reach_minus = z_minus[..., -1, :] * negative
    end_plus = ends.positive_share * reach_plus
    # The virtual node drives the I- line through negative_end; nodes respond by Z-[:, last].
    virtual = wires.alpha * end_plus
    share = ends.negative_share
    driven_end = share * z_minus[..., -1, -1, None] * ends.negative_end + (1.0 - share)
    end_minus = share * reach_minus + driven_end * virtual
    diagonal = positive * others_plus * z_plus.diagonal(dim1=-2, dim2=-1)
    diagonal = diagonal + negative * others_minus * z_minus.diagonal(dim1=-2, dim2=-1)
    if shunts is not None:
        diagonal = diagonal + shunts.input_line
    mutual = positive[..., :, None] * z_plus * positive[..., None, :]
    mutual = mutual + negative[..., :, None] * z_minus * negative[..., None, :]
    elsewhere = 1.0 - torch.eye(
        positive.shape[-1], dtype=positive.dtype, device=positive.device
    )
    admittance = (
        torch.diag_embed(diagonal)
        - mutual * elsewhere
        - (ends.negative_end * reach_minus)[..., :, None] * virtual[..., None, :]
    )
    return RowNetworks(admittance, end_plus, end_minus, z_plus, z_minus)

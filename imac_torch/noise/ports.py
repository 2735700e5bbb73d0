"""Blocks with the ends of their lines as ports, at one frequency: what noise theory asks for.

A passive reciprocal network at one temperature has, between ports that are held, noise currents
with the covariance 4kT·Re(Y) per Hz (H. Nyquist, Phys. Rev. 32, 110, 1928; R. Q. Twiss, J. Appl.
Phys. 26, 599, 1955): cells and wires of a block need no sum over them, only their admittance Y
between input lines and line ends.

Shapes: blocks (...,) of R rows and K columns, 2R ends (I+ first, then I-).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.base.units import BOLTZMANN
from imac_torch.elimination.blocks import Termination
from imac_torch.elimination.chain import Shunts
from imac_torch.elimination.interior import Interior
from imac_torch.elimination.linalg import solve


@dataclass(frozen=True)
class EndPorts:
    """Admittances of blocks between their input lines and their line ends.

    Attributes:
        ends: (..., 2R, 2R) S, currents into the ends per voltage at the ends.
        across: (..., 2R, K) S, likewise per voltage at the input lines.
        lines: (..., K, K) S.
        back: (..., K, 2R) S, currents into the input lines per voltage at the ends; None: the
            transpose of ``across``.
        known: (..., 2R + K, 2R + K) A²/Hz, covariance of the ports' noise, the ends first; None:
            that of a reciprocal network at one temperature.
    """

    ends: Tensor
    across: Tensor
    lines: Tensor
    back: Tensor | None = None
    known: Tensor | None = None

    @property
    def returned(self) -> Tensor:
        """(..., K, 2R) S, currents into the input lines per voltage at the ends."""
        return self.across.transpose(-1, -2) if self.back is None else self.back

    @property
    def whole(self) -> Tensor:
        """(..., 2R + K, 2R + K) S, the ends first."""
        return torch.cat(
            [
                torch.cat([self.ends, self.across], dim=-1),
                torch.cat([self.returned, self.lines], dim=-1),
            ],
            dim=-2,
        )

    def covariance(self, temperature: float) -> Tensor:
        """(..., 2R + K, 2R + K) A²/Hz of the ports' currents, these held at 0 V, the ends first."""
        if self.known is not None:
            return self.known
        whole = self.whole
        return (4.0 * BOLTZMANN * temperature * whole.real).to(whole.dtype)


def end_ports(
    positive: Tensor,
    negative: Tensor,
    input_segment: Tensor,
    output_segment: Tensor,
    shunts: Shunts | None = None,
) -> EndPorts:
    """Eliminate every inner node of blocks, the ends of I± lines being ports.

    The lines end in a resistance of the size of their own first, and impedances at the ends are
    found by the recursion over rows; their inverse less that resistance is what is asked for.
    Nothing cancels that way, and wires may be ideal.

    Args:
        positive: (..., R, K) S.
        negative: (..., R, K) S.
        input_segment: Ω, 0-dimensional.
        output_segment: Ω, 0-dimensional.
        shunts: (..., R, K) S each from nodes to ground, complex: capacitors at a frequency.
    """
    batch, (count, columns) = positive.shape[:-2], positive.shape[-2:]
    positive, negative = (side.reshape(-1, count, columns) for side in (positive, negative))
    if shunts is not None:
        parts = (shunts.input_line, shunts.positive, shunts.negative)
        shunts = Shunts(*(part.reshape(-1, count, columns) for part in parts))
        positive, negative = positive.to(parts[0].dtype), negative.to(parts[0].dtype)
    sides = [abs(side).sum(-1).mean().clamp(min=1e-12) for side in (positive, negative)]
    zero = torch.zeros_like(input_segment)
    loads_of = (1.0 / sides[0], 1.0 / sides[1])
    wires = Termination(input_segment, output_segment, *loads_of, zero)
    inner = Interior.of(positive, negative, wires, shunts)
    impedance, carried = _responses(inner)
    # From the last nodes to the ends: a segment, then the termination.
    last = torch.stack([inner.ends.positive_share, inner.ends.negative_share])
    share = last.repeat_interleave(count).to(impedance.dtype)
    loads = torch.stack(sides).repeat_interleave(count)
    beyond = output_segment / (1.0 + output_segment * loads)  # segment and load in parallel
    impedance = share[:, None] * impedance * share + torch.diag(beyond).to(impedance.dtype)
    carried = carried * share  # (blocks, K, 2R): into the lines per current into an end
    identity = torch.eye(2 * count, dtype=impedance.dtype, device=impedance.device)
    inverse = solve(impedance, identity.expand_as(impedance))
    inverse = 0.5 * (inverse + inverse.transpose(-1, -2))
    ends = inverse - torch.diag(loads).to(inverse.dtype)
    across = inverse @ carried.transpose(-1, -2)
    lines = inner.admittance + carried @ across
    lines = 0.5 * (lines + lines.transpose(-1, -2))
    return EndPorts(*(item.reshape(*batch, *item.shape[1:]) for item in (ends, across, lines)))


def _responses(inner: Interior) -> tuple[Tensor, Tensor]:
    """What currents into the last nodes of I± lines do.

    Returns:
        (blocks, 2R, 2R) Ω at the last nodes, and (blocks, K, 2R) A into the lines per A.
    """
    positive, negative = inner.positive, inner.negative  # (blocks, R, K)
    blocks, count, columns = positive.shape
    segment = inner.wires.input_segment
    # Per row and side: voltage of the last node per cell's input voltage, and by reciprocity
    # minus the current drawn from the input nodes per current into the last node.
    reach = [
        inner.positive_line[..., -1, :] * positive, inner.negative_line[..., -1, :] * negative
    ]  # fmt: skip
    own = [inner.positive_line[..., -1, -1], inner.negative_line[..., -1, -1]]
    behind = [positive.new_zeros(0)] * count
    below = positive.new_zeros(blocks, columns, 2, count)
    for row in range(count - 1, -1, -1):
        below = below.clone()
        for side in range(2):
            below[:, :, side, row] -= reach[side][:, row]
        flat = below.flatten(-2)
        flat = flat - segment * (inner.reduced[:, row] @ flat)
        below = flat.unflatten(-1, (2, count))
        behind[row] = flat
    impedance = positive.new_zeros(blocks, 2, count, 2 * count)
    voltages = torch.zeros_like(behind[0])
    for row in range(count):
        voltages = voltages - segment * (inner.reduced[:, row] @ voltages + behind[row])
        for side in range(2):
            impedance[:, side, row] = (reach[side][:, row, None, :] @ voltages)[:, 0]
            impedance[:, side, row, side * count + row] += own[side][:, row]
    return impedance.flatten(1, 2), behind[0]

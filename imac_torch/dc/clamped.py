"""Amplifiers with offsets and a swing at the lines of curved cells.

For ends e an amplifier puts out o = clamp(U·e + n·v_os), see
:mod:`imac_torch.periphery.readout.opamp`. Lines are solved as if all of them were linear, U·e, and
what the outputs differ by from that is sent into the ends through the feedback. An end moves back
by a part of what it is moved by, the source resistance of its line beside the read-out's over that
of the read-out, so that this converges with the cells' own iteration where ends are no virtual
ground.

Shapes: B input vectors; H, V partitions of R rows; M outputs, L slices; n amplifiers of a read-out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec
from imac_torch.elimination.blocks import BlockLayout
from imac_torch.elimination.ports import refuse_real
from imac_torch.errors import SolverError
from imac_torch.periphery.readout.opamp import OpAmp

__all__ = ["ClampedAmplifiers", "refuse_amplifiers"]


def refuse_amplifiers(spec: CrossbarSpec) -> None:
    """Say which amplifiers curved cells cannot have.

    Raises:
        SolverError: They notice what they deliver, or hold lines at virtual ground within a swing,
            from where the iteration above does not lead to a rail.
    """
    read_out = spec.read_out
    real = read_out.imperfections
    if read_out.loaded:
        refuse_real(spec, "the solution of curved cells")
    if read_out.proportional and real is not None and real.saturates:
        raise SolverError(
            f"amplifier.kind = {read_out.kind!r} holds lines of curved cells ({spec.cell}) at "
            "virtual ground, and its swing is known in netlists only: leave amplifier.swing out, "
            "or take kind = 'differential'"
        )


@dataclass(frozen=True)
class ClampedAmplifiers:
    """All amplifiers of a layer.

    Attributes:
        layout: Where rows lie in blocks.
        amplifiers: Of a read-out.
        offsets: (M·L or 1, H or 1, n) V, what offsets make of outputs.
        low: V.
        high: V.
    """

    layout: BlockLayout
    amplifiers: tuple[OpAmp, ...]
    offsets: Tensor
    low: float
    high: float

    @classmethod
    def of(cls, spec: CrossbarSpec, layout: BlockLayout) -> ClampedAmplifiers | None:
        """Of a layer; None: they are linear."""
        real, amplifiers = spec.read_out.imperfections, spec.read_out.amplifiers
        if real is None:
            return None
        gains = torch.stack([item.by_offset for item in amplifiers])
        return cls(layout, amplifiers, real.offsets * gains, real.low, real.high)

    def outputs(self, ends: tuple[Tensor, Tensor]) -> Tensor:
        """(..., M·L, H, n) V for (..., M·L, H) V of I+ and of I- ends."""
        linear = torch.stack([item.open_output(*ends) for item in self.amplifiers], -1)
        return (linear + self.offsets).clamp(self.low, self.high)

    def injected(self, ends: Tensor) -> Tensor:
        """(B, 2, H, V, R) A into the ends besides what linear amplifiers send, for V of both."""
        plus, minus = ends.unbind(1)
        linear = torch.stack([item.open_output(plus, minus) for item in self.amplifiers], -1)
        count, parts = len(self.layout.row_position), len(self.layout.column_index)
        whole = self.offsets.expand(count, parts, len(self.amplifiers))
        offsets = self.layout.gather_rows(whole).unflatten(-1, (-1, len(self.amplifiers)))
        beyond = (linear + offsets).clamp(self.low, self.high) - linear
        sides = (
            torch.stack([getattr(item, side) for item in self.amplifiers])
            for side in ("to_positive", "to_negative")
        )
        return torch.stack([beyond @ side for side in sides], 1)

    def in_blocks(self, ends: tuple[Tensor, Tensor]) -> Tensor:
        """(B, 2, H, V, R) V of (B, M·L, H) V of both ends."""
        return torch.stack([self.layout.gather_rows(end[..., None]) for end in ends], 1)

"""Operational amplifiers whose outputs notice what they deliver, and what is around them.

The block is known for amplifiers that are linear (:mod:`imac_torch.elimination.feedback`): with w
what outputs are short of that, o = O - (1 + E)·w, and the line ends move by w times a matrix. Any
outputs are some w. What decides them is Kirchhoff's law at every output: the amplifier's own
current is what goes through its feedback and, where its output is the read-out's, on to where
partitions meet and to the neuron.

Shapes: S samples (times groups), H, V partitions of R rows and N amplifiers, B images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imac_torch.elimination.blocks import BlockLayout
from imac_torch.elimination.linalg import solve
from imac_torch.elimination.saturation import Saturated
from imac_torch.errors import SolverError
from imac_torch.numeric.budget import CHUNK_BYTES
from imac_torch.periphery.readout import ReadOut


@dataclass(frozen=True)
class LoadedAmplifiers(ABC):
    """What is around the amplifiers of a layer.

    Attributes:
        plus: (3, N) V at the input plus per V of the I+ end, the I- end and the output.
        minus: (3, N) likewise.
        back: (2, N) S from the output to both ends.
        offsets: ([G,] H, V, N) V.
        count: Amplifiers of a read-out.
        tie: S from every output to where partitions meet, 0-dimensional; 0: they do not.
        onward: Whether they deliver what neurons draw.
        series: Ω between the mean of the partitions and the neuron, 0-dimensional.
        partitions: H.
    """

    plus: Tensor
    minus: Tensor
    back: Tensor
    offsets: Tensor
    count: int
    tie: Tensor
    onward: bool
    series: Tensor
    partitions: int

    @staticmethod
    def around(
        read_out: ReadOut, layout: BlockLayout, groups: int, offsets: Tensor
    ) -> dict[str, Any]:
        """The attributes, of a layer's read-outs.

        Args:
            read_out: Its amplifiers are such.
            layout: Where rows lie in blocks.
            groups: G.
            offsets: ([G,] M·L or 1, H or 1, n) V.

        Raises:
            SolverError: The layer is in groups, or ties slices together, and outputs drive neurons.
        """
        meeting, rows = read_out.combination, layout.row_mask.shape[-1]
        onward = read_out.drives and meeting.tied
        if onward and (groups > 1 or meeting.slicing.count > 1):
            raise SolverError(
                "amplifiers given as tables or with a resistance in their loop (amplifier.table, "
                "open_loop_resistance) that drive neurons themselves are solved in layers of one "
                "group and without slices: set an amplifier.pole, whose buffer drives them, or "
                "combine = 'sum', or leave these out"
            )
        count, partitions = len(read_out.amplifiers), len(layout.column_index)
        places = read_out.terminals

        def by_amplifier(side: str) -> Tensor:
            each = torch.stack(
                [torch.stack(tuple(getattr(item, side))) for item in places], dim=-1
            )
            return each.repeat(1, rows)

        back = torch.stack([
            torch.stack([item.to_positive, item.to_negative]) for item in read_out.amplifiers
        ], dim=-1).repeat(1, rows)  # fmt: skip
        shape = *offsets.shape[:-3], len(layout.row_position), partitions, count
        tie = torch.zeros_like(meeting.output_resistance)
        if onward and partitions > 1:
            tie = 1.0 / meeting.output_resistance
        return {
            "plus": by_amplifier("plus"), "minus": by_amplifier("minus"), "back": back,
            "offsets": layout.gather_rows(offsets.expand(shape)), "count": count, "tie": tie,
            "onward": onward, "series": meeting.series_resistance, "partitions": partitions,
        }  # fmt: skip

    @property
    def tied(self) -> bool:
        """Whether outputs of partitions meet."""
        return self.onward and self.partitions > 1

    def to_neurons(self, outputs: Tensor, drawn: Tensor | None) -> Tensor:
        """(S, H, B, V, N) A that outputs deliver towards neurons which draw (S, 1, B, V, N) A."""
        nothing = torch.zeros_like(outputs)
        if not self.onward:
            return nothing
        drawn = nothing if drawn is None else drawn
        if self.partitions == 1:
            return nothing + drawn
        meeting = outputs.mean(-4, keepdim=True) - drawn * self.series
        return (outputs - meeting) * self.tie

    def solve(
        self, mutual: Tensor, ends_beyond: Tensor, linear: Tensor, ends: Tensor,
        drawn: Tensor | None,
    ) -> Saturated:  # fmt: skip
        """The amplifiers of all blocks of a layer.

        Args:
            mutual: (S, [G,] H, V, N, N), E.
            ends_beyond: (S, [G,] H, V, 2, R, N), of the I+ and the I- ends per V of -w.
            linear: (S, [G,] H, B, V, N) V, O.
            ends: (S, 2, [G,] H, B, V, R) V of the ends where w is 0.
            drawn: (S, 1, B, V, N) A that neurons draw; None: nothing.

        Returns:
            Outputs and w, differentiable in all arguments.
        """
        moved = ends_beyond.repeat_interleave(self.count, dim=-2)  # (S, H, V, 2, N, N)
        plain = ends.repeat_interleave(self.count, dim=-1)
        leading = linear.shape[:-4]
        if len(leading) > 1:
            mutual, moved, linear = (item.flatten(0, 1) for item in (mutual, moved, linear))
            plain = plain.transpose(1, 2).flatten(0, 1)
        size = linear.shape[-1] * (self.partitions if self.tied else 1)
        each = 8 * 3 * size * size * linear.shape[0] * linear.shape[-2]
        images = max(1, CHUNK_BYTES // each)
        pieces = linear.split(images, dim=-3)
        parts = zip(
            pieces, plain.split(images, dim=-3),
            [None] * len(pieces) if drawn is None else drawn.split(images, dim=-3), strict=True,
        )  # fmt: skip
        found = [self.found(mutual, moved, *part) for part in parts]
        return Saturated(*(
            torch.cat(items, dim=2).unflatten(0, leading) for items in zip(*found, strict=True)
        ))  # fmt: skip

    @abstractmethod
    def found(
        self, mutual: Tensor, moved: Tensor, linear: Tensor, plain: Tensor, drawn: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs, w, (S, H, B, V) whether they are known, who is at a rail; see :meth:`solve`."""

    def offsets_of(self, samples: int) -> Tensor:
        """(S or 1, H, 1, V, N) V."""
        if self.offsets.ndim == 3:
            return self.offsets[None, :, None]
        groups = len(self.offsets)
        return self.offsets.repeat(samples // groups, 1, 1, 1)[:, :, None]


def together(blocks: Tensor, shift: Tensor, tie: Tensor, *, tied: bool) -> Tensor:
    """J⁻¹: (S, H, B, V, N, N) of blocks alone; (S, 1, B, V, H·N, H·N) of those that are tied.

    Args:
        blocks: (S, H, B, V, N, N) S, of currents per w.
        shift: (S, H, V, N, N), outputs per w.
        tie: S.
        tied: Whether they are.
    """
    if not tied:
        identity = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
        flat = blocks.flatten(0, -3)
        return solve(flat, identity.expand_as(flat)).reshape(blocks.shape)
    samples, parts, images, vertical, count, _ = blocks.shape
    whole = blocks.new_zeros(samples, images, vertical, parts, count, parts, count)
    mean = (tie / parts) * shift.permute(0, 2, 3, 1, 4)  # (S, V, N, H, N)
    whole = whole + mean[:, None, :, None]
    index = torch.arange(parts, device=blocks.device)
    whole[:, :, :, index, :, index, :] += blocks.permute(1, 0, 2, 3, 4, 5)
    flat = whole.reshape(-1, parts * count, parts * count)
    identity = torch.eye(parts * count, dtype=blocks.dtype, device=blocks.device)
    return solve(flat, identity.expand_as(flat)).reshape(
        samples, 1, images, vertical, parts * count, parts * count
    )


def apply_inverse(inverse: Tensor, right: Tensor) -> Tensor:
    """J⁻¹ times (S, H, B, V, N)."""
    parts, count = right.shape[1], right.shape[-1]
    if inverse.shape[-1] == count:
        return (inverse @ right[..., None])[..., 0]
    joined = right.permute(0, 2, 3, 1, 4).flatten(-2)[:, None, ..., None]
    found: Tensor = (inverse @ joined)[:, 0, ..., 0].unflatten(-1, (parts, count))
    return found.permute(0, 3, 1, 2, 4)

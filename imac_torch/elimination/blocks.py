"""All partitions of a layer as one padded batch of blocks, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from imac_torch.circuit.crossbar import CrossbarSpec

Advance: TypeAlias = Callable[[int], None]
"""Called with how much more of an elimination is done."""


@dataclass(frozen=True)
class BlockLayout:
    """Where the cells of a layer lie in its H·V blocks of R rows and K columns.

    Blocks shorter than the largest are padded with open cells: columns before the first (the far
    end of the I± lines), rows after the last (the far end of the input lines). Open cells at far
    ends carry no current, so padding changes nothing.

    Attributes:
        row_index: (V, R) int64, global row, 0 where padded.
        row_mask: (V, R) bool, True where real.
        column_index: (H, K) int64, global column, 0 where padded.
        column_mask: (H, K) bool, True where real.
        row_position: (M,) int64, position of a global row in the flattened (V·R).
        column_position: (C,) int64, position of a global column in the flattened (H·K).
    """

    row_index: Tensor
    row_mask: Tensor
    column_index: Tensor
    column_mask: Tensor
    row_position: Tensor
    column_position: Tensor

    @classmethod
    def of(cls, spec: CrossbarSpec) -> BlockLayout:
        """The layout of a layer, on the device of its conductances."""
        device = spec.conductances.positive.device
        rows = max(last - first for first, last in spec.row_ranges)
        columns = max(last - first for first, last in spec.column_ranges)
        row_index = torch.zeros(len(spec.row_ranges), rows, dtype=torch.int64, device="cpu")
        row_mask = torch.zeros(len(spec.row_ranges), rows, dtype=torch.bool, device="cpu")
        for v, (first, last) in enumerate(spec.row_ranges):
            row_index[v, : last - first] = torch.arange(first, last, device="cpu")
            row_mask[v, : last - first] = True
        column_index = torch.zeros(
            len(spec.column_ranges), columns, dtype=torch.int64, device="cpu"
        )
        column_mask = torch.zeros(len(spec.column_ranges), columns, dtype=torch.bool, device="cpu")
        for h, (first, last) in enumerate(spec.column_ranges):
            column_index[h, columns - (last - first) :] = torch.arange(first, last, device="cpu")
            column_mask[h, columns - (last - first) :] = True
        return cls(
            row_index.to(device),
            row_mask.to(device),
            column_index.to(device),
            column_mask.to(device),
            torch.nonzero(row_mask.reshape(-1)).squeeze(1).to(device),
            torch.nonzero(column_mask.reshape(-1)).squeeze(1).to(device),
        )

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """H, V, R, K."""
        vertical, rows = self.row_index.shape
        horizontal, columns = self.column_index.shape
        return horizontal, vertical, rows, columns

    @classmethod
    def single(cls, device: torch.device) -> BlockLayout:
        """The layout of one cell: one row, one input, the bias."""
        index = torch.arange(2, device=device)
        return cls(
            index[None, :1],
            torch.ones(1, 1, dtype=torch.bool, device=device),
            index[None],
            torch.ones(1, 2, dtype=torch.bool, device=device),
            index[:1],
            index,
        )

    @cached_property
    def driven(self) -> tuple[tuple[int, int, int], ...]:
        """Per partition: first and last line, the bias not counted, and the first one's column."""
        mask = self.column_mask.cpu()
        counts = mask.sum(dim=1).tolist()
        counts[-1] -= 1  # the bias column is known
        starts = mask.to(torch.int64).argmax(dim=1).tolist()
        ends = [sum(counts[: part + 1]) for part in range(len(counts))]
        return tuple(
            (end - count, end, start)
            for end, count, start in zip(ends, counts, starts, strict=True)
        )

    def gather(self, cells: Tensor) -> Tensor:
        """(..., M, C) → (..., H, V, R, K), zero where padded."""
        vertical, rows = self.row_index.shape
        horizontal, columns = self.column_index.shape
        picked = cells[..., self.row_index.reshape(-1), :][..., self.column_index.reshape(-1)]
        picked = picked.reshape(*cells.shape[:-2], vertical, rows, horizontal, columns)
        mask = self.row_mask[:, :, None, None] & self.column_mask
        picked = torch.where(mask, picked, picked.new_zeros(()))
        return picked.movedim(-2, -4).contiguous()

    def scatter(self, blocks: Tensor) -> Tensor:
        """(..., H, V, R, K) → (..., M, C): the inverse of :meth:`gather`."""
        moved = blocks.movedim(-4, -2)
        *samples, vertical, rows, horizontal, columns = moved.shape
        flat = moved.reshape(*samples, vertical * rows, horizontal * columns)
        return flat[..., self.row_position, :][..., self.column_position]

    def gather_rows(self, values: Tensor) -> Tensor:
        """(..., M, H, n) of rows of every partition → (..., H, V, R·n), zero where padded."""
        picked = values[..., self.row_index.reshape(-1), :, :]
        picked = picked.unflatten(-3, self.row_index.shape)
        picked = torch.where(self.row_mask[:, :, None, None], picked, picked.new_zeros(()))
        return picked.movedim(-2, -4).flatten(-2)

    def gather_inputs(self, inputs: Tensor) -> Tensor:
        """(..., C) → (..., H, K), zero where padded."""
        picked = inputs[..., self.column_index.reshape(-1)]
        picked = picked.reshape(*inputs.shape[:-1], *self.column_index.shape)
        return torch.where(self.column_mask, picked, picked.new_zeros(()))

    def scatter_inputs(self, blocks: Tensor) -> Tensor:
        """(..., H, K) → (..., C): the inverse of :meth:`gather_inputs`."""
        flat = blocks.flatten(-2)  # a batch may be empty
        return flat[..., self.column_position]


@dataclass(frozen=True)
class Termination:
    """What the blocks' lines are made of and end in; 0-dimensional float64 tensors.

    Attributes:
        input_segment: Ω per cell on an input line, 0 for an ideal wire.
        output_segment: Ω per cell on an I± line, 0 for an ideal wire.
        positive_load: Ω from an I+ end to ground.
        negative_load: Ω from an I- end to the virtual node.
        alpha: The virtual node's voltage relative to the I+ end.
    """

    input_segment: Tensor
    output_segment: Tensor
    positive_load: Tensor
    negative_load: Tensor
    alpha: Tensor

    @classmethod
    def of(cls, spec: CrossbarSpec) -> Termination:
        """The wires and read-outs of a layer."""
        read_out = spec.read_out
        return cls(
            spec.input_segment,
            spec.output_segment,
            read_out.positive_load,
            read_out.negative_load,
            read_out.coupling,
        )


@dataclass(frozen=True)
class BlockPorts:
    """Blocks seen from their ports.

    Attributes:
        admittance: (..., K, K) S, currents into the input lines per input voltage.
        positive_end: (..., R, K), voltage of the I+ ends per input voltage.
        negative_end: (..., R, K), voltage of the I- ends per input voltage.
    """

    admittance: Tensor
    positive_end: Tensor
    negative_end: Tensor

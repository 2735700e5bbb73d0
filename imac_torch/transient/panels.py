"""Lines and tables as the arrays that the compiled step takes, :mod:`imac_torch.kernels.steps`."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.load import Blocks
from imac_torch.transient.lines import ReducedLines

Array = NDArray[np.float64]
STRIP: Final = 4
"""Columns of a matrix side by side, as :mod:`imac_torch.kernels.panels` takes them."""


class LinePanels:
    """What neurons drive.

    Attributes:
        width: W.
        filters: K+1, or 0.
        first: (parts + 1,) neuron ranges of the partitions.
        starts: (parts,) lines that their first neurons drive.
        poles: (K+1,) 1/s.
        admittance: (1 or K+1, parts, strips, K, 4) S between lines, at rest and by every filter.
        bias_currents: (1 or K+1, parts, K) S into lines by the bias line's voltage, likewise.
        transfer: (1 or K+1, parts, strips, M, 4), likewise.
        onward: (parts, strips, W + M, 4).
        at_rest: (parts, strips, M, 4).
        missed: (K+1,).
        bias_row: (W,) S.
        bias_filtered: (K·W,) S.
        ends_direct: (parts, strips, 2·M, 4) and
        ends_filtered: (parts, strips, 2·M, 4): ends of the lines by lines and by filters.
    """

    width: int
    filters: int
    first: NDArray[np.int64]
    starts: NDArray[np.int64]
    poles: Array
    admittance: Array
    bias_currents: Array
    transfer: Array
    onward: Array
    at_rest: Array
    missed: Array
    bias_row: Array
    bias_filtered: Array
    ends_direct: Array
    ends_filtered: Array

    @property
    def parts(self) -> int:
        """Partitions, or groups of neurons that drive nothing."""
        return len(self.starts)


class ReducedPanels(LinePanels):
    """A layer's lines with their filters."""

    def __init__(self, lines: ReducedLines) -> None:
        layout, model = lines.ports.layout, lines.model
        self.width = lines.width
        self.filters = model.order + 1 if model.order else 0
        self.first = np.array([0, *(last for _, last, _ in layout.driven)])
        self.starts = np.array([start for _, _, start in layout.driven])
        self.poles = model.poles.numpy()
        self.onward = strips(lines.onward.mT)
        self.at_rest = strips(layout.gather_inputs(lines.transfers[0]).permute(1, 0, 2))
        self.transfer = np.stack([
            strips(layout.gather_inputs(part).permute(1, 0, 2)) for part in lines.transfers
        ])
        self.missed = model.missed[: self.filters].numpy()
        # The bias is the last column of the last partition.
        self.bias_row = model.admittance[:, -1, -1].sum(0).numpy()
        self.bias_filtered = lines.bias_filtered.flatten().numpy()
        sides = int(np.diff(self.first).max())
        between = model.admittance.new_zeros(*model.admittance.shape[:2], sides, sides)
        bias = between.new_zeros(between.shape[:3])
        for part, (begin, end, start) in enumerate(layout.driven):
            where = slice(start, start + end - begin)
            between[:, part, : end - begin, : end - begin] = model.admittance[:, part, where, where]
        begin, end, start = layout.driven[-1]
        where = slice(start, start + end - begin)
        bias[:, -1, : end - begin] = model.admittance[:, -1, where, -1]
        self.admittance = np.stack([strips(part) for part in between])
        self.bias_currents = bias.numpy()
        ends = lines.both_ends.unflatten(1, (-1, self.width))  # (H, K + 1, W, 2·M·L)
        self.ends_direct = strips(ends.sum(1).mT)
        self.ends_filtered = strips(-ends[:, 1:].flatten(1, 2).mT)


class NoPanels(LinePanels):
    """Behind the last layer's neurons."""

    def __init__(self, neurons: int) -> None:
        self.width, self.filters = 0, 0
        self.first = Blocks.unloaded(1, neurons).first
        parts = len(self.first) - 1
        self.starts = np.zeros(parts, dtype=np.int64)
        none = np.zeros(0)
        self.poles = self.missed = self.bias_row = self.bias_filtered = none
        self.bias_currents = np.zeros((1, parts, int(np.diff(self.first).max())))
        self.onward = self.at_rest = np.zeros((parts, 0, 0, STRIP))
        self.ends_direct = self.ends_filtered = self.onward
        self.admittance = self.transfer = self.onward[None]


def strips(matrix: Tensor) -> Array:
    """(H, R, C) → (H, strips, R, 4), zero where padded."""
    beyond = -matrix.shape[2] % STRIP
    padded = torch.nn.functional.pad(matrix, (0, beyond))
    parted = padded.unflatten(2, (padded.shape[2] // STRIP, STRIP)).transpose(1, 2)
    found: Array = parted.contiguous().numpy()
    return found

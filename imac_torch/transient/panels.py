"""Lines and tables as the arrays that the compiled step takes, :mod:`imac_torch.kernels.steps`."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imac_torch.dc.load import Blocks
from imac_torch.numeric.budget import REDUCED_STEP_SIZES
from imac_torch.transient.lines import ReducedLines

Array = NDArray[np.float64]
STRIP: Final = 4
"""Columns of a matrix side by side, as :mod:`imac_torch.kernels.panels` takes them."""


class StepArrays(NamedTuple):
    """Of one step size; see :func:`imac_torch.kernels.steps.step_layer`.

    Attributes:
        admittance: (parts, strips, K, 4) S.
        left: (parts, K).
        across: (parts, K).
        own: (parts, K) S.
        bias_currents: (parts, K) S.
        inverse: (K+1,) s.
        through: (K+1,).
        transfer: (parts, strips, M, 4).
        largest: Of the transfers from neurons.
    """

    admittance: Array
    left: Array
    across: Array
    own: Array
    bias_currents: Array
    inverse: Array
    through: Array
    transfer: Array
    largest: float


class LinePanels:
    """What neurons drive.

    Attributes:
        width: W.
        filters: K+1, or 0.
        first: (parts + 1,) neuron ranges of the partitions.
        starts: (parts,) lines that their first neurons drive.
        onward: (parts, strips, W + M, 4).
        at_rest: (parts, strips, M, 4).
        missed: (K+1,).
        bias_row: (W,) S.
        bias_filtered: (K·W,) S.
    """

    width: int
    filters: int
    first: NDArray[np.int64]
    starts: NDArray[np.int64]
    onward: Array
    at_rest: Array
    missed: Array
    bias_row: Array
    bias_filtered: Array

    def at(self, step: float) -> StepArrays:
        """What belongs to a step of so many s."""
        raise NotImplementedError

    @property
    def parts(self) -> int:
        """Partitions, or groups of neurons that drive nothing."""
        return len(self.starts)


class ReducedPanels(LinePanels):
    """A layer's lines with their filters."""

    def __init__(self, lines: ReducedLines) -> None:
        layout, model = lines.ports.layout, lines.model
        self._lines = lines
        self._steps: dict[float, StepArrays] = {}
        self.width = lines.width
        self.filters = model.order + 1 if model.order else 0
        self.first = np.array([0, *(last for _, last, _ in layout.driven)])
        self.starts = np.array([start for _, _, start in layout.driven])
        self.onward = strips(lines.onward.mT)
        self.at_rest = strips(layout.gather_inputs(lines.transfers[0]).permute(1, 0, 2))
        self.missed = model.missed[: self.filters].numpy()
        # The bias is the last column of the last partition.
        self.bias_row = model.admittance[:, -1, -1].sum(0).numpy()
        self.bias_filtered = lines.bias_filtered.flatten().numpy()

    def at(self, step: float) -> StepArrays:
        """See :class:`LinePanels`."""
        found = self._steps.get(step)
        if found is None:
            found = self._made(step)
            if len(self._steps) >= REDUCED_STEP_SIZES:
                self._steps.clear()
            self._steps[step] = found
        return found

    def _made(self, step: float) -> StepArrays:
        known, layout = self._lines.at(step), self._lines.ports.layout
        matrices, blocks = known.matrices, known.matrices.load.blocks
        admittance, left, right = blocks.admittance[0], blocks.left[0], blocks.right[0]
        bias = np.zeros_like(left)
        for part, (begin, end, _) in enumerate(layout.driven):
            bias[part, : end - begin] = matrices.bias[begin:end].numpy()
        return StepArrays(
            strips(torch.from_numpy(admittance)),
            np.ascontiguousarray(left),
            np.ascontiguousarray(right),
            np.ascontiguousarray(np.diagonal(admittance, axis1=1, axis2=2) - left * right),
            bias,
            known.inverse[:: self.width][: self.filters].contiguous().numpy(),
            known.through[: self.filters, 0].contiguous().numpy(),
            strips(layout.gather_inputs(matrices.transfer).permute(1, 0, 2)),
            float(matrices.transfer[:, :-1].abs().max()),
        )


class NoPanels(LinePanels):
    """Behind the last layer's neurons."""

    def __init__(self, neurons: int) -> None:
        self.width, self.filters = 0, 0
        self.first = Blocks.unloaded(1, neurons).first
        parts = len(self.first) - 1
        self.starts = np.zeros(parts, dtype=np.int64)
        none, vectors = np.zeros(0), np.zeros((parts, int(np.diff(self.first).max())))
        self.onward = self.at_rest = np.zeros((parts, 0, 0, STRIP))
        self.missed = self.bias_row = self.bias_filtered = none
        self._all = StepArrays(
            self.onward, vectors, vectors, vectors, vectors, none, none, self.onward, 0.0
        )

    def at(self, step: float) -> StepArrays:
        """See :class:`LinePanels`."""
        return self._all


def strips(matrix: Tensor) -> Array:
    """(H, R, C) → (H, strips, R, 4), zero where padded."""
    beyond = -matrix.shape[2] % STRIP
    padded = torch.nn.functional.pad(matrix, (0, beyond))
    parted = padded.unflatten(2, (padded.shape[2] // STRIP, STRIP)).transpose(1, 2)
    found: Array = parted.contiguous().numpy()
    return found

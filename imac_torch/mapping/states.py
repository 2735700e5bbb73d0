"""Rows that cannot be exact: which conductances, or which states, serve them best.

Rounding every cell to its nearest state leaves an error per cell and, through the row's sums, an
error common to all cells; so does a row that leaves the devices' window. What counts is the error
of the row's output for the inputs that occur: their first and second moments are the metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from imac_torch.base.shown import Brief
from imac_torch.config import Memristor
from imac_torch.mapping.divider import RowDivider
from imac_torch.mapping.quantization import ConductancePair

SWEEPS: Final = 4
"""Passes over the cells of a row when there are states."""
CONTINUOUS_SWEEPS: Final = 20
"""Passes without states at most; :data:`CONTINUOUS_TOLERANCE` mostly ends them earlier."""
CONTINUOUS_TOLERANCE: Final = 1e-2
"""Part of a row's squared error that another pass has to gain."""
VARIANCE_FLOOR: Final = 1e-6
"""Least variance of a line, in vdd²: what data show as constant may yet move a little."""
RANK: Final = 8
"""Principal components of the inputs' covariance that are kept per partition."""


@dataclass(frozen=True)
class InputStatistics(Brief):
    """First and second moments of a layer's line voltages in units of vdd, the bias line last.

    Attributes:
        mean: (C,) float64.
        variance: (C,) float64, of the part that is independent from line to line.
        factor: (C, F) float64: the covariance is diag(variance) + factor·factorᵀ.
    """

    mean: Tensor
    variance: Tensor
    factor: Tensor

    @property
    def weight(self) -> Tensor:
        """(C,): importance of each line's error; the bias counts like the most active line."""
        total = self.variance + self.factor.square().sum(-1)
        weight = total.clamp(min=1e-3 * float(total.max()) + 1e-12)
        weight[-1] = weight.max()
        return weight

    @classmethod
    def independent(
        cls, inputs: int, mean: float = 0.0, variance: float = 1 / 3
    ) -> InputStatistics:
        """Independent lines, by default uniform in [-1, 1]; the bias line is constant."""
        means = torch.full((inputs + 1,), mean, dtype=torch.float64, device="cpu")
        means[-1] = 1.0
        variances = torch.full((inputs + 1,), variance, dtype=torch.float64, device="cpu")
        variances[-1] = 0.0
        return cls(means, variances, torch.zeros(inputs + 1, 0, dtype=torch.float64, device="cpu"))

    @classmethod
    def of(cls, lines: Tensor) -> InputStatistics:
        """Statistics of data.

        Args:
            lines: (B, N) float64, line voltages in units of vdd.
        """
        bias = torch.nn.functional.pad(lines, (0, 1), value=1.0)
        mean = bias.mean(0)
        centred = bias - mean
        rank = min(RANK, *centred.shape)
        # The largest singular vectors are all that is asked for: those of the smaller square.
        if len(lines) < centred.shape[1]:
            vectors = torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -rank:]
            factor = centred.T @ vectors / max(1, len(lines)) ** 0.5
        else:
            values, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(lines)))
            factor = vectors[:, -rank:] * values[-rank:].clamp(min=0.0).sqrt()
        total = centred.square().mean(0)
        return cls(mean, (total - factor.square().sum(-1)).clamp(min=0.0), factor.contiguous())

    def over(self, scale: float) -> InputStatistics:
        """Statistics of lines that are divided by a number; the bias line stays."""
        mean = self.mean / scale
        mean[-1] = self.mean[-1]
        return InputStatistics(mean, self.variance / scale**2, self.factor / scale)

    def relative_error(self, found: Tensor, wanted: Tensor) -> float:
        """Rms output error of a transfer (M, C) relative to the rms of the wanted output."""
        power = self.powers(wanted).sum().clamp(min=1e-300)
        return float((self.powers(found - wanted).sum() / power).sqrt())

    def variances(self, transfer: Tensor) -> Tensor:
        """(M,) of the outputs of a transfer (M, C)."""
        own = (transfer.square() * self.variance).sum(-1)
        return own + (transfer @ self.factor).square().sum(-1)

    def powers(self, transfer: Tensor) -> Tensor:
        """(M,) mean squares of the outputs of a transfer (M, C)."""
        return (transfer * self.mean).sum(-1).square() + self.variances(transfer)


def improve(
    start: ConductancePair,
    target: Tensor,
    divider: RowDivider,
    memristor: Memristor,
    statistics: InputStatistics,
) -> ConductancePair:
    """The conductances, or states, whose transfer comes closest to the wanted one.

    Coordinate descent from ``start`` on the output error that the statistics expect, the
    covariance of inputs across partitions included: a local minimum.

    Args:
        start: (M, C) S.
        target: (M, C), wanted transfer.
        divider: The rows and what they end in.
        memristor: End resistances, and states if they are limited.
        statistics: Of the inputs; they are what "closest" means.

    Returns:
        (M, C) S, every value one of the states if there are such.
    """
    from imac_torch.kernels.states import descend, relax  # imports numba

    device, states = start.positive.device, memristor.states
    low, high = 1.0 / memristor.rhigh, 1.0 / memristor.rlow
    positive, negative = (
        np.array(side.detach().cpu().numpy(), order="C")
        for side in (start.positive, start.negative)
    )
    if states is not None:
        step = (high - low) / (states - 1)
        for side in (positive, negative):
            index = np.clip(np.rint((side - low) / step), 0, states - 1)
            side[:] = low + step * index
    vectors = torch.cat([statistics.factor.T, statistics.mean[None]]).cpu()
    used = vectors.abs().amax(-1) > 0
    arguments = (
        positive,
        negative,
        np.ascontiguousarray(target.detach().cpu().numpy()),
        (statistics.variance.cpu() + VARIANCE_FLOOR).numpy(),
        np.ascontiguousarray(vectors[used].T.numpy()),
        np.array([0, *divider.column_ends], dtype=np.int64),
        np.array([low, high, divider.combined_gain, divider.positive_load, divider.negative_load]),
    )
    if states is None:
        relax(*arguments, CONTINUOUS_SWEEPS, CONTINUOUS_TOLERANCE)
    else:
        descend(*arguments, states, SWEEPS)
    return ConductancePair(
        torch.from_numpy(positive).to(device), torch.from_numpy(negative).to(device)
    )

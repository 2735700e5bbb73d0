"""Conductances for which the read-out's divider computes exactly the wanted transfer.

The I± lines float. Without wires, a row of one partition with conductances g+, g- (sums S+, S-)
whose read-out puts out G·(p - q) and loads the I- end with d and both alike with g_L = a = c + d
(:mod:`imac_torch.mapping.divider`) puts out

    o = G/(S- + d)·Σ_c (ρ·g+_c - g-_c)·v_c,    ρ = (S- + g_L)/(S+ + g_L).

So the gain of a row depends on its own conductances, and where S+ ≠ S- the two sides weigh
differently: a common-mode error. With s = G/(S- + d) the wanted transfer t is reached if
ρ·g+_c - g-_c = u_c := t_c/s in every cell. Summed over the row this
determines ρ = 1 - Σu/g_L; what remains free in a cell, a point on a line in the (g+, g-) plane, is
used to take the lowest conductances, which cost the least power and wire drop.

Where a row cannot be realised within [1/rhigh, 1/rlow], the nearest realisable u is taken: least
squares over u' and ρ together, with Σu' = (1 - ρ)·g_L and ρ·g_min - g_max ≤ u' ≤ ρ·g_max - g_min,
a convex problem.

Shapes: M rows, C columns (bias last), H partitions of up to K columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from imac_torch.config import Memristor
from imac_torch.errors import MappingError
from imac_torch.mapping.divider import RowDivider
from imac_torch.mapping.quantization import ConductancePair
from imac_torch.mapping.states import InputStatistics, improve
from imac_torch.numeric.modes import differentiating, leaf, once

LARGEST_TRANSFER: Final = 1e9
"""V/V; beyond it squares of errors are far above everything else that is computed with."""
BIAS_ROUNDS: Final = 1
"""Repetitions in which the bias absorbs the mean of what cannot be realised."""


@dataclass(frozen=True)
class Match:
    """Conductances found for a wanted transfer.

    Attributes:
        pair: (M, C) S; differentiable with respect to the wanted transfer.
        exact: (M,) bool, rows whose transfer is exact but for the device's states.
        error: Weighted rms error of the transfer relative to the wanted transfer's rms, the
            inputs' second moments being the weights.
        range_error: The same before rounding to the device's states.
    """

    pair: ConductancePair
    exact: Tensor
    error: float
    range_error: float


def match(
    target: Tensor,
    device: Memristor,
    divider: RowDivider,
    statistics: InputStatistics,
    *,
    where: str,
) -> Match:
    """Find conductances with a wanted transfer.

    Args:
        target: (M, C) float64, combined amplifier voltage per line voltage, the bias line (at
            vdd) last.
        device: End resistances, and the number of states if it is limited.
        divider: The rows and what they end in.
        statistics: Of the inputs; weighs errors where the transfer cannot be exact.
        where: The layer's path, for errors.

    Raises:
        MappingError: The target is not finite, weights are sliced, or the read-out's divider is
            of another kind.
    """
    divider.check_matchable(where)
    if divider.slicing.count != 1:
        raise MappingError(f"{where}: this matches one row per output; use match_slices")
    if not bool(torch.isfinite(target).all()):
        raise MappingError(f"{where}: the wanted transfer is not finite")
    if float(target.detach().abs().max()) > LARGEST_TRANSFER:
        raise MappingError(
            f"{where}: the weights ask for {float(target.detach().abs().max()):.3g} V at the "
            "neuron per volt on a line, which no read-out gives; rescale the layer"
        )
    low, high = 1.0 / device.rhigh, 1.0 / device.rlow
    wanted = target.detach()
    # Errors of what can be realised shift the mean of the row; the bias cell takes that back.
    corrected = wanted.clone()
    solution = _solve(corrected, low, high, divider, statistics)
    for _ in range(BIAS_ROUNDS if not bool(solution.exact.all()) else 0):
        found = divider.transfer(solution.cells())
        offset = ((found - wanted) * statistics.mean).sum(-1)
        corrected[:, -1] = corrected[:, -1] - offset
        solution = _solve(corrected, low, high, divider, statistics)
    pair = solution.cells()
    exact = solution.exact.all(dim=-1)
    if not bool(exact.all()):
        bad = torch.nonzero(~exact)[:, 0]
        rows = ConductancePair(pair.positive[bad], pair.negative[bad])
        better = improve(rows, wanted[bad], divider, device.replace(states=None), statistics)
        pair = ConductancePair(
            pair.positive.index_copy(0, bad, better.positive),
            pair.negative.index_copy(0, bad, better.negative),
        )
    error = range_error = statistics.relative_error(divider.transfer(pair), wanted)
    if device.states is not None:
        pair = improve(pair, wanted, divider, device, statistics)
        error = statistics.relative_error(divider.transfer(pair), wanted)
    if target.requires_grad and torch.is_grad_enabled():
        smooth = solution.with_gradient(target + (corrected - wanted))
        # Straight through the descent and the rounding to states.
        pair = ConductancePair(
            pair.positive + (smooth.positive - smooth.positive.detach()),
            pair.negative + (smooth.negative - smooth.negative.detach()),
        )
    return Match(pair, exact, error, range_error)


@dataclass(frozen=True)
class _Solution:
    """Cells found for every row of every partition, and how to differentiate them.

    Attributes:
        divider: Of the layer.
        low: Smallest conductance, S.
        high: Largest conductance, S.
        sum_minus: (M, H, 1) S, S- at the fixed point.
        shift: (M, H, K) S, u' - u.
        ratio: (M, H, 1), ρ.
        exact: (M, H) bool.
        drive: (M, H, K) S, u at the fixed point.
        mask: (H, K) bool.
    """

    divider: RowDivider
    low: float
    high: float
    sum_minus: Tensor
    shift: Tensor
    ratio: Tensor
    exact: Tensor
    drive: Tensor
    mask: Tensor

    def cells(self) -> ConductancePair:
        """(M, C) S."""
        positive, negative = _cells(
            self.drive + self.shift, self.ratio, self.low, self.high, self.mask
        )
        return ConductancePair(self.divider.scatter(positive), self.divider.scatter(negative))

    def with_gradient(self, target: Tensor) -> ConductancePair:
        """The same cells with their dependence on the wanted transfer.

        S- = F(S-, t) is differentiated implicitly: S-(t) = S* + (F(S*, t) - S*)/(1 - ∂F/∂S-).
        """
        with differentiating():
            sums = leaf(self.sum_minus)
            negative = self._negative(target.detach(), sums)[1]
            (slope,) = torch.autograd.grad(negative.sum(), sums)
        frozen = self.sum_minus
        implied = self._negative(target, frozen)[1].sum(-1, keepdim=True)
        sums = frozen + (implied - implied.detach()) / (1.0 - slope)
        positive, negative = (once(cells) for cells in self._negative(target, sums))
        return ConductancePair(self.divider.scatter(positive), self.divider.scatter(negative))

    def _negative(self, target: Tensor, sum_minus: Tensor) -> tuple[Tensor, Tensor]:
        drive = _drive(target, sum_minus, self.divider)
        free = 1.0 - drive.sum(-1, keepdim=True) / self.divider.positive_load
        ratio = torch.where(self.exact[..., None], free, self.ratio)
        return _cells(drive + self.shift, ratio, self.low, self.high, self.mask)


def _drive(target: Tensor, sum_minus: Tensor, divider: RowDivider) -> Tensor:
    """The drive u = t/a, (M, H, K) S."""
    blocks, _ = divider.gather(target)
    return blocks * (sum_minus + divider.negative_load) / divider.combined_gain


def _cells(
    drive: Tensor, ratio: Tensor, low: float, high: float, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The lowest conductances with ρ·g+ - g- = u; open cells where padded."""
    positive = ((low + drive) / ratio).clamp(min=low).clamp(max=high)
    negative = (ratio * positive - drive).clamp(low, high)
    zero = torch.zeros_like(positive)
    return torch.where(mask, positive, zero), torch.where(mask, negative, zero)


def _solve(
    target: Tensor, low: float, high: float, divider: RowDivider, statistics: InputStatistics
) -> _Solution:
    """The fixed point on S- of every row; u, ρ and the cells follow from it."""
    from imac_torch.kernels.projection import realise  # imports numba

    blocks, mask = divider.gather(target)
    weight, _ = divider.gather(statistics.weight)
    weight = torch.where(mask, weight, torch.ones_like(weight))
    shift = np.zeros(tuple(blocks.shape))
    sums, ratio = np.empty(shift.shape[:2]), np.empty(shift.shape[:2])
    exact = np.empty(shift.shape[:2], dtype=np.bool_)
    wanted, weights, counts = (
        item.detach().cpu().contiguous().numpy() for item in (blocks, weight, mask.sum(-1))
    )
    realise(
        wanted, weights, counts, low, high, divider.positive_load, divider.negative_load,
        divider.combined_gain, shift, sums, ratio, exact,
    )  # fmt: skip
    found = (torch.from_numpy(item).to(target.device) for item in (sums, shift, ratio, exact))
    sum_minus, moved, ratios, fits = found
    drive = _drive(target, sum_minus[..., None], divider)
    free = 1.0 - drive.sum(-1, keepdim=True) / divider.positive_load
    ratios = torch.where(fits[..., None], free, ratios[..., None])
    return _Solution(
        divider, low, high, sum_minus[..., None], moved, ratios, fits, drive, mask
    )

"""Devices with a limited number of states: which state of which cell serves a row best.

Rounding every cell to its nearest state leaves an error per cell and, through the row's sums, an
error common to all cells. Both are minimised together by coordinate descent on the output error
that the inputs' statistics expect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from imac_torch.mapping import ConductancePair

SWEEPS: Final = 3
"""Passes over the cells of a row; a fourth changes less than 1 % of the remaining error."""
RANK: Final = 8
"""Principal components of the inputs' covariance that are kept per partition."""


@dataclass(frozen=True)
class InputStatistics:
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
        means = torch.full((inputs + 1,), mean, dtype=torch.float64)
        means[-1] = 1.0
        variances = torch.full((inputs + 1,), variance, dtype=torch.float64)
        variances[-1] = 0.0
        return cls(means, variances, torch.zeros(inputs + 1, 0, dtype=torch.float64))

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
        _, singular, vectors = torch.linalg.svd(centred, full_matrices=False)
        factor = (vectors[:rank] * singular[:rank, None] / max(1, len(lines)) ** 0.5).T
        total = centred.square().mean(0)
        return cls(mean, (total - factor.square().sum(-1)).clamp(min=0.0), factor.contiguous())

    def relative_error(self, found: Tensor, wanted: Tensor) -> float:
        """Rms output error of a transfer (M, C) relative to the rms of the wanted output."""
        return float((self._power(found - wanted) / self._power(wanted).clamp(min=1e-300)).sqrt())

    def _power(self, transfer: Tensor) -> Tensor:
        mean = (transfer * self.mean).sum(-1).square()
        own = (transfer.square() * self.variance).sum(-1)
        return (mean + own + (transfer @ self.factor).square().sum(-1)).sum()


@dataclass(frozen=True)
class RowProblem:
    """Constants of the rows' transfer (see :mod:`imac_torch.matching`).

    Attributes:
        low: Smallest conductance, S.
        high: Largest conductance, S.
        states: Equally spaced conductances from low to high.
        gain: G, over the number of partitions where they are averaged.
        line_load: g_L, S.
        input_conductance: 1/R, S.
    """

    low: float
    high: float
    states: int
    gain: float
    line_load: float
    input_conductance: float


Rearrange = Callable[[Tensor], Tensor]


def choose_states(
    start: ConductancePair,
    target: Tensor,
    problem: RowProblem,
    gather: Callable[[Tensor], tuple[Tensor, Tensor]],
    scatter: Rearrange,
    statistics: InputStatistics,
) -> ConductancePair:
    """Round conductances to states so that the rows' transfer stays closest to the wanted one.

    Args:
        start: (M, C) S, conductances before rounding.
        target: (M, C), wanted transfer.
        problem: Constants of the rows.
        gather: (..., C) → (..., H, K) and a mask.
        scatter: Its inverse.
        statistics: Of the inputs; they are what "closest" means.

    Returns:
        (M, C) S, every value one of the states.
    """
    with torch.no_grad():
        positive, mask = gather(start.positive)
        negative, _ = gather(start.negative)
        wanted, _ = gather(target)
        step = (problem.high - problem.low) / (problem.states - 1)

        def rounded(conductance: Tensor) -> Tensor:
            index = ((conductance - problem.low) / step).round().clamp(0, problem.states - 1)
            return torch.where(mask, problem.low + step * index, torch.zeros_like(conductance))

        positive, negative = rounded(positive), rounded(negative)
        mean, _ = gather(statistics.mean)
        variance, _ = gather(statistics.variance.clamp(min=1e-9))
        factors, _ = gather(statistics.factor.T)  # (F, H, K)
        vectors = torch.cat([factors, mean[None]]).movedim(0, -1)  # (H, K, F+1)
        descent = _Descent(positive, negative, wanted, variance, vectors, problem, step)
        for _ in range(SWEEPS):
            descent.sweep(mask)
            # The bias, in the last partition, takes what the others' means have left over.
            descent.balance()
        return ConductancePair(scatter(descent.positive), scatter(descent.negative))


class _Descent:
    """Coordinate descent on all rows of all partitions at once.

    The error of cell c is e_c = A·(ρ·g+_c - g-_c) - t_c and the cost e·(diag(m) + V·Vᵀ)·e. For a
    change in one cell everything follows from a few sums per row.
    """

    def __init__(
        self,
        positive: Tensor,
        negative: Tensor,
        target: Tensor,
        variance: Tensor,
        vectors: Tensor,
        problem: RowProblem,
        step: float,
    ) -> None:
        self.positive, self.negative, self.target = positive, negative, target
        self.variance, self.vectors, self.problem, self.step = variance, vectors, problem, step
        # What the last column of vectors, the mean, should amount to besides the own target.
        self.offset = torch.zeros(positive.shape[:2], dtype=positive.dtype, device=positive.device)

    def sums(self) -> tuple[Tensor, ...]:
        p, n, t, m = self.positive, self.negative, self.target, self.variance
        return (
            p.sum(-1), n.sum(-1),
            (m * p * p).sum(-1), (m * p * n).sum(-1), (m * n * n).sum(-1),
            (m * t * p).sum(-1), (m * t * n).sum(-1),
            torch.einsum("mhk,hkf->mhf", p, self.vectors),
            torch.einsum("mhk,hkf->mhf", n, self.vectors),
            torch.einsum("mhk,hkf->mhf", t, self.vectors),
        )  # fmt: skip

    def scale_and_ratio(self, sum_plus: Tensor, sum_minus: Tensor) -> tuple[Tensor, Tensor]:
        load = self.problem.line_load
        scale = self.problem.gain / (sum_minus + self.problem.input_conductance)
        return scale, (sum_minus + load) / (sum_plus + load)

    def balance(self) -> None:
        """Ask the last partition for what the means of the others are off by."""
        sum_plus, sum_minus, *_, along_p, along_n, along_t = self.sums()
        scale, ratio = self.scale_and_ratio(sum_plus, sum_minus)
        mean = scale * (ratio * along_p[..., -1] - along_n[..., -1]) - along_t[..., -1]
        self.offset[:, -1] = -mean[:, :-1].sum(-1)

    def sweep(self, mask: Tensor) -> None:
        problem, step = self.problem, self.step
        grid = problem.low + step * torch.arange(
            problem.states, dtype=self.positive.dtype, device=self.positive.device
        )
        for cell in range(self.positive.shape[-1]):
            own = mask[:, cell]
            (plus, minus, pp, pn, nn_, tp, tn, along_p, along_n, along_t) = self.sums()
            m, t, v = self.variance[:, cell], self.target[..., cell], self.vectors[:, cell]
            p, n = self.positive[..., cell], self.negative[..., cell]
            scale, ratio = self.scale_and_ratio(plus, minus)
            # Candidates: every g+ with the two g- around the line, and the present pair.
            line = ratio[..., None] * grid - (t / scale)[..., None]
            index = ((line - problem.low) / step).floor().clamp(0, problem.states - 2)
            lower = problem.low + step * index
            ones = torch.ones_like(lower)
            new_p = torch.cat([grid * ones, grid * ones, p[..., None]], dim=-1)
            new_n = torch.cat([lower, lower + step, n[..., None]], dim=-1)
            dp, dn = new_p - p[..., None], new_n - n[..., None]
            m_, t_ = m[:, None], t[..., None]
            a, r = self.scale_and_ratio(plus[..., None] + dp, minus[..., None] + dn)
            square = (
                r * r * (pp[..., None] + m_ * (new_p**2 - p[..., None] ** 2))
                - 2 * r * (pn[..., None] + m_ * (new_p * new_n - (p * n)[..., None]))
                + nn_[..., None] + m_ * (new_n**2 - n[..., None] ** 2)
            )  # fmt: skip
            cross = r * (tp[..., None] + m_ * t_ * dp) - (tn[..., None] + m_ * t_ * dn)
            cost = a * a * square - 2 * a * cross
            for f in range(v.shape[-1]):
                vf = v[:, None, f]
                along = a * (
                    r * (along_p[..., f, None] + vf * dp) - (along_n[..., f, None] + vf * dn)
                ) - along_t[..., f, None]
                if f == v.shape[-1] - 1:
                    along = along - self.offset[..., None]
                cost = cost + along * along
            best = cost.argmin(-1, keepdim=True)
            keep = own.expand_as(p)
            self.positive[..., cell] = torch.where(keep, new_p.gather(-1, best)[..., 0], p)
            self.negative[..., cell] = torch.where(keep, new_n.gather(-1, best)[..., 0], n)

"""The nearest drives that a row of conductances can realise, compiled."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

GOLDEN = 0.6180339887498949
SEARCH_STEPS = 45  # golden section shrinks the interval of ρ by 4e-10
SHIFT_STEPS = 60  # Newton with bisection on a piecewise linear function of one variable


@njit(error_model="numpy")
def _at_ratio(
    drive: NDArray[np.float64],
    weight: NDArray[np.float64],
    count: int,
    ratio: float,
    low: float,
    high: float,
    load: float,
    shift: NDArray[np.float64],
) -> float:
    """clip(u + δ/weight) with the sum (1 - ρ)·g_L; fills the shifts, returns their cost."""
    bottom, top = ratio * low - high, ratio * high - low
    wanted = (1.0 - ratio) * load
    below, above = math.inf, -math.inf
    for k in range(count):
        below = min(below, (bottom - drive[k]) * weight[k])
        above = max(above, (top - drive[k]) * weight[k])
    delta = min(max(0.0, below), above)
    for _ in range(SHIFT_STEPS):
        excess, slope = -wanted, 0.0
        for k in range(count):
            moved = drive[k] + delta / weight[k]
            if moved <= bottom:
                moved = bottom
            elif moved >= top:
                moved = top
            else:
                slope += 1.0 / weight[k]
            excess += moved
        if abs(excess) <= 1e-15 * (abs(wanted) + count * high):
            break
        if excess > 0.0:
            above = delta
        else:
            below = delta
        step = delta - excess / slope if slope > 0.0 else math.inf
        delta = step if below < step < above else 0.5 * (below + above)
    cost = 0.0
    for k in range(count):
        moved = min(max(drive[k] + delta / weight[k], bottom), top)
        shift[k] = moved - drive[k]
        cost += weight[k] * shift[k] * shift[k]
    return cost


@njit(error_model="numpy")
def project(
    drive: NDArray[np.float64],
    weight: NDArray[np.float64],
    counts: NDArray[np.int64],
    low: float,
    high: float,
    load: float,
    shift: NDArray[np.float64],
    ratios: NDArray[np.float64],
) -> None:
    """Least squares over u' and ρ: see :mod:`imac_torch.mapping.matching`.

    Args:
        drive: (P, K) S, u of P rows.
        weight: (P, K), > 0.
        counts: (P,) int64, real columns of each row.
        low: Smallest conductance, S.
        high: Largest conductance, S.
        load: g_L, S.
        shift: (P, K), filled with u' - u, zero where padded.
        ratios: (P,), filled with ρ.
    """
    for p in range(drive.shape[0]):
        count = counts[p]
        first = (count * low + load) / (count * high + load)
        last = 1.0 / first
        u, w, out = drive[p], weight[p], shift[p]
        left, right = last - GOLDEN * (last - first), first + GOLDEN * (last - first)
        at_left = _at_ratio(u, w, count, left, low, high, load, out)
        at_right = _at_ratio(u, w, count, right, low, high, load, out)
        for _ in range(SEARCH_STEPS):
            if at_left < at_right:
                last, right, at_right = right, left, at_left
                left = last - GOLDEN * (last - first)
                at_left = _at_ratio(u, w, count, left, low, high, load, out)
            else:
                first, left, at_left = left, right, at_right
                right = first + GOLDEN * (last - first)
                at_right = _at_ratio(u, w, count, right, low, high, load, out)
        ratios[p] = 0.5 * (first + last)
        out[:] = 0.0
        _at_ratio(u, w, count, ratios[p], low, high, load, out)

"""The nearest drives that a row of conductances can realise, compiled."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

RATIO_STEPS = 40
"""Of regula falsi (Illinois) for ρ, whose bracket mostly closes in a dozen."""
RATIO_TOLERANCE = 1e-12
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
    """clip(u + δ/weight) with the sum (1 - ρ)·g_L; fills the shifts.

    Returns:
        The derivative of the cost Σ weight·shift² with respect to ρ, over 2: δ is the price of
        the sum, and a cell at a bound pays weight·shift - δ for every siemens that the bound moves.
    """
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
        if abs(excess) <= 1e-13 * (abs(wanted) + count * high):
            break
        if excess > 0.0:
            above = delta
        else:
            below = delta
        step = delta - excess / slope if slope > 0.0 else math.inf
        delta = step if below < step < above else 0.5 * (below + above)
    gradient = -delta * load
    for k in range(count):
        moved = drive[k] + delta / weight[k]
        if moved <= bottom:
            shift[k] = bottom - drive[k]
            gradient += (weight[k] * shift[k] - delta) * low
        elif moved >= top:
            shift[k] = top - drive[k]
            gradient += (weight[k] * shift[k] - delta) * high
        else:
            shift[k] = delta / weight[k]
    return gradient


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

    The cost is convex in ρ, so its derivative has one zero, or the best ρ is an end.

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
        at_first = _at_ratio(u, w, count, first, low, high, load, out)
        at_last = _at_ratio(u, w, count, last, low, high, load, out)
        ratio = first if at_first >= 0.0 else last
        side = 0
        if at_first < 0.0 < at_last:
            for _ in range(RATIO_STEPS):
                ratio = (first * at_last - last * at_first) / (at_last - at_first)
                if not first < ratio < last:
                    ratio = 0.5 * (first + last)
                here = _at_ratio(u, w, count, ratio, low, high, load, out)
                if here == 0.0 or last - first <= RATIO_TOLERANCE * last:
                    break
                if here < 0.0:
                    first, at_first = ratio, here
                    if side < 0:
                        at_last *= 0.5
                    side = -1
                else:
                    last, at_last = ratio, here
                    if side > 0:
                        at_first *= 0.5
                    side = 1
                if abs(here) <= 1e-10 * (abs(at_last) + abs(at_first)):
                    break
        ratios[p] = ratio
        out[:] = 0.0
        _at_ratio(u, w, count, ratio, low, high, load, out)

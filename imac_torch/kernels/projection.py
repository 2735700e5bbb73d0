"""Drives that rows of conductances realise for a wanted transfer, compiled.

A row of one partition has the drive u = t·(S- + 1/R)/G, and what is realised of it says what S- is:
one number is wanted that comes back as it went in (:mod:`imac_torch.mapping.matching`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

SUM_STEPS = 100
"""Of the secant method for S-, which mostly takes half a dozen."""
SUM_TOLERANCE = 1e-14
ACTIVE_STEPS = 20
"""Of Newton's method for the price and ρ, which mostly takes two or three."""
RATIO_STEPS = 40
"""Of regula falsi (Illinois) for ρ, whose bracket mostly closes in a dozen."""
RATIO_TOLERANCE = 1e-12
SHIFT_STEPS = 60  # Newton with bisection on a piecewise linear function of one variable


@njit(error_model="numpy")
def _at_ratio(
    drive: NDArray[np.float64],
    inverse: NDArray[np.float64],
    count: int,
    ratio: float,
    low: float,
    high: float,
    load: float,
) -> tuple[float, float]:
    """clip(u + δ/weight) with the sum (1 - ρ)·g_L.

    Returns:
        δ, and the derivative of the cost Σ weight·shift² with respect to ρ, over 2: δ is the price
        of the sum, and a cell at a bound pays weight·shift - δ for every siemens that the bound
        moves.
    """
    bottom, top = ratio * low - high, ratio * high - low
    wanted = (1.0 - ratio) * load
    below, above = math.inf, -math.inf
    for k in range(count):
        below = min(below, (bottom - drive[k]) / inverse[k])
        above = max(above, (top - drive[k]) / inverse[k])
    delta = min(max(0.0, below), above)
    for _ in range(SHIFT_STEPS):
        excess, slope = -wanted, 0.0
        for k in range(count):
            moved = drive[k] + delta * inverse[k]
            if moved <= bottom:
                moved = bottom
            elif moved >= top:
                moved = top
            else:
                slope += inverse[k]
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
        moved = drive[k] + delta * inverse[k]
        if moved <= bottom:
            gradient += ((bottom - drive[k]) / inverse[k] - delta) * low
        elif moved >= top:
            gradient += ((top - drive[k]) / inverse[k] - delta) * high
    return delta, gradient


@njit(error_model="numpy")
def _by_bracket(
    drive: NDArray[np.float64],
    inverse: NDArray[np.float64],
    count: int,
    low: float,
    high: float,
    load: float,
) -> tuple[float, float]:
    """The least cost's δ and ρ: convex in ρ, its derivative has one zero or the best is an end."""
    first = (count * low + load) / (count * high + load)
    last = 1.0 / first
    at_first = _at_ratio(drive, inverse, count, first, low, high, load)[1]
    at_last = _at_ratio(drive, inverse, count, last, low, high, load)[1]
    ratio = first if at_first >= 0.0 else last
    side = 0
    if at_first < 0.0 < at_last:
        for _ in range(RATIO_STEPS):
            ratio = (first * at_last - last * at_first) / (at_last - at_first)
            if not first < ratio < last:
                ratio = 0.5 * (first + last)
            here = _at_ratio(drive, inverse, count, ratio, low, high, load)[1]
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
    return _at_ratio(drive, inverse, count, ratio, low, high, load)[0], ratio


@njit(error_model="numpy")
def _project(
    drive: NDArray[np.float64],
    inverse: NDArray[np.float64],
    count: int,
    low: float,
    high: float,
    load: float,
    delta: float,
    ratio: float,
) -> tuple[float, float]:
    """δ and ρ of the nearest u': Newton's method on the two conditions for the least cost.

    With n cells at the lower bound ρ·g_min - g_max, m at the upper one ρ·g_max - g_min and the
    others at u + δ/weight, the sum and the derivative with respect to ρ are linear in δ and ρ:
    two equations, right as soon as their solution has the same cells at bounds. Where cells keep
    changing sides a bracket decides.

    Args:
        drive: (K,) S, u.
        inverse: (K,), 1/weight.
        count: Real columns.
        low: Smallest conductance, S.
        high: Largest conductance, S.
        load: g_L, S.
        delta: Where to begin, as
        ratio: ρ.
    """
    first = (count * low + load) / (count * high + load)
    last = 1.0 / first
    before_n, before_m, before_sum = -1, -1, math.nan
    for _ in range(ACTIVE_STEPS):
        bottom, top = ratio * low - high, ratio * high - low
        n = m = 0
        free = free_sum = weights_n = weights_m = pull_n = pull_m = 0.0
        for k in range(count):
            moved = drive[k] + delta * inverse[k]
            if moved <= bottom:
                n += 1
                weights_n += 1.0 / inverse[k]
                pull_n += (high + drive[k]) / inverse[k]
            elif moved >= top:
                m += 1
                weights_m += 1.0 / inverse[k]
                pull_m += (low + drive[k]) / inverse[k]
            else:
                free += inverse[k]
                free_sum += drive[k]
        # Sums are added up in one order: equal ones are of the same cells.
        if n == before_n and m == before_m and free_sum == before_sum:
            return delta, ratio
        before_n, before_m, before_sum = n, m, free_sum
        slope = load + n * low + m * high
        curvature = low * low * weights_n + high * high * weights_m
        missing = load + n * high + m * low - free_sum
        pull = low * pull_n + high * pull_m
        scale = slope * slope + curvature * free
        ratio = (missing * slope + pull * free) / scale
        delta = (curvature * missing - slope * pull) / scale
        if not first <= ratio <= last:
            ratio = min(max(ratio, first), last)
    return _by_bracket(drive, inverse, count, low, high, load)


@njit(error_model="numpy")
def realise(
    target: NDArray[np.float64],
    weight: NDArray[np.float64],
    counts: NDArray[np.int64],
    low: float,
    high: float,
    load: float,
    source: float,
    gain: float,
    shift: NDArray[np.float64],
    sums: NDArray[np.float64],
    ratios: NDArray[np.float64],
    exact: NDArray[np.bool_],
) -> None:
    """The nearest drives that conductances can have, with the S- that belongs to them.

    The cells' S- as a function of the S- that drives were computed with lies between all cells
    open and all closed, so it crosses itself: the secant method in that bracket, from below.

    Args:
        target: (M, H, K), wanted transfer.
        weight: (H, K), > 0, of the errors' squares.
        counts: (H,) int64, real columns of each partition.
        low: Smallest conductance, S.
        high: Largest conductance, S.
        load: g_L, S.
        source: 1/R, S.
        gain: G, over the number of partitions where they are averaged.
        shift: (M, H, K) zeros, filled with u' - u.
        sums: (M, H), filled with S-.
        ratios: (M, H), filled with ρ.
        exact: (M, H), filled with whether u' is u.
    """
    rows, parts, columns = target.shape
    drive = np.empty(columns)
    inverse = 1.0 / weight
    slack = 1e-12 * high
    for row in range(rows):
        for part in range(parts):
            t, w, count = target[row, part], inverse[part], counts[part]
            below, above = count * low, count * high
            total, fits = below, False
            delta, ratio, price = 0.0, 1.0, 1.0
            before, defect, defect_before = 0.0, math.nan, math.nan
            for _ in range(SUM_STEPS):
                factor = (total + source) / gain
                whole = 0.0
                for k in range(count):
                    drive[k] = t[k] * factor
                    whole += drive[k]
                price = 1.0 - whole / load
                bottom, top = price * low - high - slack, price * high - low + slack
                fits = price > 0.0
                for k in range(count):
                    if not bottom <= drive[k] <= top:
                        fits = False
                        break
                if fits:
                    delta, ratio = 0.0, price
                else:
                    delta, ratio = _project(drive, w, count, low, high, load, delta, ratio)
                bottom, top = ratio * low - high, ratio * high - low
                negative = 0.0
                for k in range(count):
                    u = drive[k]
                    if not fits:
                        u = min(max(u + delta * w[k], bottom), top)
                    g = min(max((low + u) / ratio, low), high)
                    negative += min(max(ratio * g - u, low), high)
                defect = negative - total
                if abs(defect) <= SUM_TOLERANCE * total:
                    break
                if defect > 0.0:
                    below = total
                else:
                    above = total
                change = defect - defect_before
                following = total - defect * (total - before) / change
                if not below < following < above:
                    following = negative
                    if not below < following < above:
                        following = 0.5 * (below + above)
                before, defect_before, total = total, defect, following
                if above - below <= SUM_TOLERANCE * below:
                    break
            # With hardly any load ρ, and S- with it, may jump where a cell comes to its bound.
            fits = fits and abs(defect) <= 1e-9 * total
            sums[row, part], ratios[row, part], exact[row, part] = total, ratio, fits
            if not fits:
                bottom, top = ratio * low - high, ratio * high - low
                for k in range(count):
                    u = t[k] * (total + source) / gain
                    shift[row, part, k] = min(max(u + delta * w[k], bottom), top) - u

"""Coordinate descent on the conductances of crossbar rows, compiled.

The error of cell c is e_c = a·(ρ·g+_c - g-_c) - t_c, with a and ρ from the sums of its row and
partition (:mod:`imac_torch.mapping.matching`); the cost of a row is Σ m·e² + Σ_f (Σ v_f·e)² over
all its partitions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

FloatArray = NDArray[np.float64]
SUMS_IN_ANY_ORDER = {"reassoc", "contract"}
"""Sums over the few vectors take a few instructions then; nothing else about numbers changes."""


@njit(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _scales(sum_p: float, sum_n: float, circuit: FloatArray) -> tuple[float, float]:
    """The factors a and ρ of a partition from the sums of its conductances."""
    gain, load, source = circuit[2:]
    return gain / (sum_n + source), (sum_n + load) / (sum_p + load)


@njit(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _row_error(
    p: FloatArray, n: FloatArray, t: FloatArray, vectors: FloatArray, ends: NDArray[np.int64],
    circuit: FloatArray, total: FloatArray,
) -> None:
    """Write Σ v·e of a row, all partitions together, for every v."""
    total[:] = 0.0
    for part in range(len(ends) - 1):
        first, last = ends[part], ends[part + 1]
        scale, ratio = _scales(p[first:last].sum(), n[first:last].sum(), circuit)
        for c in range(first, last):
            error = scale * (ratio * p[c] - n[c]) - t[c]
            for f in range(len(total)):
                total[f] += vectors[c, f] * error


@njit(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _moments(
    p: FloatArray, n: FloatArray, t: FloatArray, variance: FloatArray, vectors: FloatArray,
    first: int, last: int, along: FloatArray,
) -> tuple[float, float, float, float, float, float, float]:
    """S+, S- and Σm·g+², Σm·g+·g-, Σm·g-², Σm·t·g+, Σm·t·g- of columns first..last.

    ``along`` (3, F) is written: Σv·g+, Σv·g- and Σv·t.
    """
    sum_p = sum_n = pp = pn = nn = tp = tn = 0.0
    along[:] = 0.0
    for c in range(first, last):
        m = variance[c]
        sum_p += p[c]
        sum_n += n[c]
        pp += m * p[c] * p[c]
        pn += m * p[c] * n[c]
        nn += m * n[c] * n[c]
        tp += m * t[c] * p[c]
        tn += m * t[c] * n[c]
        for f in range(along.shape[1]):
            along[0, f] += vectors[c, f] * p[c]
            along[1, f] += vectors[c, f] * n[c]
            along[2, f] += vectors[c, f] * t[c]
    return sum_p, sum_n, pp, pn, nn, tp, tn


@njit(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _add_own(
    scales: tuple[float, float], along: FloatArray, sign: float, start: FloatArray, out: FloatArray
) -> None:
    """Write start ± Σv·e of the partition itself."""
    scale, ratio = scales
    for f in range(len(out)):
        own = scale * (ratio * along[0, f] - along[1, f]) - along[2, f]
        out[f] = start[f] + sign * own


@njit(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _least(inverse: float, rest: float, low: float, high: float) -> float:
    """The conductance between the bounds for which 1/(conductance + rest) is closest."""
    if inverse * (rest + high) <= 1.0:
        return high
    if inverse * (rest + low) >= 1.0:
        return low
    return 1.0 / inverse - rest


@njit(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def descend(
    positive: FloatArray,
    negative: FloatArray,
    target: FloatArray,
    variance: FloatArray,
    vectors: FloatArray,
    ends: NDArray[np.int64],
    circuit: FloatArray,
    states: int,
    sweeps: int,
) -> None:
    """Improve states in place, cell by cell.

    For a change in one cell the cost follows from a few sums.

    Args:
        positive: (M, C) S.
        negative: (M, C) S.
        target: (M, C), wanted transfer.
        variance: (C,), m.
        vectors: (C, F), v.
        ends: (H+1,) int64, column ranges of the partitions.
        circuit: Smallest and largest conductance, gain (over the partitions, if averaged), g_L,
            1/R.
        states: Equally spaced states from the smallest to the largest conductance.
        sweeps: Passes over a row.
    """
    low, high, gain, load, source = circuit
    rows, count, parts = len(positive), vectors.shape[1], len(ends) - 1
    total, others, sums = np.zeros(count), np.zeros(count), np.zeros((3, count))
    along_p, along_n, along_t = sums[0], sums[1], sums[2]
    spacing = (high - low) / (states - 1)
    for row in range(rows):
        p, n, t = positive[row], negative[row], target[row]
        _row_error(p, n, t, vectors, ends, circuit, total)
        for _ in range(sweeps):
            for part in range(parts):
                first, last = ends[part], ends[part + 1]
                sum_p, sum_n, pp, pn, nn, tp, tn = _moments(
                    p, n, t, variance, vectors, first, last, sums
                )
                _add_own(_scales(sum_p, sum_n, circuit), sums, -1.0, total, others)
                for c in range(first, last):
                    scale, ratio = _scales(sum_p, sum_n, circuit)
                    m, wanted, old_p, old_n = variance[c], t[c], p[c], n[c]
                    best, best_p, best_n = np.inf, old_p, old_n
                    for k in range(-1, 2 * states):
                        if k < 0:
                            new_p, new_n = old_p, old_n
                        else:
                            new_p = low + spacing * (k // 2)
                            line = (ratio * new_p - wanted / scale - low) / spacing
                            place = min(max(np.floor(line), 0.0), states - 2.0) + k % 2
                            new_n = low + spacing * place
                        dp, dn = new_p - old_p, new_n - old_n
                        a = gain / (sum_n + dn + source)
                        r = (sum_n + dn + load) / (sum_p + dp + load)
                        square = (
                            r * r * (pp + m * (new_p * new_p - old_p * old_p))
                            - 2.0 * r * (pn + m * (new_p * new_n - old_p * old_n))
                            + nn + m * (new_n * new_n - old_n * old_n)
                        )  # fmt: skip
                        cross = r * (tp + m * wanted * dp) - tn - m * wanted * dn
                        cost = a * a * square - 2.0 * a * cross
                        for f in range(count):
                            v = vectors[c, f]
                            along = r * (along_p[f] + v * dp) - along_n[f] - v * dn
                            error = a * along - along_t[f] + others[f]
                            cost += error * error
                        if cost < best:
                            best, best_p, best_n = cost, new_p, new_n
                    dp, dn = best_p - old_p, best_n - old_n
                    pp += m * (best_p * best_p - old_p * old_p)
                    pn += m * (best_p * best_n - old_p * old_n)
                    nn += m * (best_n * best_n - old_n * old_n)
                    tp += m * wanted * dp
                    tn += m * wanted * dn
                    sum_p += dp
                    sum_n += dn
                    p[c], n[c] = best_p, best_n
                    for f in range(count):
                        along_p[f] += vectors[c, f] * dp
                        along_n[f] += vectors[c, f] * dn
                scale, ratio = _scales(sum_p, sum_n, circuit)
                _add_own((scale, ratio), sums, 1.0, others, total)


@njit(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def relax(
    positive: FloatArray,
    negative: FloatArray,
    target: FloatArray,
    variance: FloatArray,
    vectors: FloatArray,
    ends: NDArray[np.int64],
    circuit: FloatArray,
    sweeps: int,
    tolerance: float,
) -> None:
    """Improve conductances between the bounds in place, cell by cell, each exactly.

    With one cell free, all errors of its partition are linear in one number: in 1/(S+ + g_L) where
    g+ is free (a·ρ·g+_j is that times a constant, and for the cell itself g+/(S+ + g_L) is
    1 - (S+ - g+ + g_L)/(S+ + g_L)), in 1/(S- + 1/R) where g- is. So the cost is a parabola in it,
    and its least value between the bounds is known.

    Args:
        positive: (M, C) S.
        negative: (M, C) S.
        target: (M, C), wanted transfer.
        variance: (C,), m.
        vectors: (C, F), v.
        ends: (H+1,) int64, column ranges of the partitions.
        circuit: As for :func:`descend`.
        sweeps: Passes over a row at most.
        tolerance: A row ends when a pass gains less than this part of its cost.
    """
    low, high, gain, load, source = circuit
    rows, count, parts = len(positive), vectors.shape[1], len(ends) - 1
    total, others, sums = np.zeros(count), np.zeros(count), np.zeros((3, count))
    along_p, along_n, along_t = sums[0], sums[1], sums[2]
    for row in range(rows):
        p, n, t = positive[row], negative[row], target[row]
        _row_error(p, n, t, vectors, ends, circuit, total)
        before = np.inf
        for _ in range(sweeps):
            cost = 0.0
            for part in range(parts):
                first, last = ends[part], ends[part + 1]
                sum_p, sum_n, pp, pn, nn, tp, tn = _moments(
                    p, n, t, variance, vectors, first, last, sums
                )
                _add_own(_scales(sum_p, sum_n, circuit), sums, -1.0, total, others)
                for c in range(first, last):
                    m, wanted = variance[c], t[c]
                    # g+: all errors are linear in s = 1/(S+ + g_L)
                    old = p[c]
                    rest = sum_p - old + load
                    scale = gain / (sum_n + source)
                    reach = scale * (sum_n + load)
                    square = pp - m * old * old + m * rest * rest
                    cross = -m * reach * rest
                    cross -= scale * (pn - m * old * n[c] - rest * m * n[c])
                    cross -= tp - m * wanted * old - rest * m * wanted
                    for f in range(count):
                        v = vectors[c, f]
                        slope = along_p[f] - v * old - v * rest
                        level = reach * v - scale * along_n[f] - along_t[f] + others[f]
                        square += slope * slope
                        cross += slope * level
                    if square > 0.0:
                        inverse = -cross / (reach * square)
                        new = _least(inverse, rest, low, high)
                        step = new - old
                        pp += m * (new * new - old * old)
                        pn += m * step * n[c]
                        tp += m * wanted * step
                        sum_p += step
                        p[c] = new
                        for f in range(count):
                            along_p[f] += vectors[c, f] * step
                    # g-: all errors are linear in r = 1/(S- + 1/R)
                    old, own_p = n[c], p[c]
                    rest = sum_n - old + source
                    reach = gain / (sum_p + load)
                    fall = reach * (source - load)
                    other_nn = nn - m * old * old + m * rest * rest
                    other_pn = pn - m * own_p * old - m * own_p * rest
                    other_tn = tn - m * wanted * old - m * wanted * rest
                    own = gain * rest - fall * own_p
                    square = fall * fall * pp + 2.0 * fall * gain * other_pn
                    square += gain * gain * other_nn
                    cross = fall * (tp - reach * pp) - reach * gain * other_pn
                    cross += gain * other_tn - gain * m * own
                    for f in range(count):
                        v = vectors[c, f]
                        slope = -fall * along_p[f] - gain * (along_n[f] - v * old - v * rest)
                        level = reach * along_p[f] - along_t[f] - gain * v + others[f]
                        square += slope * slope
                        cross += slope * level
                    if square > 0.0:
                        inverse = -cross / square
                        new = _least(inverse, rest, low, high)
                        step = new - old
                        nn += m * (new * new - old * old)
                        pn += m * step * own_p
                        tn += m * wanted * step
                        sum_n += step
                        n[c] = new
                        for f in range(count):
                            along_n[f] += vectors[c, f] * step
                scale, ratio = _scales(sum_p, sum_n, circuit)
                _add_own((scale, ratio), sums, 1.0, others, total)
                for c in range(first, last):
                    error = scale * (ratio * p[c] - n[c]) - t[c]
                    cost += variance[c] * error * error
            for f in range(count):
                cost += total[f] * total[f]
            if before - cost <= tolerance * cost:
                break
            before = cost

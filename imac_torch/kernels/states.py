"""Coordinate descent on the conductances of crossbar rows, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

FloatArray = NDArray[np.float64]


@njit(error_model="numpy")
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
    """Improve conductances in place, cell by cell.

    The error of cell c is e_c = A·(ρ·g+_c - g-_c) - t_c, with A and ρ from the sums of its row and
    partition (:mod:`imac_torch.mapping.matching`); the cost of a row is Σ m·e² + Σ_f (Σ v_f·e)²
    over all its partitions. For a change in one cell it follows from a few sums.

    Args:
        positive: (M, C) S.
        negative: (M, C) S.
        target: (M, C), wanted transfer.
        variance: (C,), m.
        vectors: (F, C), v.
        ends: (H+1,) int64, column ranges of the partitions.
        circuit: Smallest and largest conductance, gain (over the partitions, if averaged), g_L,
            1/R.
        states: Equally spaced states, or 0 for any conductance: then the steps are halved from
            sweep to sweep.
        sweeps: Passes over a row.
    """
    low, high, gain, load, source = circuit
    rows = positive.shape[0]
    count = vectors.shape[0]
    parts = len(ends) - 1
    total = np.zeros(count)
    along_p, along_n, along_t = np.zeros(count), np.zeros(count), np.zeros(count)
    others = np.zeros(count)
    trial = states if states > 0 else 9
    spacing = (high - low) / (states - 1) if states > 0 else 0.0
    for row in range(rows):
        p, n, t = positive[row], negative[row], target[row]
        total[:] = 0.0
        for part in range(parts):
            sum_p = sum_n = 0.0
            for c in range(ends[part], ends[part + 1]):
                sum_p += p[c]
                sum_n += n[c]
            scale = gain / (sum_n + source)
            ratio = (sum_n + load) / (sum_p + load)
            for c in range(ends[part], ends[part + 1]):
                error = scale * (ratio * p[c] - n[c]) - t[c]
                for f in range(count):
                    total[f] += vectors[f, c] * error
        for sweep in range(sweeps):
            width = (high - low) * 0.5 ** (sweep + 1)
            for part in range(parts):
                first, last = ends[part], ends[part + 1]
                sum_p = sum_n = pp = pn = nn = tp = tn = 0.0
                along_p[:] = 0.0
                along_n[:] = 0.0
                along_t[:] = 0.0
                for c in range(first, last):
                    m = variance[c]
                    sum_p += p[c]
                    sum_n += n[c]
                    pp += m * p[c] * p[c]
                    pn += m * p[c] * n[c]
                    nn += m * n[c] * n[c]
                    tp += m * t[c] * p[c]
                    tn += m * t[c] * n[c]
                    for f in range(count):
                        along_p[f] += vectors[f, c] * p[c]
                        along_n[f] += vectors[f, c] * n[c]
                        along_t[f] += vectors[f, c] * t[c]
                scale = gain / (sum_n + source)
                ratio = (sum_n + load) / (sum_p + load)
                for f in range(count):
                    own = scale * (ratio * along_p[f] - along_n[f]) - along_t[f]
                    others[f] = total[f] - own
                for c in range(first, last):
                    scale = gain / (sum_n + source)
                    ratio = (sum_n + load) / (sum_p + load)
                    m, wanted, old_p, old_n = variance[c], t[c], p[c], n[c]
                    best, best_p, best_n = np.inf, old_p, old_n
                    for k in range(-1, 4 * trial):
                        if k < 0:
                            new_p, new_n = old_p, old_n
                        elif states > 0:
                            if k >= 2 * states:
                                break
                            new_p = low + spacing * (k // 2)
                            line = (ratio * new_p - wanted / scale - low) / spacing
                            place = min(max(np.floor(line), 0.0), states - 2.0) + k % 2
                            new_n = low + spacing * place
                        else:
                            new_p = min(max(old_p + width * (k // 4 - 4) / 4.0, low), high)
                            if k % 4 == 0:
                                new_n = ratio * new_p - wanted / scale
                            else:
                                new_n = old_n + width * (k % 4 - 2) / 2.0
                            new_n = min(max(new_n, low), high)
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
                            v = vectors[f, c]
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
                        along_p[f] += vectors[f, c] * dp
                        along_n[f] += vectors[f, c] * dn
                scale = gain / (sum_n + source)
                ratio = (sum_n + load) / (sum_p + load)
                for f in range(count):
                    own = scale * (ratio * along_p[f] - along_n[f]) - along_t[f]
                    total[f] = others[f] + own

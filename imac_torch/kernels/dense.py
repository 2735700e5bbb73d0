"""Small dense building blocks that compile into the kernels around them.

Matrices are row-major, their widths padded with zeros to a multiple of 8, so that every inner
loop is a whole number of vector registers. Four pivots (or four terms of a product) and two rows
are worked on at once: with 256-bit registers that balances loads and multiply-adds. ``contract``
allows fused multiply-adds and nothing else; only :func:`total` may add up in another order.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

Array = NDArray[np.float64]
PADDING: Final = 8


@njit(nogil=True, fastmath={"contract", "reassoc"})
def total(values: Array) -> float:
    """Sum of a vector, in any order."""
    result = 0.0
    for k in range(values.shape[0]):
        result += values[k]
    return result


@njit(nogil=True, fastmath={"contract"})
def _subtract(
    work: Array, first: int, last: int, coefficients: Array, pivots: Array, width: int
) -> None:
    """work[i] -= Σ_p coefficients[i, p]·pivots[p] for i in first..last (an even number)."""
    for i in range(first, last, 2):
        a0, a1, a2, a3 = (
            coefficients[i, 0],
            coefficients[i, 1],
            coefficients[i, 2],
            coefficients[i, 3],
        )
        b0, b1, b2, b3 = (
            coefficients[i + 1, 0],
            coefficients[i + 1, 1],
            coefficients[i + 1, 2],
            coefficients[i + 1, 3],
        )
        for j in range(width):
            p0, p1, p2, p3 = pivots[0, j], pivots[1, j], pivots[2, j], pivots[3, j]
            work[i, j] = work[i, j] - a0 * p0 - a1 * p1 - a2 * p2 - a3 * p3
            work[i + 1, j] = work[i + 1, j] - b0 * p0 - b1 * p1 - b2 * p2 - b3 * p3


@njit(nogil=True, fastmath={"contract"})
def insert_series(
    work: Array,
    ports: int,
    rows: int,
    width: int,
    resistance: float,
    coefficients: Array,
    pivots: Array,
) -> None:
    """Put a resistor in series with every port, in place.

    The first ``ports`` rows of ``work`` are an admittance E, the others voltage transfers T per
    port voltage. Adding a resistor r at port k alone maps every row e to e - e_k·r/(1 + r·E_kk)·E_k
    (the Sherman-Morrison formula); over all ports that gives E·(1 + rE)⁻¹ and T·(1 + rE)⁻¹. For
    the networks here E is a row diagonally dominant M-matrix: all voltages lie between those of
    the ports and ground, whatever the amplifiers (alpha <= 1) do, so off-diagonals are <= 0 and
    row sums >= 0, before and after each step. Then off-diagonals only ever add up, and elimination
    without pivoting has a growth factor of at most 2 (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., theorem 9.9).

    Args:
        work: (>= rows, >= width) S and V/V; columns beyond the ports stand for other excitations
            and follow the same formula.
        ports: Multiple of 4; surplus ports have zero rows and columns.
        rows: Even, >= ports.
        width: >= ports, columns worked on.
        resistance: Ω, >= 0.
        coefficients: (>= rows, 4), overwritten.
        pivots: (4, >= width), overwritten.
    """
    scale = np.empty(4)
    for k in range(0, ports, 4):
        # The four pivot rows among themselves; pivots keeps each as it is when its turn comes.
        for p in range(4):
            s = 1.0 / (1.0 + resistance * work[k + p, k + p])
            scale[p] = s
            for j in range(width):
                pivots[p, j] = work[k + p, j]
            for q in range(4):
                if q == p:
                    for j in range(width):
                        work[k + q, j] = s * pivots[p, j]
                else:
                    own = work[k + q, k + p]
                    c = resistance * s * own
                    for j in range(width):
                        work[k + q, j] -= c * pivots[p, j]
                    work[k + q, k + p] = s * own  # without 1 - rE_kk/(1 + rE_kk)
        r01, r02, r03 = pivots[0, k + 1], pivots[0, k + 2], pivots[0, k + 3]
        r12, r13, r23 = pivots[1, k + 2], pivots[1, k + 3], pivots[2, k + 3]
        r10, r20, r30 = pivots[1, k], pivots[2, k], pivots[3, k]
        r21, r31, r32 = pivots[2, k + 1], pivots[3, k + 1], pivots[3, k + 2]
        s0, s1, s2, s3 = scale[0], scale[1], scale[2], scale[3]
        for i in range(rows):
            if i == k:
                continue
            e0 = work[i, k] * s0
            c0 = resistance * e0
            e1 = (work[i, k + 1] - c0 * r01) * s1
            c1 = resistance * e1
            e2 = (work[i, k + 2] - c0 * r02 - c1 * r12) * s2
            c2 = resistance * e2
            e3 = (work[i, k + 3] - c0 * r03 - c1 * r13 - c2 * r23) * s3
            c3 = resistance * e3
            coefficients[i, 0], coefficients[i, 1] = c0, c1
            coefficients[i, 2], coefficients[i, 3] = c2, c3
        _subtract(work, 0, k, coefficients, pivots, width)
        _subtract(work, k + 4, rows, coefficients, pivots, width)
        if resistance > 0.0:
            for i in range(rows):
                if k <= i < k + 4:
                    continue
                c0, c1 = coefficients[i, 0], coefficients[i, 1]
                c2, c3 = coefficients[i, 2], coefficients[i, 3]
                work[i, k] = c0 / resistance - c1 * r10 - c2 * r20 - c3 * r30
                work[i, k + 1] = c1 / resistance - c2 * r21 - c3 * r31
                work[i, k + 2] = c2 / resistance - c3 * r32
                work[i, k + 3] = c3 / resistance


@njit(nogil=True, fastmath={"contract"})
def add_product(left: Array, right: Array, result: Array, size: int) -> None:
    """Add left·right to result; ``size`` (a multiple of 4) rows and terms, all columns."""
    width = right.shape[1]
    for i in range(0, size, 2):
        for k in range(0, size, 4):
            a0, a1, a2, a3 = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
            b0, b1 = left[i + 1, k], left[i + 1, k + 1]
            b2, b3 = left[i + 1, k + 2], left[i + 1, k + 3]
            for j in range(width):
                p0, p1, p2, p3 = right[k, j], right[k + 1, j], right[k + 2, j], right[k + 3, j]
                result[i, j] = result[i, j] + a0 * p0 + a1 * p1 + a2 * p2 + a3 * p3
                result[i + 1, j] = result[i + 1, j] + b0 * p0 + b1 * p1 + b2 * p2 + b3 * p3


@njit(nogil=True, fastmath={"contract"})
def add_transposed_product(left: Array, right: Array, result: Array, size: int) -> None:
    """Add leftᵀ·right to result; ``size`` (a multiple of 4) rows and terms, all columns."""
    width = right.shape[1]
    for i in range(0, size, 2):
        for k in range(0, size, 4):
            a0, a1, a2, a3 = left[k, i], left[k + 1, i], left[k + 2, i], left[k + 3, i]
            b0, b1 = left[k, i + 1], left[k + 1, i + 1]
            b2, b3 = left[k + 2, i + 1], left[k + 3, i + 1]
            for j in range(width):
                p0, p1, p2, p3 = right[k, j], right[k + 1, j], right[k + 2, j], right[k + 3, j]
                result[i, j] = result[i, j] + a0 * p0 + a1 * p1 + a2 * p2 + a3 * p3
                result[i + 1, j] = result[i + 1, j] + b0 * p0 + b1 * p1 + b2 * p2 + b3 * p3

"""Small dense building blocks that compile into the kernels around them.

Matrices are row-major, their widths padded with zeros to a multiple of 8, so that every inner
loop is a whole number of vector registers. Four ports (or four terms of a product) are worked on at
once. ``contract`` allows fused multiply-adds and nothing else; only :func:`total` may add up in
another order.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.panels import TERMS, add_8, add_16

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
def add(
    result: Array, first: int, last: int, width: int, left: Array, k: int, right: Array, p: int
) -> None:
    """result[i] += Σ_t left[i, k+t]·right[p+t], four terms, for i in first..last."""
    wide = width // 16 * 16
    for j in range(0, wide, 16):
        add_16(result, first, last, j, left, k, right, p)
    if width > wide:
        add_8(result, first, last, wide, left, k, right, p)


@njit(nogil=True, fastmath={"contract"})
def _invert(matrix: Array) -> None:
    """Inverse of four rows that are diagonally dominant, in place, by Gauss and Jordan."""
    for p in range(TERMS):
        scale = 1.0 / matrix[p, p]
        matrix[p, p] = 1.0
        for j in range(TERMS):
            matrix[p, j] *= scale
        for q in range(TERMS):
            if q != p:
                factor = matrix[q, p]
                matrix[q, p] = 0.0
                for j in range(TERMS):
                    matrix[q, j] -= factor * matrix[p, j]


@njit(nogil=True, fastmath={"contract"})
def insert_series(
    work: Array, ports: int, rows: int, width: int, resistance: float, pivots: Array
) -> None:
    """Put a resistor in series with every port, in place.

    The first ``ports`` rows of ``work`` are an admittance E, the others voltage transfers T per
    port voltage. Adding resistors r at four ports K alone maps every row e to
    e - r·e_K·M·E_K, M = (1 + r·E_KK)⁻¹ (the Sherman-Morrison-Woodbury formula), in the columns K
    e_K·M; over all ports that gives E·(1 + rE)⁻¹ and T·(1 + rE)⁻¹. For the networks here E is a
    row diagonally dominant M-matrix: all voltages lie between those of the ports and ground,
    whatever the amplifiers (alpha <= 1) do, so off-diagonals are <= 0 and row sums >= 0, before
    and after each step, and M >= 0. Then off-diagonals only ever add up, and elimination without
    pivoting has a growth factor of at most 2 (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., theorem 9.9).

    Args:
        work: (>= rows, >= width) S and V/V; columns beyond the ports stand for other excitations
            and follow the same formula.
        ports: Multiple of 4; surplus ports have zero rows and columns.
        rows: >= ports.
        width: >= ports, multiple of 8, columns worked on.
        resistance: Ω, >= 0.
        pivots: (4, >= width), overwritten.
    """
    inverse = np.empty((TERMS, TERMS))
    taken = np.empty((rows, TERMS))
    for k in range(0, ports, TERMS):
        for p in range(TERMS):
            for q in range(TERMS):
                inverse[p, q] = resistance * work[k + p, k + q]
            inverse[p, p] += 1.0
        _invert(inverse)
        # Columns K are taken out: one product gives e - r·e_K·M·E_K elsewhere and e_K·M there.
        for i in range(rows):
            for q in range(TERMS):
                taken[i, q] = work[i, k + q]
                work[i, k + q] = 0.0
        for p in range(TERMS):
            for j in range(width):
                pivots[p, j] = work[k + p, j]
                work[k + p, j] = 0.0
            for q in range(TERMS):
                pivots[p, k + q] = taken[k + p, q]
        add(work[k : k + TERMS], 0, TERMS, width, inverse, 0, pivots, 0)  # M·E_K
        for p in range(TERMS):
            for j in range(width):
                pivots[p, j] = -resistance * work[k + p, j]
            for q in range(TERMS):
                pivots[p, k + q] = inverse[p, q]
        for j in range(0, width, 8):
            add_8(work, 0, k, j, taken, 0, pivots, 0)
            add_8(work, k + TERMS, rows, j, taken, 0, pivots, 0)


@njit(nogil=True, fastmath={"contract"})
def add_product(left: Array, right: Array, result: Array, size: int) -> None:
    """Add left·right to result; ``size`` (a multiple of 4) rows and terms, all columns."""
    for k in range(0, size, TERMS):
        add(result, 0, size, right.shape[1], left, k, right, k)

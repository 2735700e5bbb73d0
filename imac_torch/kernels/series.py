"""Resistors in series with all ports of an admittance, eight ports at a time.

Matrices are square, their width padded with zeros to a multiple of LANES: a row is a whole number
of vectors, and eight ports are one.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.lanes import LANES, Lanes, choose, load, number, same, store

Array = NDArray[np.float64]
ROWS: Final = 6
"""Rows of a product that are worked on at once: with these, sums are in twelve of 16 registers."""


@njit(nogil=True, fastmath={"contract"})
def multiply(
    left: Array, first: int, last: int, right: Array, result: Array, shift: int, width: int
) -> None:
    """Rows of a matrix times another one, into rows as far behind as ``shift`` says.

    Rows up to the next multiple of ROWS from ``first`` on are computed, too.

    Args:
        left: (rows, width).
        first: Its first row.
        last: After its last row.
        right: (width, width).
        result: (rows, width), which may be ``left`` where the rows are others.
        shift: result[i + shift] is written.
        width: Multiple of LANES.
    """
    strips = width // LANES
    for i in range(first, last, ROWS):
        at, row = (i + shift) * strips, i * width
        for s in range(strips):
            a, b, c = same(0.0), same(0.0), same(0.0)
            d, e, f = same(0.0), same(0.0), same(0.0)
            for k in range(width):
                terms = load(right, k * strips + s)
                a += number(left, row + k) * terms
                b += number(left, row + width + k) * terms
                c += number(left, row + 2 * width + k) * terms
                d += number(left, row + 3 * width + k) * terms
                e += number(left, row + 4 * width + k) * terms
                f += number(left, row + 5 * width + k) * terms
            store(result, at + s, a)
            store(result, at + strips + s, b)
            store(result, at + 2 * strips + s, c)
            store(result, at + 3 * strips + s, d)
            store(result, at + 4 * strips + s, e)
            store(result, at + 5 * strips + s, f)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy", forceinline=True)
def _invert(matrix: Array, units: Array) -> None:
    """Inverse of LANES rows that are diagonally dominant, in place, by Gauss and Jordan."""
    zero, one = same(0.0), same(1.0)
    for p in range(LANES):
        here = load(units, p)
        pivot = choose(here, zero, one, load(matrix, p)) * (1.0 / matrix[p, p])
        for q in range(LANES):
            if q != p:
                rest = choose(here, zero, zero, load(matrix, q))
                store(matrix, q, rest - matrix[q, p] * pivot)
        store(matrix, p, pivot)


@njit(nogil=True, fastmath={"contract"}, forceinline=True)
def _four(
    left: Array, row: int, right: Array, k: int, s: int
) -> tuple[Lanes, Lanes, Lanes, Lanes]:
    """Strip s of four rows of left·right[k..k+8], the former with LANES columns."""
    strips = right.shape[1] // LANES
    at, row = k * strips + s, row * LANES
    a, b, c, d = same(0.0), same(0.0), same(0.0), same(0.0)
    for t in range(LANES):
        terms = load(right, at + t * strips)
        a += number(left, row + t) * terms
        b += number(left, row + LANES + t) * terms
        c += number(left, row + 2 * LANES + t) * terms
        d += number(left, row + 3 * LANES + t) * terms
    return a, b, c, d


@njit(nogil=True, fastmath={"contract"}, forceinline=True)
def _add_four(
    work: Array, i: int, k: int, pivots: Array, s: int, a: Lanes, b: Lanes, c: Lanes, d: Lanes
) -> None:
    """Strip s of four rows: what is given and work[i.., k..k+8]·pivots."""
    width = work.shape[1]
    strips, row = width // LANES, i * width + k
    for t in range(LANES):
        terms = load(pivots, t * strips + s)
        a += number(work, row + t) * terms
        b += number(work, row + width + t) * terms
        c += number(work, row + 2 * width + t) * terms
        d += number(work, row + 3 * width + t) * terms
    at = i * strips + s
    store(work, at, a)
    store(work, at + strips, b)
    store(work, at + 2 * strips, c)
    store(work, at + 3 * strips, d)


@njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def insert_segments(
    work: Array, resistance: float, nodes: Array, pivots: Array, inverse: Array, units: Array
) -> None:
    """Put a resistor in series with every port of an admittance E, in place.

    Adding resistors r at eight ports K alone maps every row e to e - r·e_K·M·E_K,
    M = (1 + r·E_KK)⁻¹ (the Sherman-Morrison-Woodbury formula), in the columns K e_K·M; over all
    ports that gives Y = E·(1 + rE)⁻¹. For the networks here E is a row diagonally dominant
    M-matrix: all voltages lie between those of the ports and ground, whatever the amplifiers
    (alpha <= 1) do, so off-diagonals are <= 0 and row sums >= 0, before and after each step, and
    M >= 0. Then off-diagonals only ever add up, and elimination without pivoting has a growth
    factor of at most 2 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., theorem
    9.9). Voltages behind the resistors, N = 1 - rY, are not computed as this difference: off the
    diagonal they are -rY, and on it they begin as M and grow by what off-diagonals multiply to.

    Args:
        work: (width, width) S; surplus ports have zero rows and columns.
        resistance: Ω, >= 0.
        nodes: (width, width), written: voltages behind the resistors per port voltage.
        pivots: (LANES, width), overwritten.
        inverse: (LANES, LANES), overwritten.
        units: (LANES, LANES), the identity.
    """
    width = work.shape[0]
    strips = width // LANES
    none = same(0.0)
    for k in range(0, width, LANES):
        own = k // LANES
        for p in range(LANES):
            row = resistance * load(work, (k + p) * strips + own) + load(units, p)
            store(inverse, p, row)
        _invert(inverse, units)
        # Rows K become M·E_K; what other rows add of them is -r times that.
        for s in range(strips):
            a, b, c, d = _four(inverse, 0, work, k, s)
            e, f, g, h = _four(inverse, 4, work, k, s)
            p = 0
            for found in (a, b, c, d, e, f, g, h):
                store(work, (k + p) * strips + s, found)
                store(pivots, p * strips + s, -resistance * found)
                p += 1  # noqa: SIM113 - numba unrolls tuples, not enumerate
        for p in range(LANES):
            store(pivots, p * strips + own, load(inverse, p))
            nodes[k + p, k + p] = inverse[p, p]
        for i in range(k):
            moved = 0.0
            for t in range(k, k + LANES):
                moved += work[i, t] * pivots[t - k, i]
            nodes[i, i] -= resistance * moved
        for i in range(0, width, 4):
            if i // LANES == own:
                continue
            for s in range(strips):
                if s != own:
                    at = i * strips + s
                    a, b = load(work, at), load(work, at + strips)
                    c, d = load(work, at + 2 * strips), load(work, at + 3 * strips)
                    _add_four(work, i, k, pivots, s, a, b, c, d)
            _add_four(work, i, k, pivots, own, none, none, none, none)  # others needed it
    for i in range(width):
        diagonal = nodes[i, i]
        for s in range(strips):
            store(nodes, i * strips + s, -resistance * load(work, i * strips + s))
        nodes[i, i] = diagonal

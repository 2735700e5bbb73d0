"""Row recursion in compiled code: one block at a time, everything in the cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.dense import PADDING, add, add_product, insert_series, total
from imac_torch.kernels.lines import (
    FACTORS,
    INPUT_SEGMENT,
    add_row,
    factor_row,
    row_gradients,
    write_ends,
)
from imac_torch.kernels.panels import TERMS

Array = NDArray[np.float64]


def padded(columns: int) -> int:
    """Width of the kernels' matrices."""
    return -(-columns // PADDING) * PADDING


@njit(nogil=True, fastmath={"contract"})
def _reduce_rows(
    positive: Array,
    negative: Array,
    scalars: Array,
    reduced: Array,
    plus: Array,
    minus: Array,
    buffers: Array,
) -> None:
    """reduced[r]: admittance of rows r.. of a block, with the segments above row r, for all r."""
    count = positive.shape[0]
    width = reduced.shape[2]
    for r in range(count - 1, -1, -1):
        for i in range(width):
            for j in range(width):
                reduced[r, i, j] = 0.0 if r == count - 1 else reduced[r + 1, i, j]
        factor_row(positive[r], negative[r], scalars, plus, minus)
        add_row(positive[r], negative[r], scalars, plus, minus, reduced[r], buffers)
        insert_series(reduced[r], width, width, width, scalars[INPUT_SEGMENT], buffers)


@njit(nogil=True, fastmath={"contract"})
def _copy(source: Array, start: int, target: Array, first: int, count: int) -> None:
    """Rows first.. of a matrix from rows start.. of another one that is as wide or wider."""
    for i in range(count):
        for j in range(target.shape[1]):
            target[first + i, j] = source[start + i, j]


@njit(nogil=True, fastmath={"contract"})
def eliminate_up(
    first: int,
    last: int,
    positive: Array,
    negative: Array,
    scalars: Array,
    admittance: Array,
    positive_end: Array,
    negative_end: Array,
    saved: Array,
) -> None:
    """Blocks to ports, transfers carried up; what gradients need is kept where it is wanted.

    Carrying 2R transfers up costs R·K² per row. Of tall blocks pieces of K/2 rows are carried
    instead, and voltages below a piece per voltage above it with them, K³ per row: once a piece is
    done, transfers of all rows below it are multiplied by those.

    Args:
        first: Blocks first..last are done.
        last: See ``first``.
        positive: (B, R, K) S.
        negative: (B, R, K) S.
        scalars: See :mod:`imac_torch.kernels.lines`.
        admittance: (B, K, K), written.
        positive_end: (B, R, K), written.
        negative_end: (B, R, K), written.
        saved: (B, R, W, W) reduced admittances, written; without blocks, nothing is kept.
    """
    count, columns = positive.shape[1:]
    width = (columns + 7) // 8 * 8
    keep = saved.shape[0] > 0
    tall = 2 * count > 3 * width
    piece = width // 2 if tall else count
    start = 2 * width if tall else width
    plus, minus = np.empty((FACTORS, width)), np.empty((FACTORS, width))
    buffers = np.empty((4, width))
    work = np.empty((start + 2 * piece, width))
    ends = np.zeros((2 * count, width))
    carried = np.zeros((2 * count if tall else 0, width))
    for b in range(first, last):
        work[:] = 0.0
        bottom = count
        while bottom > 0:
            top = max(0, bottom - piece)
            below = bottom < count
            base = start if below else width
            if below:
                work[width:] = 0.0
                for i in range(columns):
                    work[width + i, i] = 1.0
            rows = base
            for r in range(bottom - 1, top - 1, -1):
                gp, gn = positive[b, r], negative[b, r]
                factor_row(gp, gn, scalars, plus, minus)
                add_row(gp, gn, scalars, plus, minus, work, buffers)
                write_ends(scalars, plus, minus, work[rows], work[rows + 1], columns)
                rows += 2
                insert_series(work, width, rows, width, scalars[INPUT_SEGMENT], buffers)
                if keep:
                    _copy(work, 0, saved[b, r], 0, width)
            for r in range(top, bottom):
                _copy(work, base + 2 * (bottom - 1 - r), ends, 2 * r, 2)
            if below:
                carried[2 * bottom :] = 0.0
                for k in range(0, width, TERMS):
                    add(carried, 2 * bottom, 2 * count, width, ends, k, work, width + k)
                _copy(carried, 2 * bottom, ends, 2 * bottom, 2 * (count - bottom))
            bottom = top
        _copy(work, 0, admittance[b], 0, columns)
        for r in range(count):
            for j in range(columns):
                positive_end[b, r, j], negative_end[b, r, j] = ends[2 * r, j], ends[2 * r + 1, j]


@njit(nogil=True, fastmath={"contract"})
def eliminate_backward(
    first: int,
    last: int,
    positive: Array,
    negative: Array,
    scalars: Array,
    saved: Array,
    grad_admittance: Array,
    grad_positive_end: Array,
    grad_negative_end: Array,
    grad_positive: Array,
    grad_negative: Array,
    grad_scalars: Array,
) -> None:
    """The adjoint of the elimination; the algebra is in ``elimination.rows.RowRecursion``.

    Args:
        first: Blocks first..last are done.
        last: See ``first``.
        positive: (B, R, K) S.
        negative: (B, R, K) S.
        scalars: See :mod:`imac_torch.kernels.lines`.
        saved: (B, R, W, W) from :func:`eliminate_up`; without blocks, they are recomputed.
        grad_admittance: (B, K, K).
        grad_positive_end: (B, R, K).
        grad_negative_end: (B, R, K).
        grad_positive: (B, R, K), written.
        grad_negative: (B, R, K), written.
        grad_scalars: (B, SCALARS), written.
    """
    count, columns = positive.shape[1:]
    width = (columns + 7) // 8 * 8
    segment = scalars[INPUT_SEGMENT]
    plus, minus = np.empty((FACTORS, width)), np.empty((FACTORS, width))
    buffers = np.empty((4, width))
    keep = saved.shape[0] > 0
    own = np.empty((0 if keep else count, width, width))
    upward = np.empty((count, width, width))
    source = np.empty((width, width))
    voltages, adjoints = np.empty((width, width)), np.empty((width, width))
    currents, adjoint_currents = np.empty((width, width)), np.empty((width, width))
    ends, grad_ends = np.zeros((2, width)), np.zeros((2, width))
    sums = np.empty((4, columns, width))
    vectors = np.empty((8, width))
    products = np.empty(width)
    for b in range(first, last):
        reduced = saved[b] if keep else own
        if not keep:
            _reduce_rows(positive[b], negative[b], scalars, reduced, plus, minus, buffers)
        grad_scalars[b] = 0.0
        source[:] = 0.0
        for r in range(count - 1, -1, -1):
            factor_row(positive[b, r], negative[b, r], scalars, plus, minus)
            write_ends(scalars, plus, minus, ends[0], ends[1], columns)
            for i in range(columns):
                p, q = ends[0, i], ends[1, i]
                for j in range(columns):
                    source[i, j] += p * grad_positive_end[b, r, j] + q * grad_negative_end[b, r, j]
            currents[:] = 0.0
            add_product(reduced[r].T, source, currents, width)
            for i in range(width):
                for j in range(width):
                    source[i, j] -= segment * currents[i, j]
                    upward[r, i, j] = source[i, j]
        voltages[:] = 0.0
        adjoints[:] = 0.0
        for i in range(columns):
            voltages[i, i] = 1.0
            for j in range(columns):
                adjoints[i, j] = grad_admittance[b, i, j]
        products[:] = 0.0
        for r in range(count):
            for i in range(width):
                for j in range(width):
                    currents[i, j], adjoint_currents[i, j] = 0.0, upward[r, i, j]
            add_product(reduced[r], voltages, currents, width)
            add_product(reduced[r].T, adjoints, adjoint_currents, width)
            for i in range(width):
                for j in range(width):
                    products[j] -= currents[i, j] * adjoint_currents[i, j]
                    voltages[i, j] -= segment * currents[i, j]
                    adjoints[i, j] -= segment * adjoint_currents[i, j]
            factor_row(positive[b, r], negative[b, r], scalars, plus, minus)
            for j in range(columns):
                grad_ends[0, j] = grad_positive_end[b, r, j]
                grad_ends[1, j] = grad_negative_end[b, r, j]
            row_gradients(
                positive[b, r], negative[b, r], scalars, plus, minus, voltages, adjoints,
                grad_ends[0], grad_ends[1], sums, vectors, grad_positive[b, r],
                grad_negative[b, r], grad_scalars[b],
            )
        grad_scalars[b, INPUT_SEGMENT] = total(products)

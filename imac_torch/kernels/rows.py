"""Row recursion in compiled code: one block at a time, everything in the cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.dense import add, add_product, total
from imac_torch.kernels.lanes import LANES
from imac_torch.kernels.lines import (
    FACTORS,
    INPUT_SEGMENT,
    add_row,
    factor_row,
    row_gradients,
    write_ends,
)
from imac_torch.kernels.panels import TERMS
from imac_torch.kernels.series import ROWS, insert_segments, multiply

Array = NDArray[np.float64]
IndexArray = NDArray[np.int64]


def padded(columns: int) -> int:
    """Width of the kernels' matrices."""
    return -(-columns // LANES) * LANES


@njit(nogil=True, fastmath={"contract"})
def _reduce_rows(
    positive: Array,
    negative: Array,
    scalars: Array,
    reduced: Array,
    plus: Array,
    minus: Array,
) -> None:
    """reduced[r]: admittance of rows r.. of a block, with the segments above row r, for all r."""
    count, columns = positive.shape
    width = reduced.shape[2]
    both = np.zeros((2, width))
    nodes, pivots = np.empty((width, width)), np.empty((LANES, width))
    inverse, units = np.empty((LANES, LANES)), np.eye(LANES)
    for r in range(count - 1, -1, -1):
        for i in range(width):
            for j in range(width):
                reduced[r, i, j] = 0.0 if r == count - 1 else reduced[r + 1, i, j]
        both[0, :columns], both[1, :columns] = positive[r], negative[r]
        factor_row(positive[r], negative[r], scalars, plus, minus)
        add_row(both, scalars, plus, minus, reduced[r], units)
        insert_segments(reduced[r], scalars[INPUT_SEGMENT], nodes, pivots, inverse, units)


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
    row_ends: IndexArray,
    column_ends: IndexArray,
    scalars: Array,
    admittance: Array,
    positive_end: Array,
    negative_end: Array,
    saved: Array,
) -> None:
    """Blocks to ports, transfers carried up; what gradients need is kept where it is wanted.

    Layers are cut as :class:`imac_torch.elimination.blocks.BlockLayout` says: blocks with fewer
    columns than others begin with open cells, those with fewer rows end with them.

    Carrying 2R transfers up costs R·K² per row. Of tall blocks pieces of K/2 rows are carried
    instead, and voltages below a piece per voltage above it with them, K³ per row: once a piece is
    done, transfers of all rows below it are multiplied by those.

    Args:
        first: Blocks first..last are done, which are counted by layer, then by columns.
        last: See ``first``.
        positive: (S, M, C) S, of layers.
        negative: (S, M, C) S.
        row_ends: (V+1,) of the ranges of rows that layers are cut into.
        column_ends: (H+1,) likewise.
        scalars: See :mod:`imac_torch.kernels.lines`.
        admittance: (B, K, K), written.
        positive_end: (S, M, C), written.
        negative_end: (S, M, C), written.
        saved: (B, R, W, W) reduced admittances, written; without blocks, nothing is kept.
    """
    vertical, horizontal = row_ends.shape[0] - 1, column_ends.shape[0] - 1
    columns = admittance.shape[1]
    most = 0
    for v in range(vertical):
        most = max(most, row_ends[v + 1] - row_ends[v])
    width = (columns + LANES - 1) // LANES * LANES
    keep = saved.shape[0] > 0
    segment = scalars[INPUT_SEGMENT]
    tall = 2 * most > 3 * width
    piece = width // 2 if tall else most
    start = width if tall else 0
    plus, minus = np.zeros((FACTORS, width)), np.zeros((FACTORS, width))
    both = np.zeros((2, width))
    work, nodes = np.empty((width, width)), np.empty((width, width))
    pivots = np.empty((LANES, width))
    inverse, units = np.empty((LANES, LANES)), np.eye(LANES)
    size = (start + 2 * piece + ROWS - 1) // ROWS * ROWS
    moving = np.zeros((2 * size, width))  # before and after a row, in turns
    ends = np.zeros((2 * most, width))
    carried = np.zeros((2 * most if tall else 0, width))
    for b in range(first, last):
        v = b % vertical
        h = b // vertical % horizontal
        s = b // (vertical * horizontal)
        begin, left = row_ends[v], column_ends[h]
        count, cells = row_ends[v + 1] - begin, column_ends[h + 1] - left
        open_cells = columns - cells
        both[:, :open_cells] = 0.0
        work[:] = 0.0
        now = 0
        bottom = count
        while bottom > 0:
            top = max(0, bottom - piece)
            below = bottom < count
            base = start if below else 0
            if below:
                for i in range(width):
                    for j in range(width):
                        moving[now + i, j] = 1.0 if i == j and i < columns else 0.0
            rows = base
            for r in range(bottom - 1, top - 1, -1):
                for j in range(cells):
                    both[0, open_cells + j] = positive[s, begin + r, left + j]
                    both[1, open_cells + j] = negative[s, begin + r, left + j]
                factor_row(both[0, :columns], both[1, :columns], scalars, plus, minus)
                add_row(both, scalars, plus, minus, work, units)
                at = now + rows
                write_ends(scalars, plus, minus, moving[at], moving[at + 1], columns)
                rows += 2
                insert_segments(work, segment, nodes, pivots, inverse, units)
                if keep:
                    _copy(work, 0, saved[b, r], 0, width)
                multiply(moving, now, now + rows, nodes, moving, size - 2 * now, width)
                now = size - now
            for r in range(top, bottom):
                _copy(moving, now + base + 2 * (bottom - 1 - r), ends, 2 * r, 2)
            if below:
                carried[2 * bottom : 2 * count] = 0.0
                for k in range(0, width, TERMS):
                    add(carried, 2 * bottom, 2 * count, width, ends, k, moving, now + k)
                _copy(carried, 2 * bottom, ends, 2 * bottom, 2 * (count - bottom))
            bottom = top
        _copy(work, 0, admittance[b], 0, columns)
        for r in range(count):
            for j in range(cells):
                positive_end[s, begin + r, left + j] = ends[2 * r, open_cells + j]
                negative_end[s, begin + r, left + j] = ends[2 * r + 1, open_cells + j]


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
    width = (columns + LANES - 1) // LANES * LANES
    segment = scalars[INPUT_SEGMENT]
    plus, minus = np.zeros((FACTORS, width)), np.zeros((FACTORS, width))
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
            _reduce_rows(positive[b], negative[b], scalars, reduced, plus, minus)
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

"""Compiled evaluation of bicubic B-spline tables: values only, all tables of a grid at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit

FloatArray = NDArray[np.float64]


@njit(inline="always", fastmath={"contract"})
def locate(position: float, low: float, high: float, inverse_step: float, cells: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Cell, place in the cell, and distance outside the grid."""
    within = min(max(position, low), high)
    scaled = (within - low) * inverse_step
    index = min(int(scaled), cells - 1)
    return index, scaled - index, position - within


@njit(inline="always", fastmath={"contract"})
def weights(t: float):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """The four cubic B-splines on a cell."""
    s = 1.0 - t
    return (
        s * s * s / 6.0,
        (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
        (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0,
        t * t * t / 6.0,
    )


@njit(inline="always", fastmath={"contract"})
def slopes(t: float, inverse_step: float):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Their derivatives with respect to the position."""
    s = 1.0 - t
    half = 0.5 * inverse_step
    return (
        -s * s * half,
        (3.0 * t * t - 4.0 * t) * half,
        (4.0 * s - 3.0 * s * s) * half,
        t * t * half,
    )


@njit(inline="always", fastmath={"contract"})
def summed(coefficients: FloatArray, table: int, i: int, j: int, a, b, da, db):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Value and both derivatives of one table in a cell, by weights and slopes of both axes."""
    value = by_first = by_second = 0.0
    for k in range(4):
        along = slope = 0.0
        for m in range(4):
            entry = coefficients[i + k, j + m, table]
            along += b[m] * entry
            slope += db[m] * entry
        value += a[k] * along
        by_first += da[k] * along
        by_second += a[k] * slope
    return value, by_first, by_second


@njit(nogil=True, fastmath={"contract"})
def evaluate(
    begin: int,
    end: int,
    coefficients: FloatArray,
    grid: FloatArray,
    first: FloatArray,
    second: FloatArray,
    result: FloatArray,
) -> None:
    """Values of T tables at points; outside the grid they continue linearly.

    Args:
        begin: First point.
        end: Point after the last.
        coefficients: (P+2, Q+2, T).
        grid: (6,) start, end and inverse step of both axes.
        first: (n,) positions.
        second: (n,) positions.
        result: (n, T), written.
    """
    tables = coefficients.shape[2]
    for point in range(begin, end):
        i, t, over_1 = locate(first[point], grid[0], grid[1], grid[2], coefficients.shape[0] - 3)
        j, p, over_2 = locate(second[point], grid[3], grid[4], grid[5], coefficients.shape[1] - 3)
        a, b = weights(t), weights(p)
        da, db = slopes(t, grid[2]), slopes(p, grid[5])
        for table in range(tables):
            value, by_first, by_second = summed(coefficients, table, i, j, a, b, da, db)
            result[point, table] = value + by_first * over_1 + by_second * over_2

"""Memory devices behind a tabulated transistor: the node between the two, cell by cell."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.table import locate, slopes, summed, weights

Array = NDArray[np.float64]
STEPS: Final = 100
"""Of the search for a node; Newton's method takes some four."""


@njit(inline="always", fastmath={"contract"})
def _table(first: float, second: float, table: int, coefficients: Array, grid: Array):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Value and both derivatives of one function."""
    i, t, over_1 = locate(first, grid[0], grid[1], grid[2], coefficients.shape[0] - 3)
    j, p, over_2 = locate(second, grid[3], grid[4], grid[5], coefficients.shape[1] - 3)
    a, b = weights(t), weights(p)
    da, db = slopes(t, grid[2]), slopes(p, grid[5])
    value, by_first, by_second = summed(coefficients, table, i, j, a, b, da, db)
    return value + by_first * over_1 + by_second * over_2, by_first, by_second


@njit(nogil=True, fastmath={"contract"})
def solve(
    begin: int,
    end: int,
    coefficients: Array,
    grid: Array,
    bend: float,
    reach: float,
    last: float,
    conductance: Array,
    across: Array,
    line: Array,
    result: Array,
) -> None:
    """Currents of cells whose memory devices are resistors or g·v0·sinh(v/v0).

    Args:
        begin: First cell.
        end: Cell after the last.
        coefficients: (P+2, Q+2, 2), of the current into the transistor and of what leaks besides,
            over the voltages of the node and of the I± line.
        grid: (6,), see :mod:`imac_torch.kernels.table`.
        bend: V, v0; 0 for resistors.
        reach: V, that nodes may be beyond the two lines.
        last: V; a smaller step of Newton's method is the last one.
        conductance: (n,) S.
        across: (n,) V.
        line: (n,) V, of the I± line.
        result: (5, n), written: V across the memory device; A; S by the voltage of the input line
            and of the I± line; A, leak. NaN where the node was not found.
    """
    for cell in range(begin, end):
        g, v, e = conductance[cell], across[cell], line[cell]
        low, high = min(v, 0.0) - reach, max(v, 0.0) + reach
        at, step = v, abs(v) + reach
        found = False
        current = own = 0.0
        for _ in range(STEPS):
            if bend > 0.0:
                power = math.exp(at / bend)
                current = 0.5 * g * bend * (power - 1.0 / power)
                own = 0.5 * g * (power + 1.0 / power)
            else:
                current, own = g * at, g
            passed, slope, _ = _table(e + v - at, e, 0, coefficients, grid)
            defect = current - passed
            if found or defect == 0.0:
                found = True
                break
            if defect < 0.0:
                low = at
            else:
                high = at
            following = at - defect / (own + slope)
            if not (low <= following <= high and abs(following - at) <= 0.5 * step):
                following = 0.5 * (low + high)
            step = abs(following - at)
            at = following
            found = step <= last
        if not found:
            for k in range(5):
                result[k, cell] = math.nan
            continue
        _, slope, by_line = _table(e + v - at, e, 0, coefficients, grid)
        leak, _, _ = _table(e + v - at, e, 1, coefficients, grid)
        share = own / (own + slope) if own + slope > 0.0 else 0.0
        result[0, cell] = at
        result[1, cell] = current
        result[2, cell] = share * slope
        result[3, cell] = -share * by_line
        result[4, cell] = leak if g > 0.0 else 0.0

"""Look-ups of neurons' tables for a vector of images at a time.

What goes in and what comes out are rows of one flat scratch array, :data:`LANES` wide each: the
compiler can tell that they do not overlap.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.patch import bicubic_patch, value_patch
from imac_torch.kernels.table import slopes, weights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LANES: Final = 32
"""Images per tile: whole vector registers, and enough of them to outweigh each loop's overhead."""
FAST: Final = {"contract", "nsz", "arcp"}
"""Fused multiply-add and reciprocals; nothing that reorders sums."""
_LOOKUP: Final = {"contract", "nsz", "arcp", "nnan", "ninf"}
"""Where positions have been clamped to the table: no NaN can be there."""

GATE, OUTPUT = 0, 1
"""Rows of the positions along both axes."""
AXIS = 2
"""Ten rows of the first axis: weights, slopes, cell, excess."""
PLACE = 12
"""Three rows of the second one: place in the cell, cell, excess."""
CURRENT, TUNNEL = 15, 18
"""Three rows of each table: value and both derivatives."""
EXP = 21
"""The row of exponentials."""
LOOK_UP_ROWS: Final = 22

_LOG2_E = 1.0 / math.log(2.0)
_INTEGER = 2.0**52 + 1023.0
"""Added to a small integer k it leaves k + 1023, a power's exponent field, in the last bits."""
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their sum is ln 2


@njit(error_model="numpy", inline="always", fastmath=_LOOKUP)
def _locate(
    scratch: FloatArray, source: int, row: int, low: float, high: float, inverse: float,
    cells: float,
) -> None:
    """Cubic B-splines and their slopes on the cells that the positions lie in."""
    for lane in range(LANES):
        position = scratch[source * LANES + lane]
        within = min(max(position, low), high)
        scaled = (within - low) * inverse
        cell = min(math.floor(scaled), cells - 1.0)
        t = scaled - cell
        w0, w1, w2, w3 = weights(t)
        scratch[row * LANES + lane] = w0
        scratch[(row + 1) * LANES + lane] = w1
        scratch[(row + 2) * LANES + lane] = w2
        scratch[(row + 3) * LANES + lane] = w3
        s0, s1, s2, s3 = slopes(t, inverse)
        scratch[(row + 4) * LANES + lane] = s0
        scratch[(row + 5) * LANES + lane] = s1
        scratch[(row + 6) * LANES + lane] = s2
        scratch[(row + 7) * LANES + lane] = s3
        scratch[(row + 8) * LANES + lane] = cell
        scratch[(row + 9) * LANES + lane] = position - within


@njit(error_model="numpy", inline="always", fastmath=_LOOKUP)
def _place(
    scratch: FloatArray, source: int, row: int, low: float, high: float, inverse: float,
    cells: float,
) -> None:
    """Cells that the positions lie in, the places there and the excesses."""
    for lane in range(LANES):
        position = scratch[source * LANES + lane]
        within = min(max(position, low), high)
        scaled = (within - low) * inverse
        cell = min(math.floor(scaled), cells - 1.0)
        scratch[row * LANES + lane] = scaled - cell
        scratch[(row + 1) * LANES + lane] = cell
        scratch[(row + 2) * LANES + lane] = position - within


@njit(error_model="numpy", inline="always", fastmath=_LOOKUP)
def split_exponential(argument: float):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """e^x as exp(r), |r| < ln 2/2, by a Taylor polynomial, and k + :data:`_INTEGER` of 2^k.

    The first neglected term is r^12/12! < 7e-15. Arguments are clamped, because outside the table
    a linear continuation could reach anything.
    """
    x = min(max(argument, -300.0), 300.0)
    k = math.floor(x * _LOG2_E + 0.5)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    return p * r + 1.0, k + _INTEGER


@njit(error_model="numpy", inline="always", fastmath=_LOOKUP)
def exponential(
    scratch: FloatArray, source: int, bits: IntArray, powers: FloatArray
) -> None:
    """Exponential of asinh(current/scale)."""
    for lane in range(LANES):
        over_gate = scratch[(AXIS + 9) * LANES + lane]
        over_output = scratch[(PLACE + 2) * LANES + lane]
        x = (
            scratch[source * LANES + lane]
            + scratch[(source + 1) * LANES + lane] * over_gate
            + scratch[(source + 2) * LANES + lane] * over_output
        )
        scratch[EXP * LANES + lane], powers[lane] = split_exponential(x)
    for lane in range(LANES):
        bits[lane] = bits[lane] << 52
    for lane in range(LANES):
        scratch[EXP * LANES + lane] *= powers[lane]


@njit(error_model="numpy", inline="always", fastmath=FAST)
def look_up(
    scratch: FloatArray, lanes: int, table: FloatArray, shape: tuple[int, int], grid: FloatArray
) -> None:
    """Both tables and their slopes at gates and outputs, and how far outside these are."""
    step = np.uint64(2 * shape[1])
    columns = float(shape[1])
    _locate(scratch, GATE, AXIS, grid[0], grid[1], grid[2], shape[0] - 3.0)
    _place(scratch, OUTPUT, PLACE, grid[3], grid[4], grid[5], columns - 3.0)
    for lane in range(lanes):
        cell = scratch[(AXIS + 8) * LANES + lane] * columns
        bicubic_patch(
            table,
            np.uint64(2.0 * (cell + scratch[(PLACE + 1) * LANES + lane])),
            step,
            scratch,
            np.uint64(PLACE * LANES + lane),
            np.uint64(AXIS * LANES + lane),
            np.uint64(CURRENT * LANES + lane),
            np.uint64(LANES),
        )
    for lane in range(LANES):
        scratch[(CURRENT + 2) * LANES + lane] *= grid[5]
        scratch[(TUNNEL + 2) * LANES + lane] *= grid[5]


@njit(error_model="numpy", inline="always", fastmath=_LOOKUP)
def _weigh(
    scratch: FloatArray, source: int, row: int, low: float, high: float, inverse: float,
    cells: float,
) -> None:
    """As :func:`_locate` without slopes and excess."""
    for lane in range(LANES):
        within = min(max(scratch[source * LANES + lane], low), high)
        scaled = (within - low) * inverse
        cell = min(math.floor(scaled), cells - 1.0)
        t = scaled - cell
        w0, w1, w2, w3 = weights(t)
        scratch[row * LANES + lane] = w0
        scratch[(row + 1) * LANES + lane] = w1
        scratch[(row + 2) * LANES + lane] = w2
        scratch[(row + 3) * LANES + lane] = w3
        scratch[(row + 8) * LANES + lane] = cell


@njit(error_model="numpy", inline="always", fastmath=FAST)
def look_inside(
    scratch: FloatArray, lanes: int, table: FloatArray, shape: tuple[int, int], grid: FloatArray
) -> None:
    """Both tables without slopes, at points that are on the grid; excesses are 0."""
    step = np.uint64(2 * shape[1])
    columns = float(shape[1])
    _weigh(scratch, GATE, AXIS, grid[0], grid[1], grid[2], shape[0] - 3.0)
    _place(scratch, OUTPUT, PLACE, grid[3], grid[4], grid[5], columns - 3.0)
    for lane in range(lanes):
        cell = scratch[(AXIS + 8) * LANES + lane] * columns
        value_patch(
            table,
            np.uint64(2.0 * (cell + scratch[(PLACE + 1) * LANES + lane])),
            step,
            scratch,
            np.uint64(PLACE * LANES + lane),
            np.uint64(AXIS * LANES + lane),
            np.uint64(CURRENT * LANES + lane),
            np.uint64(LANES),
        )
    for lane in range(LANES):
        scratch[TUNNEL * LANES + lane] = scratch[(CURRENT + 1) * LANES + lane]
        scratch[(AXIS + 9) * LANES + lane] = 0.0

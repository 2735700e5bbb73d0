"""Tiles of neurons that load each other: their rows, and products with the load's matrix.

A tile is a few dozen images times the neurons of one partition of the next layer. Its images are
the innermost dimension; intermediate results go through one flat scratch array.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.lookup import FAST, LANES, LOOK_UP_ROWS
from imac_torch.kernels.panels import one_row_32, two_rows_32

FloatArray = NDArray[np.float64]

# Rows of the scratch array besides those of look-ups, LANES wide each.
COMBINED, DRAWN = LOOK_UP_ROWS, LOOK_UP_ROWS + 1
GATE_STEP, GATE_SLOPE, DIAGONAL, DEFECT = range(LOOK_UP_ROWS + 2, LOOK_UP_ROWS + 6)
WORST, LARGEST, LEAK, NORM, FACTOR = range(LOOK_UP_ROWS + 6, LOOK_UP_ROWS + 11)
MOVE, LEFT = LOOK_UP_ROWS + 11, LOOK_UP_ROWS + 12
ROWS: Final = LOOK_UP_ROWS + 13

# Rows of a tile's matrix, in units of its number of neurons.
U, G, Z, Y, GS, GL, D, R, INVERSE, S, E = range(11)
"""Output, gate, combined voltage, current drawn; gate step and slope; diagonal, defect, inverse of
the diagonal with the load's own, step, error of the step."""
T, CUBICS = 11, 12
"""Of starts: the place along the load's axis, and from it four coefficients of output and gate."""
FIELDS: Final = 20


@njit(error_model="numpy", fastmath=FAST)
def multiply(
    matrix: FloatArray, tile: FloatArray, source: int, target: int, size: int
) -> None:
    """tile[target] += matrix·tile[source]."""
    for row in range(0, size - 1, 2):
        two_rows_32(tile, target * size + row, matrix, row, tile, source * size, size)
    if size % 2:
        one_row_32(tile, target * size + size - 1, matrix, size - 1, tile, source * size, size)


@njit(error_model="numpy", fastmath=FAST)
def precondition(
    tile: FloatArray, source: int, size: int, left: FloatArray, right: FloatArray,
    scratch: FloatArray,
) -> None:
    """Step += (diagonal + left·rightᵀ)⁻¹·tile[source]."""
    for lane in range(LANES):
        scratch[LEAK * LANES + lane] = 0.0
        scratch[NORM * LANES + lane] = 1.0
    for row in range(size):
        across, along = right[row], left[row] * right[row]
        for lane in range(LANES):
            inverse = tile[INVERSE * size + row, lane]
            scratch[LEAK * LANES + lane] += across * tile[source * size + row, lane] * inverse
            scratch[NORM * LANES + lane] += along * inverse
    for lane in range(LANES):
        scratch[LEAK * LANES + lane] /= scratch[NORM * LANES + lane]
    for row in range(size):
        for lane in range(LANES):
            tile[S * size + row, lane] += tile[INVERSE * size + row, lane] * (
                tile[source * size + row, lane] - left[row] * scratch[LEAK * LANES + lane]
            )


@njit(error_model="numpy", fastmath=FAST)
def start_currents(
    tile: FloatArray, size: int, offset: FloatArray, begin: int, head: int, lanes: int
) -> None:
    """Start the currents of a tile with what lines draw besides; of all images, or of each."""
    if len(offset) == 1:
        for row in range(size):
            for lane in range(LANES):
                tile[Y * size + row, lane] = offset[0, begin + row]
    else:
        for row in range(size):
            for lane in range(LANES):
                tile[Y * size + row, lane] = offset[head + min(lane, lanes - 1), begin + row]


@njit(error_model="numpy", fastmath=FAST)
def draw(
    tile: FloatArray, size: int, matrix: FloatArray, offset: FloatArray, begin: int, head: int,
    lanes: int,
) -> None:
    """What the load draws from the outputs of a tile."""
    start_currents(tile, size, offset, begin, head, lanes)
    multiply(matrix, tile, U, Y, size)

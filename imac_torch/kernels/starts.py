"""Where compiled Newton's method starts: near the solution, by a table of neurons under a load.

A load that draws i at the output u acts on one neuron as the table's conductance G towards
e = u - i/G, whatever it is. So what is solved for is e of every neuron. First outputs are those at
one e, by a line of the table, and a step with their slopes tells about where e is. There the table
is looked up once: for a neuron, whose combined voltage stays, outputs and gates are cubics in e
from then on, and further steps look nothing up. The output rises with e by G/(G + d), d being the
neuron's own conductance.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.loads import (
    CUBICS,
    INVERSE,
    LARGEST,
    MOVE,
    D,
    E,
    G,
    R,
    S,
    T,
    U,
    Y,
    Z,
    draw,
    precondition,
)
from imac_torch.kernels.lookup import AXIS, CURRENT, FAST, GATE, LANES, OUTPUT, TUNNEL
from imac_torch.kernels.patch import row_patch
from imac_torch.kernels.table import weights

FloatArray = NDArray[np.float64]

APPROACHES: Final = 3
"""Look-ups at most."""
TURNS: Final = 3
"""Steps at most on the cubics of one."""
BEYOND: Final = 0.25
"""Node distances beyond its cell to which a cubic is worth as much as the table: a spline's third
derivatives jump by h·f'''' at nodes, which is h⁴·f''''/384 here, and as much between nodes."""
FINE: Final = 5e-5
"""V, a step that leaves less than the table knows: a part of a percent of itself."""
_CELL = AXIS + 8


@njit(error_model="numpy", fastmath=FAST)
def _guess(
    tile: FloatArray, size: int, lanes: int, line: FloatArray, axes: FloatArray,
    matrix: FloatArray, left: FloatArray, right: FloatArray, scratch: FloatArray,
) -> None:
    """Outputs where the load pulls to one voltage, linear between the nodes of a line."""
    low, high, inverse = axes[0], axes[1], axes[2]
    conductance, towards = axes[6], axes[7]
    cells = len(line) / 2.0 - 1.0
    for row in range(size):
        own = matrix[row, row] - left[row] * right[row]
        for lane in range(LANES):
            combined = tile[Z * size + row, lane]
            combined = combined if combined == combined else 0.0
            scaled = (min(max(combined, low), high) - low) * inverse
            cell = min(math.floor(scaled), cells - 1.0)
            scratch[GATE * LANES + lane] = cell
            scratch[OUTPUT * LANES + lane] = scaled - cell
        for lane in range(lanes):
            first = np.uint64(2.0 * scratch[GATE * LANES + lane])
            part = scratch[OUTPUT * LANES + lane]
            output, rise = line[first], line[first + np.uint64(1)]
            next_output, next_rise = line[first + np.uint64(2)], line[first + np.uint64(3)]
            scratch[CURRENT * LANES + lane] = output + part * (next_output - output)
            scratch[TUNNEL * LANES + lane] = rise + part * (next_rise - rise)
        for lane in range(LANES):
            per_output = 1.0 / max(scratch[TUNNEL * LANES + lane], 1e-6)
            tile[U * size + row, lane] = scratch[CURRENT * LANES + lane]
            tile[D * size + row, lane] = per_output
            tile[INVERSE * size + row, lane] = 1.0 / (conductance * (per_output - 1.0) + own)
            tile[E * size + row, lane] = 0.0
            tile[T * size + row, lane] = towards


@njit(error_model="numpy", fastmath=FAST)
def _look_up(
    tile: FloatArray, size: int, lanes: int, table: FloatArray, shape: tuple[int, int],
    axes: FloatArray, sums: FloatArray, scratch: FloatArray,
) -> None:
    """Cubics of outputs and gates in the cells where e, in ``T``, is.

    ``T`` becomes the place in the cell, ``E`` is where that begins.
    """
    low, high, inverse = axes[0], axes[1], axes[2]
    first, last, per_volt = axes[3], axes[4], axes[5]
    step, columns = np.uint64(2 * shape[1]), float(shape[1])
    cells, cells_along = shape[0] - 3.0, columns - 3.0
    node, sixth = 1.0 / per_volt, 1.0 / 6.0
    for row in range(size):
        for lane in range(LANES):
            combined = tile[Z * size + row, lane]
            combined = combined if combined == combined else 0.0
            scaled = (min(max(combined, low), high) - low) * inverse
            cell = min(math.floor(scaled), cells - 1.0)
            w0, w1, w2, w3 = weights(scaled - cell)
            scratch[AXIS * LANES + lane] = w0
            scratch[(AXIS + 1) * LANES + lane] = w1
            scratch[(AXIS + 2) * LANES + lane] = w2
            scratch[(AXIS + 3) * LANES + lane] = w3
            towards = tile[T * size + row, lane]
            towards = towards if towards == towards else first
            along = (min(max(towards, first), last) - first) * per_volt
            cell_along = min(math.floor(along), cells_along - 1.0)
            tile[T * size + row, lane] = along - cell_along
            tile[E * size + row, lane] = first + cell_along * node
            scratch[_CELL * LANES + lane] = 2.0 * (cell * columns + cell_along)
        for lane in range(lanes):
            row_patch(
                table,
                np.uint64(scratch[_CELL * LANES + lane]),
                step,
                scratch,
                np.uint64(AXIS * LANES + lane),
                np.uint64(LANES),
                sums,
                np.uint64(8 * lane),
            )
        for function in range(2):
            place = (CUBICS + 4 * function) * size + row
            for lane in range(LANES):
                b0, b1 = sums[8 * lane + function], sums[8 * lane + 2 + function]
                b2, b3 = sums[8 * lane + 4 + function], sums[8 * lane + 6 + function]
                tile[place, lane] = (b0 + 4.0 * b1 + b2) * sixth
                tile[place + size, lane] = (b2 - b0) * 0.5
                tile[place + 2 * size, lane] = (b0 - 2.0 * b1 + b2) * 0.5
                tile[place + 3 * size, lane] = (b3 - b0 + 3.0 * (b1 - b2)) * sixth


@njit(error_model="numpy", fastmath=FAST)
def _evaluate(tile: FloatArray, size: int, cubics: int, target: int) -> None:
    """tile[target] = four rows of coefficients from ``cubics`` on, at ``T``."""
    for row in range(size):
        place = cubics * size + row
        for lane in range(LANES):
            t = tile[T * size + row, lane]
            tile[target * size + row, lane] = tile[place, lane] + t * (
                tile[place + size, lane]
                + t * (tile[place + 2 * size, lane] + t * tile[place + 3 * size, lane])
            )


@njit(error_model="numpy", fastmath=FAST)
def _rise(
    tile: FloatArray, size: int, axes: FloatArray, matrix: FloatArray, left: FloatArray,
    right: FloatArray,
) -> None:
    """What e rises by with the output (``D``), and the preconditioner of that."""
    per_volt, conductance = axes[5], axes[6]
    for row in range(size):
        own = matrix[row, row] - left[row] * right[row]
        place = CUBICS * size + row
        for lane in range(LANES):
            t = tile[T * size + row, lane]
            rise = per_volt * (
                tile[place + size, lane]
                + t * (2.0 * tile[place + 2 * size, lane] + 3.0 * t * tile[place + 3 * size, lane])
            )
            per_output = 1.0 / max(rise, 1e-6)
            tile[D * size + row, lane] = per_output
            tile[INVERSE * size + row, lane] = 1.0 / (conductance * (per_output - 1.0) + own)


@njit(error_model="numpy", fastmath=FAST)
def _move(
    tile: FloatArray, size: int, per_volt: float, axes: FloatArray, left: FloatArray,
    right: FloatArray, scratch: FloatArray,
) -> None:
    """A step by the preconditioner alone; ``T`` counts by ``per_volt``, from ``E`` on.

    The largest step, V, goes to ``LARGEST``, the largest distance from a cell's middle to ``MOVE``.
    """
    conductance, node = axes[6], 1.0 / per_volt
    for row in range(size):
        for lane in range(LANES):
            towards = tile[E * size + row, lane] + node * tile[T * size + row, lane]
            tile[R * size + row, lane] = (
                conductance * (tile[U * size + row, lane] - towards) - tile[Y * size + row, lane]
            )
    tile[S * size : (S + 1) * size] = 0.0
    precondition(tile, R, size, left, right, scratch)
    for lane in range(LANES):
        scratch[LARGEST * LANES + lane] = 0.0
        scratch[MOVE * LANES + lane] = 0.0
    for row in range(size):
        for lane in range(LANES):
            step = tile[S * size + row, lane]
            place = tile[T * size + row, lane] + per_volt * step * tile[D * size + row, lane]
            tile[T * size + row, lane] = place
            away, farthest = abs(place - 0.5), scratch[MOVE * LANES + lane]
            scratch[MOVE * LANES + lane] = farthest if away <= farthest else away
            move, largest = abs(step), scratch[LARGEST * LANES + lane]
            scratch[LARGEST * LANES + lane] = largest if move <= largest else move


@njit(error_model="numpy", fastmath=FAST)
def begin_near(
    tile: FloatArray, size: int, lanes: int, table: FloatArray, shape: tuple[int, int],
    axes: FloatArray, line: FloatArray, matrix: FloatArray, left: FloatArray, right: FloatArray,
    loaded: bool, offset: FloatArray, begin: int, head: int, sums: FloatArray,
    scratch: FloatArray,
) -> None:
    """Outputs and gates of a tile near those that its load has.

    Args:
        tile: Of :mod:`imac_torch.kernels.loads`; combined voltages with the level shift are there.
        size: Neurons.
        lanes: Images.
        table: ``start`` and what follows, see :func:`imac_torch.kernels.newton.solve_tiles`.
        shape: Likewise.
        axes: Likewise.
        line: Likewise.
        matrix: (K, K) S.
        left: (K,) and
        right: (K,): its rank-one part.
        loaded: Whether there is a load.
        offset: (1 or B, M) A.
        begin: First neuron.
        head: First image.
        sums: (8·LANES,), worked with.
        scratch: Likewise.
    """
    again, per_volt = not loaded, axes[5]
    if loaded:
        _guess(tile, size, lanes, line, axes, matrix, left, right, scratch)
        draw(tile, size, matrix, offset, begin, head, lanes)
        _move(tile, size, 1.0, axes, left, right, scratch)
        again = True
    else:
        tile[T * size : (T + 1) * size] = axes[7]
    for _ in range(APPROACHES if loaded else 0):
        _look_up(tile, size, lanes, table, shape, axes, sums, scratch)
        _rise(tile, size, axes, matrix, left, right)
        again = False
        for _ in range(TURNS):
            _evaluate(tile, size, CUBICS, U)
            draw(tile, size, matrix, offset, begin, head, lanes)
            _move(tile, size, per_volt, axes, left, right, scratch)
            fine = True
            for lane in range(lanes):
                again = again or scratch[MOVE * LANES + lane] > 0.5 + BEYOND
                fine = fine and scratch[LARGEST * LANES + lane] <= FINE
            if again or fine:
                break
        if not again:
            break
        for row in range(size):
            for lane in range(LANES):
                tile[T * size + row, lane] = (
                    tile[E * size + row, lane] + tile[T * size + row, lane] / per_volt
                )
    if again:
        _look_up(tile, size, lanes, table, shape, axes, sums, scratch)
    _evaluate(tile, size, CUBICS, U)
    _evaluate(tile, size, CUBICS + 4, G)

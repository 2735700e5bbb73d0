"""Compiled Newton's method for loaded neurons with a tabulated core.

The same equations as :mod:`imac_torch.dc.newton`, fused per tile of images: neurons that load each
other are those of one partition of the next layer, so a tile of a few images times a few dozen
neurons stays in the first-level cache through all iterations.

Written for the vectoriser: a tile's images are the innermost dimension, intermediate results go
through one flat scratch array (so that the compiler can tell that rows of it do not overlap), and
indices are unsigned where their sign is not plain. Divisions follow numpy's error model: a check
for zero would keep their loops scalar, and what is not finite does not converge.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.patch import bicubic_patch

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LANES: Final = 32
"""Images per tile: whole vector registers, and enough of them to outweigh each loop's overhead."""
CORRECTIONS: Final = 1
"""Richardson steps per Newton step, after the preconditioner's own, which leaves about 1 %."""
FAST: Final = {"contract", "nsz", "arcp"}
"""Fused multiply-add and reciprocals; nothing that reorders sums."""
_LOOKUP: Final = {"contract", "nsz", "arcp", "nnan", "ninf"}
"""Where positions have been clamped to the table: no NaN can be there."""

# Rows of the scratch array, LANES wide each.
_GATE, _OUTPUT, _COMBINED, _DRAWN = 0, 1, 2, 3
_AXIS = 4  # ten rows of the gate: weights, slopes, cell, excess
_PLACE = 14  # three rows of the output: place in the cell, cell, excess
_CURRENT, _TUNNEL = 17, 20  # three rows each: value and both derivatives
_EXP = 23
_GATE_STEP, _GATE_SLOPE, _DIAGONAL, _DEFECT = 24, 25, 26, 27
_WORST, _LARGEST, _LEAK, _NORM, _FACTOR = 28, 29, 30, 31, 32
_ROWS = 33

# Rows of a tile's matrix, in units of its number of neurons.
_U, _G, _Z, _Y, _GS, _GL, _D, _R, _I, _S, _E = range(11)
_FIELDS = 11

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
    half = 0.5 * inverse
    for lane in range(LANES):
        position = scratch[source * LANES + lane]
        within = min(max(position, low), high)
        scaled = (within - low) * inverse
        cell = min(math.floor(scaled), cells - 1.0)
        t = scaled - cell
        s = 1.0 - t
        scratch[row * LANES + lane] = s * s * s * (1.0 / 6.0)
        scratch[(row + 1) * LANES + lane] = (3.0 * t * t * t - 6.0 * t * t + 4.0) * (1.0 / 6.0)
        scratch[(row + 2) * LANES + lane] = (3.0 * s * s * s - 6.0 * s * s + 4.0) * (1.0 / 6.0)
        scratch[(row + 3) * LANES + lane] = t * t * t * (1.0 / 6.0)
        scratch[(row + 4) * LANES + lane] = -s * s * half
        scratch[(row + 5) * LANES + lane] = (3.0 * t * t - 4.0 * t) * half
        scratch[(row + 6) * LANES + lane] = (4.0 * s - 3.0 * s * s) * half
        scratch[(row + 7) * LANES + lane] = t * t * half
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
def _exponential(
    scratch: FloatArray, source: int, bits: IntArray, powers: FloatArray
) -> None:
    """Exponential of asinh(current/scale): 2^k·exp(r) with a Taylor polynomial, |r| < ln 2/2.

    The first neglected term is r^12/12! < 7e-15. Arguments are clamped, because outside the table
    a linear continuation could reach anything.
    """
    for lane in range(LANES):
        over_gate = scratch[(_AXIS + 9) * LANES + lane]
        over_output = scratch[(_PLACE + 2) * LANES + lane]
        x = (
            scratch[source * LANES + lane]
            + scratch[(source + 1) * LANES + lane] * over_gate
            + scratch[(source + 2) * LANES + lane] * over_output
        )
        x = min(max(x, -300.0), 300.0)
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
        scratch[_EXP * LANES + lane] = p * r + 1.0
        powers[lane] = k + _INTEGER
    for lane in range(LANES):
        bits[lane] = bits[lane] << 52
    for lane in range(LANES):
        scratch[_EXP * LANES + lane] *= powers[lane]


@njit(error_model="numpy", inline="always", fastmath=FAST)
def _look_up(
    scratch: FloatArray, lanes: int, table: FloatArray, shape: tuple[int, int], grid: FloatArray
) -> None:
    """Both tables and their slopes at gates and outputs, and how far outside these are."""
    step = np.uint64(2 * shape[1])
    columns = float(shape[1])
    _locate(scratch, _GATE, _AXIS, grid[0], grid[1], grid[2], shape[0] - 3.0)
    _place(scratch, _OUTPUT, _PLACE, grid[3], grid[4], grid[5], columns - 3.0)
    for lane in range(lanes):
        cell = scratch[(_AXIS + 8) * LANES + lane] * columns
        bicubic_patch(
            table,
            np.uint64(2.0 * (cell + scratch[(_PLACE + 1) * LANES + lane])),
            step,
            scratch,
            np.uint64(_PLACE * LANES + lane),
            np.uint64(_AXIS * LANES + lane),
            np.uint64(_CURRENT * LANES + lane),
            np.uint64(LANES),
        )
    for lane in range(LANES):
        scratch[(_CURRENT + 2) * LANES + lane] *= grid[5]
        scratch[(_TUNNEL + 2) * LANES + lane] *= grid[5]


@njit(error_model="numpy", fastmath=FAST)
def _linearise(
    tile: FloatArray, size: int, lanes: int, table: FloatArray, shape: tuple[int, int],
    grid: FloatArray, circuit: FloatArray, matrix: FloatArray, left: FloatArray,
    right: FloatArray, loaded: bool, scratch: FloatArray, bits: IntArray, powers: FloatArray,
) -> None:
    """Newton's equations with the gate eliminated, for a tile; see ``newton._linearise``.

    Of images beyond ``lanes``, which fill up the tile, nothing is looked up: they mean nothing.
    """
    resistance, feedback, scale = circuit[0], circuit[1], grid[6]
    weigh = 1.0 / max(resistance, 1.0)
    for lane in range(LANES):
        scratch[_WORST * LANES + lane] = 0.0
        scratch[_LARGEST * LANES + lane] = 0.0
    for row in range(size):
        own = matrix[row, row] - left[row] * right[row] if loaded else 0.0
        for lane in range(LANES):
            scratch[_GATE * LANES + lane] = tile[_G * size + row, lane]
            scratch[_OUTPUT * LANES + lane] = tile[_U * size + row, lane]
            scratch[_COMBINED * LANES + lane] = tile[_Z * size + row, lane]
            scratch[_DRAWN * LANES + lane] = tile[_Y * size + row, lane]
        _look_up(scratch, lanes, table, shape, grid)
        _exponential(scratch, _TUNNEL, bits, powers)
        for lane in range(LANES):
            over_gate = scratch[(_AXIS + 9) * LANES + lane]
            over_output = scratch[(_PLACE + 2) * LANES + lane]
            gate, output = scratch[_GATE * LANES + lane], scratch[_OUTPUT * LANES + lane]
            by_gate = scratch[(_CURRENT + 1) * LANES + lane]
            by_output = scratch[(_CURRENT + 2) * LANES + lane]
            current = (
                scratch[_CURRENT * LANES + lane] + by_gate * over_gate + by_output * over_output
            )
            rising = scratch[_EXP * LANES + lane]
            falling = 1.0 / rising
            tunnel = 0.5 * scale * (rising - falling)
            slope = 0.5 * scale * (rising + falling)
            tunnel_by_gate = slope * scratch[(_TUNNEL + 1) * LANES + lane]
            tunnel_by_output = slope * scratch[(_TUNNEL + 2) * LANES + lane]
            gate_defect = (
                scratch[_COMBINED * LANES + lane]
                - gate
                + resistance * ((output - gate) * feedback - tunnel)
            )
            output_defect = current + (gate - output) * feedback - scratch[_DRAWN * LANES + lane]
            divisor = 1.0 / (1.0 + resistance * (feedback + tunnel_by_gate))
            transfer = by_gate + feedback
            gate_step = gate_defect * divisor
            gate_slope = resistance * (feedback - tunnel_by_output) * divisor
            diagonal = feedback - by_output - transfer * gate_slope
            defect = output_defect + transfer * gate_step
            scratch[_GATE_STEP * LANES + lane] = gate_step
            scratch[_GATE_SLOPE * LANES + lane] = gate_slope
            scratch[_DIAGONAL * LANES + lane] = diagonal
            scratch[_DEFECT * LANES + lane] = defect
            inverse = 1.0 / (diagonal + own)
            scratch[_FACTOR * LANES + lane] = inverse
            found = max(abs(output_defect), abs(gate_defect) * weigh)
            move = max(abs(defect * inverse), abs(gate_step))
            # Written so that a NaN does not hide behind a maximum.
            worst, largest = scratch[_WORST * LANES + lane], scratch[_LARGEST * LANES + lane]
            scratch[_WORST * LANES + lane] = worst if found <= worst else found
            scratch[_LARGEST * LANES + lane] = largest if move <= largest else move
        for lane in range(LANES):
            tile[_GS * size + row, lane] = scratch[_GATE_STEP * LANES + lane]
            tile[_GL * size + row, lane] = scratch[_GATE_SLOPE * LANES + lane]
            tile[_D * size + row, lane] = scratch[_DIAGONAL * LANES + lane]
            tile[_R * size + row, lane] = scratch[_DEFECT * LANES + lane]
            tile[_I * size + row, lane] = scratch[_FACTOR * LANES + lane]


@njit(error_model="numpy", fastmath=FAST)
def _multiply(
    matrix: FloatArray, tile: FloatArray, source: int, target: int, size: int, scratch: FloatArray
) -> None:
    """tile[target] += matrix·tile[source]; two rows and four columns at a time.

    The sums live in memory, so several terms per visit hide the latency of getting there.
    """
    first, second = _LEAK * LANES, _NORM * LANES
    for row in range(0, size, 2):
        other = min(row + 1, size - 1)
        for lane in range(LANES):
            scratch[first + lane] = 0.0
            scratch[second + lane] = 0.0
        for column in range(0, size - 3, 4):
            a0, a1, a2, a3 = (
                matrix[row, column], matrix[row, column + 1],
                matrix[row, column + 2], matrix[row, column + 3],
            )
            b0, b1, b2, b3 = (
                matrix[other, column], matrix[other, column + 1],
                matrix[other, column + 2], matrix[other, column + 3],
            )
            place = source * size + column
            for lane in range(LANES):
                w, x = tile[place, lane], tile[place + 1, lane]
                y, z = tile[place + 2, lane], tile[place + 3, lane]
                scratch[first + lane] += (a0 * w + a1 * x) + (a2 * y + a3 * z)
                scratch[second + lane] += (b0 * w + b1 * x) + (b2 * y + b3 * z)
        for column in range(size - size % 4, size):
            a0, b0 = matrix[row, column], matrix[other, column]
            for lane in range(LANES):
                scratch[first + lane] += a0 * tile[source * size + column, lane]
                scratch[second + lane] += b0 * tile[source * size + column, lane]
        for lane in range(LANES):
            tile[target * size + row, lane] += scratch[first + lane]
        if other > row:
            for lane in range(LANES):
                tile[target * size + other, lane] += scratch[second + lane]


@njit(error_model="numpy", fastmath=FAST)
def _precondition(
    tile: FloatArray, source: int, size: int, left: FloatArray, right: FloatArray,
    scratch: FloatArray,
) -> None:
    """Step += (diagonal + left·rightᵀ)⁻¹·tile[source]."""
    for lane in range(LANES):
        scratch[_LEAK * LANES + lane] = 0.0
        scratch[_NORM * LANES + lane] = 1.0
    for row in range(size):
        across, along = right[row], left[row] * right[row]
        for lane in range(LANES):
            inverse = tile[_I * size + row, lane]
            scratch[_LEAK * LANES + lane] += across * tile[source * size + row, lane] * inverse
            scratch[_NORM * LANES + lane] += along * inverse
    for lane in range(LANES):
        scratch[_LEAK * LANES + lane] /= scratch[_NORM * LANES + lane]
    for row in range(size):
        for lane in range(LANES):
            tile[_S * size + row, lane] += tile[_I * size + row, lane] * (
                tile[source * size + row, lane] - left[row] * scratch[_LEAK * LANES + lane]
            )


@njit(error_model="numpy", fastmath=FAST)
def _step(
    tile: FloatArray, size: int, matrix: FloatArray, left: FloatArray, right: FloatArray,
    loaded: bool, scratch: FloatArray,
) -> None:
    """Solve the linearised equations; sizes of the steps go to the scratch array."""
    if loaded:
        tile[_S * size : (_S + 1) * size] = 0.0
        _precondition(tile, _R, size, left, right, scratch)
        for _ in range(CORRECTIONS):
            tile[_E * size : (_E + 1) * size] = 0.0
            _multiply(matrix, tile, _S, _E, size, scratch)
            for row in range(size):
                for lane in range(LANES):
                    tile[_E * size + row, lane] = (
                        tile[_R * size + row, lane]
                        - tile[_D * size + row, lane] * tile[_S * size + row, lane]
                        - tile[_E * size + row, lane]
                    )
            _precondition(tile, _E, size, left, right, scratch)
    else:
        for row in range(size):
            for lane in range(LANES):
                tile[_S * size + row, lane] = (
                    tile[_R * size + row, lane] / tile[_D * size + row, lane]
                )
    for lane in range(LANES):
        scratch[_LARGEST * LANES + lane] = 0.0
    for row in range(size):
        for lane in range(LANES):
            step = tile[_S * size + row, lane]
            gate = tile[_GS * size + row, lane] + tile[_GL * size + row, lane] * step
            tile[_GS * size + row, lane] = gate
            move = max(abs(step), abs(gate))
            largest = scratch[_LARGEST * LANES + lane]
            scratch[_LARGEST * LANES + lane] = largest if move <= largest else move


@njit(error_model="numpy", fastmath=FAST)
def _begin(
    tile: FloatArray, size: int, combined: FloatArray, begin: int, head: int, lanes: int,
    shift: float, table: FloatArray, low: float, inverse: float,
) -> None:
    """Load a tile with its combined voltages and start values by linear interpolation."""
    for row in range(size):
        for lane in range(LANES):
            # The last tile is filled up with its last image.
            value = combined[head + min(lane, lanes - 1), begin + row]
            scaled = (value - low) * inverse
            node = min(max(int(scaled), 0), len(table) - 2)
            part = scaled - node
            tile[_U * size + row, lane] = table[node, 0] + part * (
                table[node + 1, 0] - table[node, 0]
            )
            tile[_G * size + row, lane] = table[node, 1] + part * (
                table[node + 1, 1] - table[node, 1]
            )
            tile[_D * size + row, lane] = table[node, 2]
            tile[_GL * size + row, lane] = table[node, 3]
            tile[_GS * size + row, lane] = 0.0
            tile[_Z * size + row, lane] = value + shift


@njit(error_model="numpy", fastmath=FAST)
def _offset(
    tile: FloatArray, size: int, offset: FloatArray, begin: int, head: int, lanes: int
) -> None:
    """Start the currents of a tile with what lines draw besides; of all images, or of each."""
    if len(offset) == 1:
        for row in range(size):
            for lane in range(LANES):
                tile[_Y * size + row, lane] = offset[0, begin + row]
    else:
        for row in range(size):
            for lane in range(LANES):
                tile[_Y * size + row, lane] = offset[head + min(lane, lanes - 1), begin + row]


@njit(error_model="numpy", fastmath=FAST)
def _adapt(
    tile: FloatArray, size: int, matrix: FloatArray, left: FloatArray, right: FloatArray,
    typical: FloatArray, scratch: FloatArray,
) -> None:
    """Move start values from the typical load to this image's: a step without the core.

    At the start the core delivers what the typical load draws, so the defect is the difference
    of the loads; ``_Y`` holds what this image's load draws.
    """
    for row in range(size):
        own = matrix[row, row] - left[row] * right[row]
        for lane in range(LANES):
            tile[_R * size + row, lane] = (
                typical[0] * tile[_U * size + row, lane]
                + typical[1]
                - tile[_Y * size + row, lane]
            )
            tile[_I * size + row, lane] = 1.0 / (tile[_D * size + row, lane] + own)
    _step(tile, size, matrix, left, right, True, scratch)
    for row in range(size):
        for lane in range(LANES):
            step = min(max(tile[_S * size + row, lane], -0.1), 0.1)
            tile[_U * size + row, lane] += step
            tile[_G * size + row, lane] += tile[_GL * size + row, lane] * step


@njit(error_model="numpy", nogil=True, fastmath=FAST)
def solve_tiles(
    work_first: int,
    work_last: int,
    combined: FloatArray,
    gates: FloatArray,
    outputs: FloatArray,
    slopes: FloatArray,
    residual: FloatArray,
    iterations: IntArray,
    converged: NDArray[np.bool_],
    admittance: FloatArray,
    offset: FloatArray,
    first: IntArray,
    left: FloatArray,
    right: FloatArray,
    loaded: bool,
    table: FloatArray,
    shape: tuple[int, int],
    grid: FloatArray,
    circuit: FloatArray,
    start_table: FloatArray,
    start_axis: FloatArray,
    typical: FloatArray,
    tolerance: float,
    limit: int,
    largest_step: float,
) -> None:
    """Solve a range of tiles in place; see :mod:`imac_torch.dc.newton` for the mathematics.

    Args:
        work_first: First tile; tile = (sample·H + partition)·tiles per partition + tile of images.
        work_last: Tile after the last.
        combined: (S, B, M) V.
        gates: (S, B, M) V, written.
        outputs: (S, B, M) V, written.
        slopes: (S, B, M, 2), written, or empty: conductance of the output without load, S, and
            change of the gate with the output, both at the solution.
        residual: (S, B, H) A, written.
        iterations: (S, B, H), written.
        converged: (S, B, H), written.
        admittance: (S, H, K, K) S, partition blocks, first column in front.
        offset: (S, 1 or B, M) A.
        first: (H+1,) neuron ranges of the partitions.
        left: (S, H, K) and
        right: (S, H, K): rank-one part of the admittance.
        loaded: Whether there is a next layer.
        table: (P+2)·(Q+2)·2 spline coefficients, row-major, of the output current and of
            asinh(gate current/scale), interleaved.
        shape: P+2 and Q+2.
        grid: (7,) start, end and inverse step of both axes, scale of the gate current, A.
        circuit: (3,) input resistance Ω, feedback conductance S, level shift V.
        start_table: (P, 4) by combined voltage: output and gate to start from, V, conductance of
            the output there, S, and change of the gate with the output.
        start_axis: (2,) first node V and inverse node distance 1/V.
        typical: (2,) the load that they belong to: conductance S and current A.
        tolerance: V.
        limit: Largest number of iterations.
        largest_step: V.
    """
    batch = combined.shape[1]
    partitions = len(first) - 1
    tiles = (batch + LANES - 1) // LANES
    scratch = np.zeros(_ROWS * LANES)
    bits = np.zeros(LANES, dtype=np.int64)
    powers = bits.view(np.float64)
    before = np.empty(LANES)
    damping = np.empty(LANES)
    done = np.empty(LANES, dtype=np.bool_)
    for work in range(work_first, work_last):
        sample = work // (partitions * tiles)
        part = (work // tiles) % partitions
        head = (work % tiles) * LANES
        lanes = min(LANES, batch - head)
        begin = first[part]
        size = first[part + 1] - begin
        tile = np.empty((_FIELDS * size, LANES))
        matrix = admittance[sample, part]
        a, b = left[sample, part], right[sample, part]
        _begin(
            tile, size, combined[sample], begin, head, lanes, circuit[2], start_table,
            start_axis[0], start_axis[1],
        )
        before[:] = np.inf
        damping[:] = 1.0
        done[:lanes] = False
        done[lanes:] = True
        for turn in range(limit + 1):
            _offset(tile, size, offset[sample], begin, head, lanes)
            if loaded:
                _multiply(matrix, tile, _U, _Y, size, scratch)
                if turn == 0:
                    _adapt(tile, size, matrix, a, b, typical, scratch)
                    _offset(tile, size, offset[sample], begin, head, lanes)
                    _multiply(matrix, tile, _U, _Y, size, scratch)
            _linearise(
                tile, size, lanes, table, shape, grid, circuit, matrix, a, b, loaded, scratch,
                bits, powers,
            )
            finished = True
            for lane in range(lanes):
                # The next step (without coupling: hence the margin) would be too small to take.
                done[lane] = done[lane] or scratch[_LARGEST * LANES + lane] <= 0.1 * tolerance
                finished = finished and done[lane]
            if finished or turn == limit:
                break
            _step(tile, size, matrix, a, b, loaded, scratch)
            for lane in range(LANES):
                size_of_step = scratch[_LARGEST * LANES + lane]
                if size_of_step <= 1.2 * before[lane]:
                    damping[lane] = min(1.0, 2.0 * damping[lane])
                else:
                    damping[lane] = max(1.0 / 64.0, damping[lane] / 2.0)
                before[lane] = size_of_step
                factor = damping[lane] * largest_step / max(size_of_step, largest_step)
                scratch[_FACTOR * LANES + lane] = 0.0 if done[lane] else factor
                if not done[lane]:
                    iterations[sample, head + lane, part] += 1
            for row in range(size):
                for lane in range(LANES):
                    factor = scratch[_FACTOR * LANES + lane]
                    tile[_U * size + row, lane] += factor * tile[_S * size + row, lane]
                    tile[_G * size + row, lane] += factor * tile[_GS * size + row, lane]
        for lane in range(lanes):
            residual[sample, head + lane, part] = scratch[_WORST * LANES + lane]
            converged[sample, head + lane, part] = done[lane]
            for row in range(size):
                outputs[sample, head + lane, begin + row] = tile[_U * size + row, lane]
                gates[sample, head + lane, begin + row] = tile[_G * size + row, lane]
                if slopes.size:
                    slopes[sample, head + lane, begin + row, 0] = tile[_D * size + row, lane]
                    slopes[sample, head + lane, begin + row, 1] = tile[_GL * size + row, lane]


@njit(error_model="numpy", nogil=True, fastmath=FAST)
def supply_tiles(
    work_first: int,
    work_last: int,
    gates: FloatArray,
    outputs: FloatArray,
    table: FloatArray,
    shape: tuple[int, int],
    grid: FloatArray,
    drawn: FloatArray,
    supply: FloatArray,
) -> None:
    """Currents into gates and from vdd, of neurons in any order.

    Args:
        work_first: First tile of :data:`LANES` neurons.
        work_last: Tile after the last.
        gates: (n,) V.
        outputs: (n,) V.
        table: As of :func:`solve_tiles`, of asinh(current/scale) of both currents.
        shape: Likewise.
        grid: (8,) likewise, with both scales, A.
        drawn: (n,) A, written.
        supply: (n,) A, written.
    """
    scratch = np.zeros(_ROWS * LANES)
    bits = np.zeros(LANES, dtype=np.int64)
    powers = bits.view(np.float64)
    for work in range(work_first, work_last):
        head = work * LANES
        lanes = min(LANES, len(gates) - head)
        for lane in range(LANES):
            scratch[_GATE * LANES + lane] = gates[head + min(lane, lanes - 1)]
            scratch[_OUTPUT * LANES + lane] = outputs[head + min(lane, lanes - 1)]
        _look_up(scratch, lanes, table, shape, grid)
        _exponential(scratch, _CURRENT, bits, powers)
        for lane in range(lanes):
            rising = scratch[_EXP * LANES + lane]
            drawn[head + lane] = 0.5 * grid[6] * (rising - 1.0 / rising)
        _exponential(scratch, _TUNNEL, bits, powers)
        for lane in range(lanes):
            rising = scratch[_EXP * LANES + lane]
            supply[head + lane] = 0.5 * grid[7] * (rising - 1.0 / rising)


def tile_count(samples: int, batch: int, partitions: int) -> int:
    """Number of tiles of a batch."""
    return samples * partitions * (-(-batch // LANES))

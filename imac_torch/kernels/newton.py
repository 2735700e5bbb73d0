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
from imac_torch.kernels.lookup import (
    AXIS,
    CURRENT,
    EXP,
    FAST,
    GATE,
    LANES,
    LOOK_UP_ROWS,
    OUTPUT,
    PLACE,
    TUNNEL,
    exponential,
    look_along,
    look_up,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CORRECTIONS: Final = 1
"""Richardson steps per Newton step, after the preconditioner's own, which leaves about 1 %."""
APPROACHES: Final = 3
"""Steps at most on the table of starts."""
NEAR: Final = 4e-3
"""V, a step on the table of starts that leaves less than the table knows: some 0.1/V of its
square."""

# Rows of the scratch array besides those of look-ups, LANES wide each.
_COMBINED, _DRAWN = LOOK_UP_ROWS, LOOK_UP_ROWS + 1
_GATE_STEP, _GATE_SLOPE, _DIAGONAL, _DEFECT = range(LOOK_UP_ROWS + 2, LOOK_UP_ROWS + 6)
_WORST, _LARGEST, _LEAK, _NORM, _FACTOR = range(LOOK_UP_ROWS + 6, LOOK_UP_ROWS + 11)
_MOVE = LOOK_UP_ROWS + 11
_ROWS = LOOK_UP_ROWS + 12

# Rows of a tile's matrix, in units of its number of neurons.
_U, _G, _Z, _Y, _GS, _GL, _D, _R, _I, _S, _E = range(11)
_FIELDS = 11


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
    for row in range(size):
        own = matrix[row, row] - left[row] * right[row] if loaded else 0.0
        for lane in range(LANES):
            scratch[GATE * LANES + lane] = tile[_G * size + row, lane]
            scratch[OUTPUT * LANES + lane] = tile[_U * size + row, lane]
            scratch[_COMBINED * LANES + lane] = tile[_Z * size + row, lane]
            scratch[_DRAWN * LANES + lane] = tile[_Y * size + row, lane]
        look_up(scratch, lanes, table, shape, grid)
        exponential(scratch, TUNNEL, bits, powers)
        for lane in range(LANES):
            over_gate = scratch[(AXIS + 9) * LANES + lane]
            over_output = scratch[(PLACE + 2) * LANES + lane]
            gate, output = scratch[GATE * LANES + lane], scratch[OUTPUT * LANES + lane]
            by_gate = scratch[(CURRENT + 1) * LANES + lane]
            by_output = scratch[(CURRENT + 2) * LANES + lane]
            current = (
                scratch[CURRENT * LANES + lane] + by_gate * over_gate + by_output * over_output
            )
            rising = scratch[EXP * LANES + lane]
            falling = 1.0 / rising
            tunnel = 0.5 * scale * (rising - falling)
            slope = 0.5 * scale * (rising + falling)
            tunnel_by_gate = slope * scratch[(TUNNEL + 1) * LANES + lane]
            tunnel_by_output = slope * scratch[(TUNNEL + 2) * LANES + lane]
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
            # Written so that a NaN does not hide behind a maximum.
            worst = scratch[_WORST * LANES + lane]
            scratch[_WORST * LANES + lane] = worst if found <= worst else found
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
def _finish(
    tile: FloatArray, size: int, matrix: FloatArray, left: FloatArray, right: FloatArray,
    scratch: FloatArray,
) -> None:
    """One more correction of a step, which shows how good it is.

    What it found goes to the scratch array: of the linearised equations, A, to ``_WORST``, and the
    largest move that this asked for, V, to ``_MOVE``. What remains is a part of a percent of it.
    """
    tile[_E * size : (_E + 1) * size] = 0.0
    _multiply(matrix, tile, _S, _E, size, scratch)
    for lane in range(LANES):
        scratch[_WORST * LANES + lane] = 0.0
        scratch[_MOVE * LANES + lane] = 0.0
    for row in range(size):
        for lane in range(LANES):
            step = tile[_S * size + row, lane]
            defect = (
                tile[_R * size + row, lane]
                - tile[_D * size + row, lane] * step
                - tile[_E * size + row, lane]
            )
            tile[_E * size + row, lane] = defect
            tile[_GS * size + row, lane] -= tile[_GL * size + row, lane] * step
            found, worst = abs(defect), scratch[_WORST * LANES + lane]
            scratch[_WORST * LANES + lane] = worst if found <= worst else found
            move, largest = (
                abs(defect * tile[_I * size + row, lane]), scratch[_MOVE * LANES + lane]
            )
            scratch[_MOVE * LANES + lane] = largest if move <= largest else move
    _precondition(tile, _E, size, left, right, scratch)
    for row in range(size):
        for lane in range(LANES):
            tile[_GS * size + row, lane] += (
                tile[_GL * size + row, lane] * tile[_S * size + row, lane]
            )


@njit(error_model="numpy", fastmath=FAST)
def _start(
    tile: FloatArray, size: int, lanes: int, table: FloatArray, shape: tuple[int, int],
    axes: FloatArray, matrix: FloatArray, left: FloatArray, right: FloatArray, loaded: bool,
    scratch: FloatArray,
) -> None:
    """Outputs and gates of the table of starts where its load pulls to its middle voltage."""
    conductance, towards = axes[6], axes[7]
    for row in range(size):
        own = matrix[row, row] - left[row] * right[row] if loaded else 0.0
        for lane in range(LANES):
            combined = tile[_Z * size + row, lane]
            scratch[GATE * LANES + lane] = combined if combined == combined else 0.0
            scratch[OUTPUT * LANES + lane] = towards
        look_along(scratch, lanes, table, shape, axes)
        for lane in range(LANES):
            share = max(scratch[(CURRENT + 1) * LANES + lane], 1e-6)
            diagonal = conductance * (1.0 / share - 1.0)
            scratch[_GATE_SLOPE * LANES + lane] = scratch[(TUNNEL + 1) * LANES + lane] / share
            scratch[_FACTOR * LANES + lane] = 1.0 / (diagonal + own)
        for lane in range(LANES):
            tile[_U * size + row, lane] = scratch[CURRENT * LANES + lane]
            tile[_G * size + row, lane] = scratch[TUNNEL * LANES + lane]
            tile[_GS * size + row, lane] = 0.0
            tile[_GL * size + row, lane] = scratch[_GATE_SLOPE * LANES + lane]
            tile[_I * size + row, lane] = scratch[_FACTOR * LANES + lane]


@njit(error_model="numpy", fastmath=FAST)
def _approach(
    tile: FloatArray, size: int, lanes: int, table: FloatArray, shape: tuple[int, int],
    axes: FloatArray, matrix: FloatArray, left: FloatArray, right: FloatArray,
    scratch: FloatArray,
) -> None:
    """Newton's equations with the table of starts in place of the core.

    A load that draws i at the output u acts on one neuron as the table's conductance G towards
    e = u - i/G, whatever it is. The table's output rises with e by G/(G + d), d being the neuron's
    own conductance.
    """
    conductance = axes[6]
    resistance = 1.0 / conductance
    for row in range(size):
        own = matrix[row, row] - left[row] * right[row]
        for lane in range(LANES):
            combined = tile[_Z * size + row, lane]
            scratch[GATE * LANES + lane] = combined if combined == combined else 0.0
            scratch[_COMBINED * LANES + lane] = tile[_U * size + row, lane]
            scratch[_DRAWN * LANES + lane] = tile[_G * size + row, lane]
            scratch[OUTPUT * LANES + lane] = (
                tile[_U * size + row, lane] - tile[_Y * size + row, lane] * resistance
            )
        look_along(scratch, lanes, table, shape, axes)
        for lane in range(LANES):
            over = scratch[(PLACE + 2) * LANES + lane]
            share = max(scratch[(CURRENT + 1) * LANES + lane], 1e-6)
            by_towards = scratch[(TUNNEL + 1) * LANES + lane]
            output = scratch[CURRENT * LANES + lane] + share * over
            gate = scratch[TUNNEL * LANES + lane] + by_towards * over
            inverse = 1.0 / share
            slope = by_towards * inverse
            defect = output - scratch[_COMBINED * LANES + lane]
            scratch[_GATE_SLOPE * LANES + lane] = slope
            scratch[_GATE_STEP * LANES + lane] = (
                gate - slope * defect - scratch[_DRAWN * LANES + lane]
            )
            scratch[_DEFECT * LANES + lane] = defect * conductance * inverse
            scratch[_FACTOR * LANES + lane] = 1.0 / (conductance * (inverse - 1.0) + own)
        for lane in range(LANES):
            tile[_GS * size + row, lane] = scratch[_GATE_STEP * LANES + lane]
            tile[_GL * size + row, lane] = scratch[_GATE_SLOPE * LANES + lane]
            tile[_R * size + row, lane] = scratch[_DEFECT * LANES + lane]
            tile[_I * size + row, lane] = scratch[_FACTOR * LANES + lane]


@njit(error_model="numpy", fastmath=FAST)
def _go_near(
    tile: FloatArray, size: int, left: FloatArray, right: FloatArray, moving: FloatArray,
    scratch: FloatArray,
) -> None:
    """A step by the preconditioner alone, of lanes that move; these are told again."""
    tile[_S * size : (_S + 1) * size] = 0.0
    _precondition(tile, _R, size, left, right, scratch)
    for lane in range(LANES):
        scratch[_LARGEST * LANES + lane] = 0.0
    for row in range(size):
        for lane in range(LANES):
            step = tile[_S * size + row, lane]
            gate = tile[_GS * size + row, lane] + tile[_GL * size + row, lane] * step
            tile[_U * size + row, lane] += moving[lane] * step
            tile[_G * size + row, lane] += moving[lane] * gate
            move, largest = abs(step), scratch[_LARGEST * LANES + lane]
            scratch[_LARGEST * LANES + lane] = largest if move <= largest else move
    for lane in range(LANES):
        far = scratch[_LARGEST * LANES + lane] > NEAR
        moving[lane] = moving[lane] if far else 0.0


@njit(error_model="numpy", fastmath=FAST)
def _draw(
    tile: FloatArray, size: int, matrix: FloatArray, offset: FloatArray, begin: int, head: int,
    lanes: int, scratch: FloatArray,
) -> None:
    """What the load draws from the outputs of a tile."""
    _offset(tile, size, offset, begin, head, lanes)
    _multiply(matrix, tile, _U, _Y, size, scratch)


@njit(error_model="numpy", fastmath=FAST)
def _begin(
    tile: FloatArray, size: int, lanes: int, table: FloatArray, shape: tuple[int, int],
    axes: FloatArray, matrix: FloatArray, left: FloatArray, right: FloatArray, loaded: bool,
    offset: FloatArray, begin: int, head: int, moving: FloatArray, scratch: FloatArray,
) -> None:
    """Outputs and gates from the table of starts, at the load of each image."""
    _start(tile, size, lanes, table, shape, axes, matrix, left, right, loaded, scratch)
    if not loaded:
        return
    conductance, towards = axes[6], axes[7]
    _draw(tile, size, matrix, offset, begin, head, lanes, scratch)
    for row in range(size):
        # From the table's load to this one, the core's current left as it is.
        for lane in range(LANES):
            tile[_R * size + row, lane] = (
                conductance * (tile[_U * size + row, lane] - towards) - tile[_Y * size + row, lane]
            )
    moving[:] = 1.0
    _go_near(tile, size, left, right, moving, scratch)
    for _ in range(APPROACHES):
        some = False
        for lane in range(lanes):
            some = some or moving[lane] > 0.0
        if not some:
            break
        _draw(tile, size, matrix, offset, begin, head, lanes, scratch)
        _approach(tile, size, lanes, table, shape, axes, matrix, left, right, scratch)
        _go_near(tile, size, left, right, moving, scratch)


@njit(error_model="numpy", nogil=True, fastmath=FAST)
def solve_tiles(
    work_first: int,
    work_last: int,
    combined: FloatArray,
    gates: FloatArray,
    outputs: FloatArray,
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
    start: FloatArray,
    start_shape: tuple[int, int],
    start_axes: FloatArray,
    tolerance: float,
    safe: float,
    limit: int,
    largest_step: float,
) -> None:
    """Solve a range of tiles in place; see :mod:`imac_torch.dc.newton` for the mathematics.

    Args:
        work_first: First tile; tile = (sample·H + partition)·tiles per partition + tile of images.
        work_last: Tile after the last.
        combined: (S, B, M) V.
        gates: (S, B, M) V, written; where to start from if there is no table of starts.
        outputs: (S, B, M) V, likewise.
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
        start: (P+2)·(Q+2)·2 spline coefficients of the output and the gate, V, over the combined
            voltage with the level shift, and the voltage that the load pulls to; or empty.
        start_shape: P+2 and Q+2.
        start_axes: (8,) start, end and inverse step of both axes, conductance of that load, S, and
            a voltage that it pulls to.
        tolerance: V.
        safe: V, a step that leaves a tenth of the tolerance of what is not linear.
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
    worst = np.empty(LANES)
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
        for row in range(size):
            for lane in range(LANES):
                # The last tile is filled up with its last image.
                image = head + min(lane, lanes - 1)
                tile[_Z * size + row, lane] = combined[sample, image, begin + row] + circuit[2]
        if start.size:
            _begin(
                tile, size, lanes, start, start_shape, start_axes, matrix, a, b, loaded,
                offset[sample], begin, head, damping, scratch,
            )
        else:
            for row in range(size):
                for lane in range(LANES):
                    image = head + min(lane, lanes - 1)
                    tile[_U * size + row, lane] = outputs[sample, image, begin + row]
                    tile[_G * size + row, lane] = gates[sample, image, begin + row]
        before[:] = np.inf
        damping[:] = 1.0
        done[:lanes] = False
        done[lanes:] = True
        for _ in range(limit):
            if loaded:
                _draw(tile, size, matrix, offset[sample], begin, head, lanes, scratch)
            else:
                _offset(tile, size, offset[sample], begin, head, lanes)
            _linearise(
                tile, size, lanes, table, shape, grid, circuit, matrix, a, b, loaded, scratch,
                bits, powers,
            )
            _step(tile, size, matrix, a, b, loaded, scratch)
            small = False
            for lane in range(lanes):
                small = small or (scratch[_LARGEST * LANES + lane] <= safe and not done[lane])
            for lane in range(LANES):
                # What is not known to be left is not small.
                scratch[_MOVE * LANES + lane] = 0.0 if small and not loaded else np.inf
                worst[lane] = worst[lane] if done[lane] else scratch[_WORST * LANES + lane]
            if small and loaded:
                _finish(tile, size, matrix, a, b, scratch)
            finished = True
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
                    # The step is taken whole, and neither of what it leaves is worth another.
                    if (
                        factor == 1.0
                        and size_of_step <= safe
                        and scratch[_MOVE * LANES + lane] <= tolerance
                    ):
                        done[lane] = True
                        # What the square of the step leaves, and the last correction, which
                        # shrinks defects by the root of what the two before it did together.
                        left_over = scratch[_WORST * LANES + lane] if loaded else 0.0
                        part_left = left_over / max(worst[lane], left_over, 1e-300)
                        worst[lane] *= 0.1 * tolerance * size_of_step / (safe * safe)
                        worst[lane] += left_over * math.sqrt(part_left)
                finished = finished and done[lane]
            for row in range(size):
                for lane in range(LANES):
                    factor = scratch[_FACTOR * LANES + lane]
                    tile[_U * size + row, lane] += factor * tile[_S * size + row, lane]
                    tile[_G * size + row, lane] += factor * tile[_GS * size + row, lane]
            if finished:
                break
        for lane in range(lanes):
            residual[sample, head + lane, part] = worst[lane]
            converged[sample, head + lane, part] = done[lane]
            for row in range(size):
                outputs[sample, head + lane, begin + row] = tile[_U * size + row, lane]
                gates[sample, head + lane, begin + row] = tile[_G * size + row, lane]


def tile_count(samples: int, batch: int, partitions: int) -> int:
    """Number of tiles of a batch."""
    return samples * partitions * (-(-batch // LANES))

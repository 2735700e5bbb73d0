"""Compiled Newton's method for loaded neurons with a tabulated core.

The same equations as :mod:`imac_torch.dc.newton`, fused per tile of images: neurons that load each
other are those of one partition of the next layer, so a tile of a few images times a few dozen
neurons stays in the caches through all iterations.

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
from imac_torch.kernels.loads import (
    COMBINED,
    DEFECT,
    DIAGONAL,
    DRAWN,
    FACTOR,
    FIELDS,
    GATE_SLOPE,
    GATE_STEP,
    GL,
    GS,
    INVERSE,
    LARGEST,
    LEFT,
    MOVE,
    NORM,
    ROWS,
    WORST,
    D,
    E,
    G,
    R,
    S,
    U,
    Y,
    Z,
    draw,
    multiply,
    precondition,
    start_currents,
)
from imac_torch.kernels.lookup import (
    AXIS,
    CURRENT,
    EXP,
    FAST,
    GATE,
    LANES,
    OUTPUT,
    PLACE,
    TUNNEL,
    exponential,
    look_up,
)
from imac_torch.kernels.starts import begin_near

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DOUBT: Final = 10.0
"""A correction c of a step s is taken to leave so many times c²/s at most."""


@njit(error_model="numpy", inline="always", fastmath=FAST)
def eliminate_gate(
    combined: float, gate: float, output: float, drawn: float, current: float, by_gate: float,
    by_output: float, rising: float, asinh_by_gate: float, asinh_by_output: float,
    over_gate: float, over_output: float, resistance: float, feedback: float, scale: float,
) -> tuple[float, float, float, float, float, float]:
    """Newton's equations of one neuron with the gate eliminated.

    Args:
        combined: V, with the level shift.
        gate: V.
        output: V.
        drawn: A, by the load.
        current: A, of the output, on the table, and
        by_gate: its slope, S, and
        by_output: likewise.
        rising: Exponential of asinh(gate current/scale).
        asinh_by_gate: 1/V, slope of that, and
        asinh_by_output: likewise.
        over_gate: V, beyond the table, and
        over_output: likewise.
        resistance: Ω, of the input.
        feedback: S.
        scale: A.

    Returns:
        Step of the gate, V, and how it rises with that of the output; the output's equation,
        diagonal, S, and defect, A; defects of both before, A and V.
    """
    current = current + by_gate * over_gate + by_output * over_output
    falling = 1.0 / rising
    tunnel = 0.5 * scale * (rising - falling)
    slope = 0.5 * scale * (rising + falling)
    tunnel_by_gate = slope * asinh_by_gate
    tunnel_by_output = slope * asinh_by_output
    gate_defect = combined - gate + resistance * ((output - gate) * feedback - tunnel)
    output_defect = current + (gate - output) * feedback - drawn
    divisor = 1.0 / (1.0 + resistance * (feedback + tunnel_by_gate))
    transfer = by_gate + feedback
    gate_step = gate_defect * divisor
    gate_slope = resistance * (feedback - tunnel_by_output) * divisor
    diagonal = feedback - by_output - transfer * gate_slope
    defect = output_defect + transfer * gate_step
    return gate_step, gate_slope, diagonal, defect, output_defect, gate_defect


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
        scratch[WORST * LANES + lane] = 0.0
    for row in range(size):
        own = matrix[row, row] - left[row] * right[row] if loaded else 0.0
        for lane in range(LANES):
            scratch[GATE * LANES + lane] = tile[G * size + row, lane]
            scratch[OUTPUT * LANES + lane] = tile[U * size + row, lane]
            scratch[COMBINED * LANES + lane] = tile[Z * size + row, lane]
            scratch[DRAWN * LANES + lane] = tile[Y * size + row, lane]
        look_up(scratch, lanes, table, shape, grid)
        exponential(scratch, TUNNEL, bits, powers)
        for lane in range(LANES):
            over_gate = scratch[(AXIS + 9) * LANES + lane]
            over_output = scratch[(PLACE + 2) * LANES + lane]
            gate, output = scratch[GATE * LANES + lane], scratch[OUTPUT * LANES + lane]
            gate_step, gate_slope, diagonal, defect, output_defect, gate_defect = eliminate_gate(
                scratch[COMBINED * LANES + lane], gate, output, scratch[DRAWN * LANES + lane],
                scratch[CURRENT * LANES + lane], scratch[(CURRENT + 1) * LANES + lane],
                scratch[(CURRENT + 2) * LANES + lane], scratch[EXP * LANES + lane],
                scratch[(TUNNEL + 1) * LANES + lane], scratch[(TUNNEL + 2) * LANES + lane],
                over_gate, over_output, resistance, feedback, scale,
            )  # fmt: skip
            scratch[GATE_STEP * LANES + lane] = gate_step
            scratch[GATE_SLOPE * LANES + lane] = gate_slope
            scratch[DIAGONAL * LANES + lane] = diagonal
            scratch[DEFECT * LANES + lane] = defect
            inverse = 1.0 / (diagonal + own)
            scratch[FACTOR * LANES + lane] = inverse
            found = max(abs(output_defect), abs(gate_defect) * weigh)
            # Written so that a NaN does not hide behind a maximum.
            worst = scratch[WORST * LANES + lane]
            scratch[WORST * LANES + lane] = worst if found <= worst else found
        for lane in range(LANES):
            tile[GS * size + row, lane] = scratch[GATE_STEP * LANES + lane]
            tile[GL * size + row, lane] = scratch[GATE_SLOPE * LANES + lane]
            tile[D * size + row, lane] = scratch[DIAGONAL * LANES + lane]
            tile[R * size + row, lane] = scratch[DEFECT * LANES + lane]
            tile[INVERSE * size + row, lane] = scratch[FACTOR * LANES + lane]


@njit(error_model="numpy", fastmath=FAST)
def _correct(
    tile: FloatArray, size: int, matrix: FloatArray, left: FloatArray, right: FloatArray,
    scratch: FloatArray,
) -> None:
    """A step of the preconditioner and one correction.

    What this leaves goes to the scratch array, as the ratio of the two tells: of the step, V, to
    ``MOVE``, and of the linearised equations, A, to ``LEFT``.
    """
    tile[S * size : (S + 1) * size] = 0.0
    precondition(tile, R, size, left, right, scratch)
    tile[E * size : (E + 1) * size] = 0.0
    multiply(matrix, tile, S, E, size)
    for lane in range(LANES):
        scratch[LEFT * LANES + lane] = 0.0
    for row in range(size):
        for lane in range(LANES):
            step = tile[S * size + row, lane]
            defect = (
                tile[R * size + row, lane]
                - tile[D * size + row, lane] * step
                - tile[E * size + row, lane]
            )
            tile[E * size + row, lane] = defect
            tile[Y * size + row, lane] = step
            found, worst = abs(defect), scratch[LEFT * LANES + lane]
            scratch[LEFT * LANES + lane] = worst if found <= worst else found
    precondition(tile, E, size, left, right, scratch)
    for lane in range(LANES):
        scratch[MOVE * LANES + lane] = 0.0
        scratch[NORM * LANES + lane] = 1e-300
    for row in range(size):
        for lane in range(LANES):
            before = abs(tile[Y * size + row, lane])
            move = abs(tile[S * size + row, lane] - tile[Y * size + row, lane])
            moved, largest = scratch[MOVE * LANES + lane], scratch[NORM * LANES + lane]
            scratch[MOVE * LANES + lane] = moved if move <= moved else move
            scratch[NORM * LANES + lane] = largest if before <= largest else before
    for lane in range(LANES):
        ratio = scratch[MOVE * LANES + lane] / scratch[NORM * LANES + lane]
        scratch[MOVE * LANES + lane] *= DOUBT * ratio
        scratch[LEFT * LANES + lane] *= ratio


@njit(error_model="numpy", fastmath=FAST)
def _step(
    tile: FloatArray, size: int, matrix: FloatArray, left: FloatArray, right: FloatArray,
    loaded: bool, scratch: FloatArray,
) -> None:
    """Solve the linearised equations; sizes of the steps go to the scratch array."""
    if loaded:
        _correct(tile, size, matrix, left, right, scratch)
    else:
        for lane in range(LANES):
            scratch[MOVE * LANES + lane] = 0.0
            scratch[LEFT * LANES + lane] = 0.0
        for row in range(size):
            for lane in range(LANES):
                tile[S * size + row, lane] = (
                    tile[R * size + row, lane] / tile[D * size + row, lane]
                )
    for lane in range(LANES):
        scratch[LARGEST * LANES + lane] = 0.0
    for row in range(size):
        for lane in range(LANES):
            step = tile[S * size + row, lane]
            gate = tile[GS * size + row, lane] + tile[GL * size + row, lane] * step
            tile[GS * size + row, lane] = gate
            move = max(abs(step), abs(gate))
            largest = scratch[LARGEST * LANES + lane]
            scratch[LARGEST * LANES + lane] = largest if move <= largest else move


@njit(error_model="numpy", fastmath=FAST)
def _finish(
    tile: FloatArray, size: int, matrix: FloatArray, left: FloatArray, right: FloatArray,
    scratch: FloatArray,
) -> None:
    """One more correction of a step, which shows how good it is.

    What it found goes to the scratch array: of the linearised equations, A, to ``LEFT``, and the
    largest move that this asked for, V, to ``MOVE``. What remains is a part of a percent of it.
    """
    tile[E * size : (E + 1) * size] = 0.0
    multiply(matrix, tile, S, E, size)
    for lane in range(LANES):
        scratch[LEFT * LANES + lane] = 0.0
        scratch[MOVE * LANES + lane] = 0.0
    for row in range(size):
        for lane in range(LANES):
            step = tile[S * size + row, lane]
            defect = (
                tile[R * size + row, lane]
                - tile[D * size + row, lane] * step
                - tile[E * size + row, lane]
            )
            tile[E * size + row, lane] = defect
            tile[GS * size + row, lane] -= tile[GL * size + row, lane] * step
            found, worst = abs(defect), scratch[LEFT * LANES + lane]
            scratch[LEFT * LANES + lane] = worst if found <= worst else found
            move, largest = (
                abs(defect * tile[INVERSE * size + row, lane]), scratch[MOVE * LANES + lane]
            )
            scratch[MOVE * LANES + lane] = largest if move <= largest else move
    precondition(tile, E, size, left, right, scratch)
    for row in range(size):
        for lane in range(LANES):
            tile[GS * size + row, lane] += (
                tile[GL * size + row, lane] * tile[S * size + row, lane]
            )


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
    start_line: FloatArray,
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
        start_line: (P, 2) outputs at that voltage, V, and how they rise with it; row-major, or
            empty.
        tolerance: V.
        safe: V, a step that leaves a tenth of the tolerance of what is not linear.
        limit: Largest number of iterations.
        largest_step: V.
    """
    batch = combined.shape[1]
    partitions = len(first) - 1
    tiles = (batch + LANES - 1) // LANES
    scratch, sums = np.zeros(ROWS * LANES), np.zeros(8 * LANES)
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
        tile = np.empty((FIELDS * size, LANES))
        matrix = admittance[sample, part]
        a, b = left[sample, part], right[sample, part]
        for row in range(size):
            for lane in range(LANES):
                # The last tile is filled up with its last image.
                image = head + min(lane, lanes - 1)
                tile[Z * size + row, lane] = combined[sample, image, begin + row] + circuit[2]
        if start.size:
            begin_near(
                tile, size, lanes, start, start_shape, start_axes, start_line, matrix, a, b,
                loaded, offset[sample], begin, head, sums, scratch,
            )
        else:
            for row in range(size):
                for lane in range(LANES):
                    image = head + min(lane, lanes - 1)
                    tile[U * size + row, lane] = outputs[sample, image, begin + row]
                    tile[G * size + row, lane] = gates[sample, image, begin + row]
        before[:] = np.inf
        damping[:] = 1.0
        done[:lanes] = False
        done[lanes:] = True
        for _ in range(limit):
            if loaded:
                draw(tile, size, matrix, offset[sample], begin, head, lanes)
            else:
                start_currents(tile, size, offset[sample], begin, head, lanes)
            _linearise(
                tile, size, lanes, table, shape, grid, circuit, matrix, a, b, loaded, scratch,
                bits, powers,
            )
            _step(tile, size, matrix, a, b, loaded, scratch)
            doubtful = False
            for lane in range(lanes):
                small = scratch[LARGEST * LANES + lane] <= safe and not done[lane]
                known = scratch[MOVE * LANES + lane] <= tolerance
                doubtful = doubtful or (small and not known)
            for lane in range(LANES):
                worst[lane] = worst[lane] if done[lane] else scratch[WORST * LANES + lane]
            if doubtful and loaded:
                _finish(tile, size, matrix, a, b, scratch)
                for lane in range(LANES):
                    # A correction shrinks defects by the root of what the two before it did.
                    left_over = scratch[LEFT * LANES + lane]
                    part_left = left_over / max(worst[lane], left_over, 1e-300)
                    scratch[LEFT * LANES + lane] *= math.sqrt(part_left)
            finished = True
            for lane in range(LANES):
                size_of_step = scratch[LARGEST * LANES + lane]
                if size_of_step <= 1.2 * before[lane]:
                    damping[lane] = min(1.0, 2.0 * damping[lane])
                else:
                    damping[lane] = max(1.0 / 64.0, damping[lane] / 2.0)
                before[lane] = size_of_step
                factor = damping[lane] * largest_step / max(size_of_step, largest_step)
                scratch[FACTOR * LANES + lane] = 0.0 if done[lane] else factor
                if not done[lane]:
                    iterations[sample, head + lane, part] += 1
                    # The step is taken whole, and neither of what it leaves is worth another.
                    if (
                        factor == 1.0
                        and size_of_step <= safe
                        and scratch[MOVE * LANES + lane] <= tolerance
                    ):
                        done[lane] = True
                        # What the square of the step leaves, and the last correction.
                        worst[lane] *= 0.1 * tolerance * size_of_step / (safe * safe)
                        worst[lane] += scratch[LEFT * LANES + lane]
                finished = finished and done[lane]
            for row in range(size):
                for lane in range(LANES):
                    factor = scratch[FACTOR * LANES + lane]
                    tile[U * size + row, lane] += factor * tile[S * size + row, lane]
                    tile[G * size + row, lane] += factor * tile[GS * size + row, lane]
            if finished:
                break
        for lane in range(lanes):
            residual[sample, head + lane, part] = worst[lane]
            converged[sample, head + lane, part] = done[lane]
            for row in range(size):
                outputs[sample, head + lane, begin + row] = tile[U * size + row, lane]
                gates[sample, head + lane, begin + row] = tile[G * size + row, lane]


def tile_count(samples: int, batch: int, partitions: int) -> int:
    """Number of tiles of a batch."""
    return samples * partitions * (-(-batch // LANES))

"""Compiled Newton's method for the neurons of one image, or a few, whose tiles would be empty.

It mirrors :mod:`imac_torch.kernels.newton`, with the same equations, tables and splines; what a
status, a residual and an iteration mean is the same. What differs is how they are gone through:
neurons one by one, from starts at the one voltage that a load is taken to pull to, with as many
corrections of each step as its linear equations need, and without damping. What does not converge
so is left to the tiles.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.lookup import FAST
from imac_torch.kernels.newton import eliminate_gate
from imac_torch.kernels.table import locate, slopes, summed, weights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CORRECTIONS: Final = 12
"""Of a step, at most."""
EXACT: Final = 1e-5
"""Part of a step below which its last correction is."""
_ROWS: Final = 10


@njit(error_model="numpy", nogil=True, fastmath=FAST)
def solve_images(
    combined: FloatArray,
    gates: FloatArray,
    outputs: FloatArray,
    residual: FloatArray,
    iterations: IntArray,
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
) -> bool:
    """Solve images in place; False: one does not converge, and nothing that is written counts.

    What is not described here is as in :func:`imac_torch.kernels.newton.solve_tiles`.

    Args:
        combined: (B, M) V.
        gates: (B, M) V, written.
        outputs: (B, M) V, written.
        residual: (B,) A, the largest of all partitions, written.
        iterations: (B,), likewise.
        admittance: (1, H, K, K) S, of each partition transposed.
        offset: (1, 1 or B, M) A.
        first: (H+1,).
        left: (1, H, K).
        right: (1, H, K).
        loaded: Whether there is a next layer.
        table: Of the core.
        shape: Of it.
        grid: Of it.
        circuit: Input resistance, feedback conductance, level shift.
        start: Table of starts.
        start_shape: Of it.
        start_axes: Of it.
        tolerance: V.
        safe: V.
        limit: Largest number of iterations.
        largest_step: V.
    """
    resistance, feedback, shift, scale = circuit[0], circuit[1], circuit[2], grid[6]
    weigh = 1.0 / max(resistance, 1.0)
    core = table.reshape(shape[0], shape[1], 2)
    near = start.reshape(start_shape[0], start_shape[1], 2)
    most = 0
    for part in range(len(first) - 1):
        most = max(most, first[part + 1] - first[part])
    work = np.empty((_ROWS, most))
    gate, output, drawn, gate_step, gate_slope, diagonal, inverse, defect, step, move = work
    toward, across, _ = locate(
        start_axes[7], start_axes[3], start_axes[4], start_axes[5], start_shape[1] - 3
    )
    v = weights(across)
    for image in range(combined.shape[0]):
        besides = offset[0, min(image, offset.shape[1] - 1)]
        residual[image], iterations[image] = 0.0, 0
        for part in range(len(first) - 1):
            begin = first[part]
            size = first[part + 1] - begin
            matrix, a, b = admittance[0, part], left[0, part], right[0, part]
            for row in range(size):
                z = combined[image, begin + row] + shift
                i, t, _ = locate(
                    z, start_axes[0], start_axes[1], start_axes[2], start_shape[0] - 3
                )
                w = weights(t)
                output[row] = summed(near, 0, i, toward, w, v, w, v)[0]
                gate[row] = summed(near, 1, i, toward, w, v, w, v)[0]
            turn, done = 0, False
            worst = left_over = 0.0
            while turn < limit and not done:
                turn += 1
                for row in range(size):
                    drawn[row] = besides[begin + row]
                if loaded:
                    for column in range(size):
                        u = output[column]
                        for row in range(size):
                            drawn[row] += matrix[column, row] * u
                worst = 0.0
                for row in range(size):
                    z, g, u = combined[image, begin + row] + shift, gate[row], output[row]
                    i, t, over_gate = locate(g, grid[0], grid[1], grid[2], shape[0] - 3)
                    j, p, over_output = locate(u, grid[3], grid[4], grid[5], shape[1] - 3)
                    w, x, dw, dx = weights(t), weights(p), slopes(t, grid[2]), slopes(p, grid[5])
                    current, by_gate, by_output = summed(core, 0, i, j, w, x, dw, dx)
                    sine, sine_by_gate, sine_by_output = summed(core, 1, i, j, w, x, dw, dx)
                    sine += sine_by_gate * over_gate + sine_by_output * over_output
                    # As in lookup: a linear continuation could reach anything.
                    rising = math.exp(min(max(sine, -300.0), 300.0))
                    gate_step[row], gate_slope[row], d, r, output_defect, gate_defect = (
                        eliminate_gate(
                            z, g, u, drawn[row], current, by_gate, by_output, rising,
                            sine_by_gate, sine_by_output, over_gate, over_output, resistance,
                            feedback, scale,
                        )
                    )  # fmt: skip
                    own = matrix[row, row] - a[row] * b[row] if loaded else 0.0
                    diagonal[row], defect[row], step[row] = d, r, 0.0
                    inverse[row] = 1.0 / (d + own)
                    # Written so that a NaN does not hide behind a maximum.
                    found = max(abs(output_defect), abs(gate_defect) * weigh)
                    worst = worst if found <= worst else found
                largest = moved = 0.0
                for _ in range(CORRECTIONS):
                    leak, norm, moved = 0.0, 1.0, 0.0
                    if loaded:
                        for row in range(size):
                            leak += b[row] * defect[row] * inverse[row]
                            norm += a[row] * b[row] * inverse[row]
                        leak /= norm
                    for row in range(size):
                        change = (defect[row] - (a[row] * leak if loaded else 0.0)) * inverse[row]
                        move[row] = change
                        step[row] += change
                        moved = moved if abs(change) <= moved else abs(change)
                    largest = max(largest, moved)
                    for row in range(size):
                        defect[row] -= diagonal[row] * move[row]
                    if not loaded:
                        moved = 0.0
                        break
                    for column in range(size):
                        change = move[column]
                        for row in range(size):
                            defect[row] -= matrix[column, row] * change
                    if moved <= EXACT * largest:
                        break
                largest = left_over = 0.0
                for row in range(size):
                    gate_step[row] += gate_slope[row] * step[row]
                    for found in (abs(step[row]), abs(gate_step[row])):
                        largest = largest if found <= largest else found
                    left_over = left_over if abs(defect[row]) <= left_over else abs(defect[row])
                if not largest < np.inf:
                    return False
                factor = largest_step / max(largest, largest_step)
                for row in range(size):
                    output[row] += factor * step[row]
                    gate[row] += factor * gate_step[row]
                done = factor == 1.0 and largest <= safe and moved <= tolerance
            if not done:
                return False
            # What the square of the step leaves, and its linear equations.
            worst = worst * 0.1 * tolerance * largest / (safe * safe) + left_over
            residual[image] = max(residual[image], worst)
            iterations[image] = max(iterations[image], turn)
            for row in range(size):
                gates[image, begin + row], outputs[image, begin + row] = gate[row], output[row]
    return True

"""Compiled Newton's method for loaded neurons with a tabulated core.

The same equations as :mod:`imac_torch.newton`, fused per tile of images: neurons that load each
other are those of one partition of the next layer, so a tile of a few images times a few dozen
neurons stays in the first-level cache through all iterations.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from imac_torch.kernels.table import locate, slopes, weights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LANES = 8
"""Images per tile: two AVX2 or one AVX-512 register."""
CORRECTIONS = 1
"""Richardson steps per Newton step, after the preconditioner's own, which leaves about 1 %."""
FAST = {"contract", "nsz", "arcp"}
"""Fused multiply-add and reciprocals; nothing that assumes finite numbers or reorders sums."""


@njit(cache=True, inline="always", fastmath=FAST)
def _patch(table, corner, columns, a, da, b, db):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Value and both derivatives from 4×4 coefficients; straight-line code, unsigned indices.

    Loops and signed indices cost twice the time here: they keep the compiler from using vectors.
    """
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    w, x = corner, corner + columns
    y, z = x + columns, x + columns + columns
    w0, w1, w2, w3 = table[w], table[w + one], table[w + two], table[w + three]
    x0, x1, x2, x3 = table[x], table[x + one], table[x + two], table[x + three]
    y0, y1, y2, y3 = table[y], table[y + one], table[y + two], table[y + three]
    z0, z1, z2, z3 = table[z], table[z + one], table[z + two], table[z + three]
    v0 = a[0] * w0 + a[1] * x0 + a[2] * y0 + a[3] * z0
    v1 = a[0] * w1 + a[1] * x1 + a[2] * y1 + a[3] * z1
    v2 = a[0] * w2 + a[1] * x2 + a[2] * y2 + a[3] * z2
    v3 = a[0] * w3 + a[1] * x3 + a[2] * y3 + a[3] * z3
    s0 = da[0] * w0 + da[1] * x0 + da[2] * y0 + da[3] * z0
    s1 = da[0] * w1 + da[1] * x1 + da[2] * y1 + da[3] * z1
    s2 = da[0] * w2 + da[1] * x2 + da[2] * y2 + da[3] * z2
    s3 = da[0] * w3 + da[1] * x3 + da[2] * y3 + da[3] * z3
    value = v0 * b[0] + v1 * b[1] + v2 * b[2] + v3 * b[3]
    by_first = s0 * b[0] + s1 * b[1] + s2 * b[2] + s3 * b[3]
    by_second = v0 * db[0] + v1 * db[1] + v2 * db[2] + v3 * db[3]
    return value, by_first, by_second


@njit(cache=True, inline="always", fastmath=FAST)
def _core(table, shape, grid, gate, output):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Output and gate current with their derivatives."""
    i, t, over_gate = locate(gate, grid[0], grid[1], grid[2], shape[0] - 3)
    j, p, over_output = locate(output, grid[3], grid[4], grid[5], shape[1] - 3)
    a, da = weights(t), slopes(t, grid[2])
    b, db = weights(p), slopes(p, grid[5])
    corner, columns = np.uint64(i * shape[1] + j), np.uint64(shape[1])
    current, by_gate, by_output = _patch(table, corner, columns, a, da, b, db)
    second = corner + np.uint64(shape[0] * shape[1])
    tunnel, tunnel_by_gate, tunnel_by_output = _patch(table, second, columns, a, da, b, db)
    current += by_gate * over_gate + by_output * over_output
    tunnel += tunnel_by_gate * over_gate + tunnel_by_output * over_output
    # The second table is asinh(current/scale).
    if abs(tunnel) < 0.25:
        square = tunnel * tunnel
        sinh = tunnel * (
            1.0
            + square / 6.0
            * (
                1.0
                + square / 20.0
                * (1.0 + square / 42.0 * (1.0 + square / 72.0 * (1.0 + square / 110.0)))
            )
        )
        cosh = math.sqrt(1.0 + sinh * sinh)
    else:
        rising = math.exp(tunnel)
        sinh, cosh = 0.5 * (rising - 1.0 / rising), 0.5 * (rising + 1.0 / rising)
    scale = grid[6]
    return (
        current,
        by_gate,
        by_output,
        scale * sinh,
        scale * cosh * tunnel_by_gate,
        scale * cosh * tunnel_by_output,
    )


@njit(cache=True, inline="always", fastmath=FAST)
def _multiply(matrix, vectors, result, size):  # type: ignore[no-untyped-def]
    """result += matrix·vectors for a tile (size, LANES)."""
    for row in range(size):
        for column in range(size):
            value = matrix[row, column]
            for lane in range(LANES):
                result[row, lane] += value * vectors[column, lane]


@njit(cache=True, inline="always", fastmath=FAST)
def _precondition(vector, inverse, left, right, weight, result, size):  # type: ignore[no-untyped-def]
    """result += (diag + left·rightᵀ)⁻¹·vector; ``weight`` is scratch (2, LANES)."""
    for lane in range(LANES):
        weight[0, lane] = 0.0
        weight[1, lane] = 1.0
    for row in range(size):
        for lane in range(LANES):
            weight[0, lane] += right[row] * vector[row, lane] * inverse[row, lane]
            weight[1, lane] += right[row] * left[row] * inverse[row, lane]
    for lane in range(LANES):
        weight[0, lane] /= weight[1, lane]
    for row in range(size):
        for lane in range(LANES):
            result[row, lane] += inverse[row, lane] * (
                vector[row, lane] - left[row] * weight[0, lane]
            )


@njit(cache=True, parallel=True, fastmath=FAST)
def solve_tiles(  # type: ignore[no-untyped-def]
    combined,
    gates,
    outputs,
    residual,
    iterations,
    converged,
    admittance,
    offset,
    first,
    left,
    right,
    loaded,
    table,
    shape,
    grid,
    circuit,
    start_table,
    start_axis,
    tolerance,
    limit,
    largest_step,
):
    """Solve in place; see :func:`imac_torch.newton.solve_neurons` for the mathematics.

    Args:
        combined: (S, B, M) V.
        gates: (S, B, M) V, written.
        outputs: (S, B, M) V, written.
        residual: (S, B, H) A, written.
        iterations: (S, B, H) int64, written.
        converged: (S, B, H) bool, written.
        admittance: (S, H, K, K) S, partition blocks, first column in front.
        offset: (S, M) A.
        first: (H+1,) int64, neuron ranges of the partitions.
        left: (S, H, K) and
        right: (S, H, K): rank-one part of the admittance.
        loaded: Whether there is a next layer.
        table: Spline coefficients of the output current, then of asinh(gate current/scale),
            each (P+2)·(Q+2) row-major.
        shape: P+2 and Q+2.
        grid: (7,) start, end and inverse step of both axes, scale of the gate current, A.
        circuit: (3,) input resistance Ω, feedback conductance S, level shift V.
        start_table: (P, 2) V, output and gate to start from, by combined voltage.
        start_axis: (2,) first node V and inverse node distance 1/V.
        tolerance: V.
        limit: Largest number of iterations.
        largest_step: V.
    """
    samples, batch, _ = combined.shape
    partitions = len(first) - 1
    tiles = (batch + LANES - 1) // LANES
    resistance, feedback, shift = circuit[0], circuit[1], circuit[2]
    for work in prange(samples * partitions * tiles):
        sample = work // (partitions * tiles)
        part = (work // tiles) % partitions
        head = (work % tiles) * LANES
        lanes = min(LANES, batch - head)
        begin = first[part]
        size = first[part + 1] - begin
        u = np.empty((size, LANES))
        g = np.empty((size, LANES))
        z = np.empty((size, LANES))
        diagonal = np.empty((size, LANES))
        inverse = np.empty((size, LANES))
        defect = np.empty((size, LANES))
        drawn = np.empty((size, LANES))
        step = np.empty((size, LANES))
        gate_step = np.empty((size, LANES))
        gate_slope = np.empty((size, LANES))
        error = np.empty((size, LANES))
        weight = np.empty((2, LANES))
        largest = np.empty(LANES)
        before = np.full(LANES, np.inf)
        damping = np.ones(LANES)
        done = np.zeros(LANES, dtype=np.bool_)
        worst = np.zeros(LANES)
        matrix = admittance[sample, part]
        a, b = left[sample, part], right[sample, part]
        for row in range(size):
            for lane in range(LANES):
                image = head + min(lane, lanes - 1)  # pad the last tile with its last image
                value = combined[sample, image, begin + row]
                scaled = (value - start_axis[0]) * start_axis[1]
                node = min(max(int(scaled), 0), len(start_table) - 2)
                part_of = scaled - node
                u[row, lane] = start_table[node, 0] + part_of * (
                    start_table[node + 1, 0] - start_table[node, 0]
                )
                g[row, lane] = start_table[node, 1] + part_of * (
                    start_table[node + 1, 1] - start_table[node, 1]
                )
                z[row, lane] = value + shift
        for turn in range(limit + 1):
            for row in range(size):
                for lane in range(LANES):
                    drawn[row, lane] = offset[sample, begin + row]
            if loaded:
                _multiply(matrix, u, drawn, size)
            for lane in range(LANES):
                worst[lane] = 0.0
                largest[lane] = 0.0
            for row in range(size):
                own = matrix[row, row] - a[row] * b[row] if loaded else 0.0
                for lane in range(LANES):
                    gate, output = g[row, lane], u[row, lane]
                    current, by_gate, by_output, tunnel, tunnel_by_gate, tunnel_by_output = (
                        _core(table, shape, grid, gate, output)
                    )
                    gate_defect = (
                        z[row, lane] - gate + resistance * ((output - gate) * feedback - tunnel)
                    )
                    output_defect = current + (gate - output) * feedback - drawn[row, lane]
                    divisor = 1.0 / (1.0 + resistance * (feedback + tunnel_by_gate))
                    transfer = by_gate + feedback
                    gate_step[row, lane] = gate_defect * divisor
                    gate_slope[row, lane] = resistance * (feedback - tunnel_by_output) * divisor
                    diagonal[row, lane] = feedback - by_output - transfer * gate_slope[row, lane]
                    defect[row, lane] = output_defect + transfer * gate_step[row, lane]
                    found = max(abs(output_defect), abs(gate_defect) / max(resistance, 1.0))
                    worst[lane] = max(worst[lane], found)
                    inverse[row, lane] = 1.0 / (diagonal[row, lane] + own)
                    move = max(
                        abs(defect[row, lane] * inverse[row, lane]), abs(gate_step[row, lane])
                    )
                    # a NaN must not hide behind max
                    largest[lane] = move if not move <= largest[lane] else largest[lane]
            finished = True
            for lane in range(LANES):
                # The next step (without coupling: hence the margin) would be too small to take.
                done[lane] = done[lane] or largest[lane] <= 0.1 * tolerance
                finished = finished and done[lane]
            if finished or turn == limit:
                break
            if loaded:
                step[:] = 0.0
                _precondition(defect, inverse, a, b, weight, step, size)
                for _ in range(CORRECTIONS):
                    error[:] = 0.0
                    _multiply(matrix, step, error, size)
                    for row in range(size):
                        for lane in range(LANES):
                            error[row, lane] = (
                                defect[row, lane]
                                - diagonal[row, lane] * step[row, lane]
                                - error[row, lane]
                            )
                    _precondition(error, inverse, a, b, weight, step, size)
            else:
                for row in range(size):
                    for lane in range(LANES):
                        step[row, lane] = defect[row, lane] / diagonal[row, lane]
            for lane in range(LANES):
                largest[lane] = 0.0
            for row in range(size):
                for lane in range(LANES):
                    gate_step[row, lane] += gate_slope[row, lane] * step[row, lane]
                    moved = max(abs(step[row, lane]), abs(gate_step[row, lane]))
                    # a NaN must not hide behind max
                    largest[lane] = moved if not moved <= largest[lane] else largest[lane]
            for lane in range(LANES):
                if largest[lane] <= 1.2 * before[lane]:
                    damping[lane] = min(1.0, 2.0 * damping[lane])
                else:
                    damping[lane] = max(1.0 / 64.0, damping[lane] / 2.0)
                before[lane] = largest[lane]
                factor = damping[lane] * largest_step / max(largest[lane], largest_step)
                weight[0, lane] = 0.0 if done[lane] else factor
                if lane < lanes and not done[lane]:
                    iterations[sample, head + lane, part] += 1
            for row in range(size):
                for lane in range(LANES):
                    u[row, lane] += weight[0, lane] * step[row, lane]
                    g[row, lane] += weight[0, lane] * gate_step[row, lane]
        for lane in range(lanes):
            residual[sample, head + lane, part] = worst[lane]
            converged[sample, head + lane, part] = done[lane]
            for row in range(size):
                outputs[sample, head + lane, begin + row] = u[row, lane]
                gates[sample, head + lane, begin + row] = g[row, lane]

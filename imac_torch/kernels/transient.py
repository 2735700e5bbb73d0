"""Compiled Newton's method of one layer's neurons within a stage of a time step.

The equations of :mod:`imac_torch.transient.network` for tabulated neurons, fused per tile of
images as in :mod:`imac_torch.kernels.newton`: neurons that load each other are those of one
partition of the next layer, and a tile of a few images of them stays in the first-level cache.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.table import locate, slopes, weights

FloatArray = NDArray[np.float64]

LANES = 8
"""Images per tile: two AVX2 or one AVX-512 register."""
CORRECTIONS = 2
"""Richardson steps per linear system, after the preconditioner's own."""
FUNCTIONS = 6
"""Of the table: output and gate current, gate and output charge; supply current and charge."""
EQUATIONS = 4
"""The first of them, which Newton's method needs: a cell of theirs is one AVX2 register."""


@njit(fastmath={"contract"})
def _evaluate(
    table: FloatArray,
    grid: FloatArray,
    gate: float,
    output: float,
    value: FloatArray,
    by_gate: FloatArray,
    by_output: FloatArray,
) -> None:
    """The equations' functions with their derivatives, linear outside the grid."""
    i, t, over_gate = locate(gate, grid[0], grid[1], grid[2], table.shape[0] - 3)
    j, p, over_output = locate(output, grid[3], grid[4], grid[5], table.shape[1] - 3)
    a, da = weights(t), slopes(t, grid[2])
    b, db = weights(p), slopes(p, grid[5])
    for f in range(EQUATIONS):
        here = along = across = 0.0
        for k in range(4):
            # In full: sums in arrays would be written and read back for every cell.
            one, two = table[i + k, j, f], table[i + k, j + 1, f]
            three, four = table[i + k, j + 2, f], table[i + k, j + 3, f]
            inner = b[0] * one + b[1] * two + b[2] * three + b[3] * four
            slope = db[0] * one + db[1] * two + db[2] * three + db[3] * four
            here += a[k] * inner
            along += da[k] * inner
            across += a[k] * slope
        value[f] = here + along * over_gate + across * over_output
        by_gate[f] = along
        by_output[f] = across


@njit(fastmath={"contract"})
def _values(
    table: FloatArray, grid: FloatArray, gate: float, output: float, value: FloatArray
) -> None:
    """All functions of the table, linear outside the grid."""
    i, t, over_gate = locate(gate, grid[0], grid[1], grid[2], table.shape[0] - 3)
    j, p, over_output = locate(output, grid[3], grid[4], grid[5], table.shape[1] - 3)
    a, da = weights(t), slopes(t, grid[2])
    b, db = weights(p), slopes(p, grid[5])
    for f in range(FUNCTIONS):
        here = 0.0
        for k in range(4):
            one, two = table[i + k, j, f], table[i + k, j + 1, f]
            three, four = table[i + k, j + 2, f], table[i + k, j + 3, f]
            inner = b[0] * one + b[1] * two + b[2] * three + b[3] * four
            slope = db[0] * one + db[1] * two + db[2] * three + db[3] * four
            here += (a[k] + over_gate * da[k]) * inner + over_output * a[k] * slope
        value[f] = here


@njit(fastmath={"contract"})
def _solve(
    matrix: FloatArray,
    loaded: bool,
    diagonal: FloatArray,
    right: FloatArray,
    left: FloatArray,
    across: FloatArray,
    own: FloatArray,
    step: FloatArray,
    error: FloatArray,
    size: int,
) -> None:
    """(diag + Y)·step = right for a tile, by the rank-one preconditioner and corrections."""
    for row in range(size):
        for lane in range(LANES):
            step[row, lane] = 0.0
            error[row, lane] = right[row, lane]
    if not loaded:
        for row in range(size):
            for lane in range(LANES):
                step[row, lane] = right[row, lane] / diagonal[row, lane]
        return
    weight = np.empty(LANES)
    scale = np.empty(LANES)
    for turn in range(CORRECTIONS + 1):
        if turn:
            for row in range(size):
                for lane in range(LANES):
                    error[row, lane] = right[row, lane] - diagonal[row, lane] * step[row, lane]
                for column in range(size):
                    value = matrix[row, column]
                    for lane in range(LANES):
                        error[row, lane] -= value * step[column, lane]
        for lane in range(LANES):
            weight[lane] = 0.0
            scale[lane] = 1.0
        for row in range(size):
            for lane in range(LANES):
                inverse = 1.0 / (diagonal[row, lane] + own[row])
                weight[lane] += across[row] * error[row, lane] * inverse
                scale[lane] += across[row] * left[row] * inverse
        for lane in range(LANES):
            weight[lane] /= scale[lane]
        for row in range(size):
            for lane in range(LANES):
                step[row, lane] += (error[row, lane] - left[row] * weight[lane]) / (
                    diagonal[row, lane] + own[row]
                )


@njit(nogil=True, fastmath={"contract"})
def solve_stage(
    work_first: int,
    work_last: int,
    combined: FloatArray,
    offset: FloatArray,
    gate_history: FloatArray,
    output_history: FloatArray,
    gates: FloatArray,
    outputs: FloatArray,
    results: FloatArray,
    system: FloatArray,
    converged: NDArray[np.bool_],
    admittance: FloatArray,
    first: NDArray[np.int64],
    left: FloatArray,
    across: FloatArray,
    loaded: bool,
    table: FloatArray,
    grid: FloatArray,
    circuit: FloatArray,
    capacitance: FloatArray,
    tolerance: float,
    limit: int,
    largest: float,
) -> None:
    """Solve in place.

    Args:
        work_first: First tile; tile = partition·tiles of images + tile of images.
        work_last: Tile after the last.
        combined: (B, M) V.
        offset: (B, M) A drawn besides admittance times outputs.
        gate_history: (B, M) A.
        output_history: (B, M) A.
        gates: (B, M) V, guess and result.
        outputs: (B, M) V, guess and result.
        results: (5, B, M), written: gate, output and supply charge (C), gate and supply current.
        system: (8, B, M), written: diagonal, transfer, gate and coupling of the last Newton step;
            derivatives of the gate's and of the output's charge by gate and output, F.
        converged: (B, parts) bool, written.
        admittance: (parts, K, K) S.
        first: (parts + 1,) int64, neuron ranges of the partitions.
        left: (parts, K) and
        across: (parts, K): rank-one part of the admittance.
        loaded: Whether there is a next layer.
        table: (P+2, Q+2, 6) spline coefficients, in the order of :data:`FUNCTIONS`; gate and supply
            current as asinh(current/scale), charges in units of the scale.
        grid: (9,) start, end and inverse step of both axes; scales of gate current (A), supply
            current (A) and charges (C).
        circuit: (5,) input resistance Ω, feedback conductance S, level shift V, shift 1/s,
            capacitance from gates to ground F.
        capacitance: (M,) F from outputs to ground.
        tolerance: V, of what is left.
        limit: Largest number of iterations.
        largest: V, longest step.
    """
    batch = combined.shape[0]
    tiles = (batch + LANES - 1) // LANES
    resistance, feedback, level, sigma = circuit[0], circuit[1], circuit[2], circuit[3]
    of_gate = circuit[4]
    gate_scale, supply_scale, charge_scale = grid[6], grid[7], grid[8]
    for work in range(work_first, work_last):
        part = work // tiles
        head = (work % tiles) * LANES
        lanes = min(LANES, batch - head)
        begin = first[part]
        size = first[part + 1] - begin
        value, by_gate = np.empty(FUNCTIONS), np.empty(EQUATIONS)
        by_output = np.empty(EQUATIONS)
        u, g = np.empty((size, LANES)), np.empty((size, LANES))
        drawn, diagonal = np.empty((size, LANES)), np.empty((size, LANES))
        right, step = np.empty((size, LANES)), np.empty((size, LANES))
        error = np.empty((size, LANES))
        gate_step, coupling = np.empty((size, LANES)), np.empty((size, LANES))
        own = np.zeros(size)
        moved = np.empty(LANES)
        moved_before = np.full(LANES, np.inf)
        done = np.zeros(LANES, dtype=np.bool_)
        matrix, a, b = admittance[part], left[part], across[part]
        if loaded:
            for row in range(size):
                own[row] = matrix[row, row] - a[row] * b[row]
        for row in range(size):
            for lane in range(LANES):
                image = head + min(lane, lanes - 1)  # pad the last tile with its last image
                u[row, lane] = outputs[image, begin + row]
                g[row, lane] = gates[image, begin + row]
        for turn in range(limit + 1):
            finished = turn == limit
            if not finished:
                finished = True
                for lane in range(LANES):
                    finished = finished and done[lane]
            if finished:
                break
            for row in range(size):
                for lane in range(LANES):
                    drawn[row, lane] = offset[head + min(lane, lanes - 1), begin + row]
                if loaded:
                    for column in range(size):
                        factor = matrix[row, column]
                        for lane in range(LANES):
                            drawn[row, lane] += factor * u[column, lane]
            for row in range(size):
                neuron = begin + row
                for lane in range(LANES):
                    image = head + min(lane, lanes - 1)
                    gate, output = g[row, lane], u[row, lane]
                    _evaluate(table, grid, gate, output, value, by_gate, by_output)
                    rising = math.exp(value[1])
                    tunnel = gate_scale * 0.5 * (rising - 1.0 / rising)
                    steep = gate_scale * 0.5 * (rising + 1.0 / rising)
                    gate_charge = charge_scale * value[2] + of_gate * gate
                    output_charge = charge_scale * value[3] + capacitance[neuron] * output
                    gate_rate = sigma * gate_charge - gate_history[image, neuron]
                    output_rate = sigma * output_charge - output_history[image, neuron]
                    gate_defect = (
                        combined[image, neuron] + level - gate
                        + resistance * ((output - gate) * feedback - tunnel - gate_rate)
                    )
                    output_defect = (
                        value[0] + (gate - output) * feedback - drawn[row, lane] - output_rate
                    )
                    divisor = 1.0 + resistance * (
                        feedback + steep * by_gate[1]
                        + sigma * (charge_scale * by_gate[2] + of_gate)
                    )
                    transfer = by_gate[0] + feedback - sigma * charge_scale * by_gate[3]
                    coupling[row, lane] = resistance * (
                        feedback - steep * by_output[1] - sigma * charge_scale * by_output[2]
                    ) / divisor
                    gate_step[row, lane] = gate_defect / divisor
                    diagonal[row, lane] = (
                        feedback - by_output[0]
                        + sigma * (charge_scale * by_output[3] + capacitance[neuron])
                        - transfer * coupling[row, lane]
                    )
                    right[row, lane] = output_defect + transfer * gate_step[row, lane]
                    if lane < lanes and not done[lane]:
                        system[0, image, neuron] = diagonal[row, lane]
                        system[1, image, neuron] = transfer
                        system[2, image, neuron] = divisor
                        system[3, image, neuron] = coupling[row, lane]
                        system[4, image, neuron] = charge_scale * by_gate[2] + of_gate
                        system[5, image, neuron] = charge_scale * by_output[2]
                        system[6, image, neuron] = charge_scale * by_gate[3]
                        system[7, image, neuron] = (
                            charge_scale * by_output[3] + capacitance[neuron]
                        )
            _solve(matrix, loaded, diagonal, right, a, b, own, step, error, size)
            for lane in range(LANES):
                moved[lane] = 0.0
            for row in range(size):
                for lane in range(LANES):
                    gate_step[row, lane] += coupling[row, lane] * step[row, lane]
                    longest = max(abs(step[row, lane]), abs(gate_step[row, lane]))
                    # a NaN must not hide behind max
                    moved[lane] = longest if not longest <= moved[lane] else moved[lane]
            for row in range(size):
                for lane in range(LANES):
                    factor = 0.0 if done[lane] else largest / max(moved[lane], largest)
                    u[row, lane] += factor * step[row, lane]
                    g[row, lane] += factor * gate_step[row, lane]
            for lane in range(LANES):
                # What is left once steps shrink by a factor is less than the series of those to
                # come (Hairer and Wanner, Solving Ordinary Differential Equations II, IV.8).
                now, past = moved[lane], moved_before[lane]
                shrinks = now < 0.5 * past <= 0.5 * largest
                remaining = now * now / (past - now) if shrinks else now
                moved_before[lane] = now
                if remaining <= tolerance:
                    done[lane] = True
        for lane in range(lanes):
            image = head + lane
            converged[image, part] = done[lane]
            for row in range(size):
                neuron = begin + row
                gate, output = g[row, lane], u[row, lane]
                gates[image, neuron] = gate
                outputs[image, neuron] = output
                _values(table, grid, gate, output, value)
                results[0, image, neuron] = charge_scale * value[2] + of_gate * gate
                results[1, image, neuron] = charge_scale * value[3] + capacitance[neuron] * output
                results[2, image, neuron] = charge_scale * value[5]
                results[3, image, neuron] = gate_scale * math.sinh(value[1])
                results[4, image, neuron] = supply_scale * math.sinh(value[4])


@njit(nogil=True, fastmath={"contract"})
def solve_linear(
    work_first: int,
    work_last: int,
    diagonal: FloatArray,
    right: FloatArray,
    admittance: FloatArray,
    first: NDArray[np.int64],
    left: FloatArray,
    across: FloatArray,
    loaded: bool,
    solution: FloatArray,
) -> None:
    """(diag(d) + Y)·x = r for all images with the corrections of a Newton step.

    Args:
        work_first: First tile, as in :func:`solve_stage`.
        work_last: Tile after the last.
        diagonal: (B, M) S.
        right: (B, M) A.
        admittance: (parts, K, K) S.
        first: (parts + 1,) int64.
        left: (parts, K).
        across: (parts, K).
        loaded: Whether there is a next layer.
        solution: (B, M) V, written.
    """
    batch = diagonal.shape[0]
    tiles = (batch + LANES - 1) // LANES
    for work in range(work_first, work_last):
        part = work // tiles
        head = (work % tiles) * LANES
        lanes = min(LANES, batch - head)
        begin = first[part]
        size = first[part + 1] - begin
        d, r = np.empty((size, LANES)), np.empty((size, LANES))
        step, error = np.empty((size, LANES)), np.empty((size, LANES))
        own = np.zeros(size)
        if loaded:
            for row in range(size):
                own[row] = admittance[part, row, row] - left[part, row] * across[part, row]
        for row in range(size):
            for lane in range(LANES):
                image = head + min(lane, lanes - 1)
                d[row, lane] = diagonal[image, begin + row]
                r[row, lane] = right[image, begin + row]
        _solve(admittance[part], loaded, d, r, left[part], across[part], own, step, error, size)
        for row in range(size):
            for lane in range(lanes):
                solution[head + lane, begin + row] = step[row, lane]


def tile_count(batch: int, partitions: int) -> int:
    """Number of tiles of a batch."""
    return partitions * (-(-batch // LANES))

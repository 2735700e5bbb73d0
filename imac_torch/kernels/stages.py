"""Compiled Newton's method of one partition's neurons in a stage of a time step.

The equations are those of :mod:`imac_torch.kernels.transient`, written for the vectoriser: a tile
is flat, and what belongs to a neuron lies at constant distances in it, so that a compiler sees that
its rows do not overlap. Each linearisation leaves everything behind that later parts of a step
need.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.filters import FAST, FloatArray, product
from imac_torch.kernels.lookup import split_exponential
from imac_torch.kernels.places import (
    LANES,
    N_D,
    N_DIV,
    N_GATES,
    N_GG,
    N_GL,
    N_GO,
    N_GS,
    N_HG,
    N_HO,
    N_I,
    N_IG,
    N_IS,
    N_NEURON,
    N_OG,
    N_OO,
    N_PG,
    N_PU,
    N_QG,
    N_QO,
    N_QS,
    N_R,
    N_SG,
    N_SU,
    N_TG,
    N_TR,
    N_TU,
    N_ZC,
)
from imac_torch.kernels.sixfold import six_patch
from imac_torch.kernels.table import slopes, weights

IntArray = NDArray[np.int64]

CORRECTIONS: Final = 1
"""Richardson steps per linear system: each leaves about 1 % of the preconditioner's error."""

# Rows of the scratch array, of one neuron at a time.
_G, _U, _WEIGHTS = 0, 1, 2  # the last: sixteen rows
_CELL, _COLUMN, _OVER_G, _OVER_U = 18, 19, 20, 21
_VALUE = 22  # eighteen rows
_ARG, _EXP = 40, 41
SCRATCH: Final = 42
_SOON: Final = 2
"""Images between asking for a place in the table and looking there."""


@njit(error_model="numpy", inline="always", fastmath=FAST)
def _exponential(scratch: FloatArray, bits: IntArray, powers: FloatArray) -> None:
    """Exp of a row, clamped to ±300."""
    for lane in range(LANES):
        scratch[_EXP * LANES + lane], powers[lane] = split_exponential(
            scratch[_ARG * LANES + lane]
        )
    for lane in range(LANES):
        bits[lane] = bits[lane] << 52
    for lane in range(LANES):
        scratch[_EXP * LANES + lane] *= powers[lane]


@njit(error_model="numpy", inline="always", fastmath=FAST)
def _axis(
    scratch: FloatArray, source: int, row: int, cell_row: int, over_row: int, low: float,
    high: float, inverse: float, cells: float,
) -> None:
    """Cubic B-splines and slopes at the positions of a row."""
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
        scratch[cell_row * LANES + lane] = cell
        scratch[over_row * LANES + lane] = position - within


@njit(error_model="numpy", fastmath=FAST)
def _look_up(
    scratch: FloatArray, table: FloatArray, columns: int, grid: FloatArray, rows: int
) -> None:
    """All functions and slopes at gates and outputs; linear outside the grid."""
    _axis(scratch, _G, _WEIGHTS, _CELL, _OVER_G, grid[0], grid[1], grid[2], rows - 3.0)
    _axis(scratch, _U, _WEIGHTS + 8, _COLUMN, _OVER_U, grid[3], grid[4], grid[5], columns - 3.0)
    step = np.uint64(6 * columns)
    for lane in range(LANES):
        cell = scratch[_CELL * LANES + lane] * columns + scratch[_COLUMN * LANES + lane]
        scratch[_CELL * LANES + lane] = 6.0 * min(max(cell, 0.0), 1e15)  # a NaN is no place
    for lane in range(LANES):
        six_patch(
            table, np.uint64(scratch[_CELL * LANES + lane]), step, scratch,
            np.uint64(_WEIGHTS * LANES + lane), np.uint64(_VALUE * LANES + lane),
            np.uint64(LANES), np.uint64(scratch[_CELL * LANES + min(lane + _SOON, LANES - 1)]),
        )
    for f in range(6):
        for lane in range(LANES):
            scratch[(_VALUE + f) * LANES + lane] += (
                scratch[(_VALUE + 6 + f) * LANES + lane] * scratch[_OVER_G * LANES + lane]
                + scratch[(_VALUE + 12 + f) * LANES + lane] * scratch[_OVER_U * LANES + lane]
            )


@njit(error_model="numpy", fastmath=FAST)
def _linearise(
    tile: FloatArray, size: int, u: FloatArray, drawn: FloatArray, scratch: FloatArray,
    bits: IntArray, powers: FloatArray, table: FloatArray, rows: int, columns: int,
    grid: FloatArray, circuit: FloatArray, capacitance: FloatArray, own: FloatArray,
) -> None:
    """Newton's equations with the gates eliminated, as of :mod:`imac_torch.kernels.transient`."""
    resistance, feedback, level, sigma, of_gate = (
        circuit[0], circuit[1], circuit[2], circuit[3], circuit[4]
    )
    gate_scale, supply_scale, charge = grid[6], grid[7], grid[8]
    for row in range(size):
        of_output, beside = capacitance[row], own[row]
        at = row * N_NEURON
        for lane in range(LANES):
            scratch[_G * LANES + lane] = tile[at + N_GATES * LANES + lane]
            scratch[_U * LANES + lane] = u[row, lane]
        _look_up(scratch, table, columns, grid, rows)
        for lane in range(LANES):
            scratch[_ARG * LANES + lane] = scratch[(_VALUE + 4) * LANES + lane]
        _exponential(scratch, bits, powers)
        for lane in range(LANES):
            rising = scratch[_EXP * LANES + lane]
            falling = 1.0 / rising
            steep = 0.5 * supply_scale * (rising + falling)
            tile[at + N_IS * LANES + lane] = 0.5 * supply_scale * (rising - falling)
            tile[at + N_PG * LANES + lane] = steep * scratch[(_VALUE + 10) * LANES + lane]
            tile[at + N_PU * LANES + lane] = steep * scratch[(_VALUE + 16) * LANES + lane]
        for lane in range(LANES):
            scratch[_ARG * LANES + lane] = scratch[(_VALUE + 1) * LANES + lane]
        _exponential(scratch, bits, powers)
        for lane in range(LANES):
            gate, output = scratch[_G * LANES + lane], scratch[_U * LANES + lane]
            rising = scratch[_EXP * LANES + lane]
            falling = 1.0 / rising
            tunnel = 0.5 * gate_scale * (rising - falling)
            steep = 0.5 * gate_scale * (rising + falling)
            tunnel_by_gate = steep * scratch[(_VALUE + 7) * LANES + lane]
            tunnel_by_output = steep * scratch[(_VALUE + 13) * LANES + lane]
            gate_charge = charge * scratch[(_VALUE + 2) * LANES + lane] + of_gate * gate
            output_charge = charge * scratch[(_VALUE + 3) * LANES + lane] + of_output * output
            gg = charge * scratch[(_VALUE + 8) * LANES + lane] + of_gate
            go = charge * scratch[(_VALUE + 14) * LANES + lane]
            og = charge * scratch[(_VALUE + 9) * LANES + lane]
            oo = charge * scratch[(_VALUE + 15) * LANES + lane] + of_output
            gate_rate = sigma * gate_charge - tile[at + N_HG * LANES + lane]
            output_rate = sigma * output_charge - tile[at + N_HO * LANES + lane]
            gate_defect = (
                tile[at + N_ZC * LANES + lane] + level - gate
                + resistance * ((output - gate) * feedback - tunnel - gate_rate)
            )
            output_defect = (
                scratch[_VALUE * LANES + lane] + (gate - output) * feedback
                - drawn[row, lane] - output_rate
            )
            divisor = 1.0 + resistance * (feedback + tunnel_by_gate + sigma * gg)
            inverse = 1.0 / divisor
            transfer = scratch[(_VALUE + 6) * LANES + lane] + feedback - sigma * og
            coupling = resistance * (feedback - tunnel_by_output - sigma * go) * inverse
            step = gate_defect * inverse
            diagonal = (
                feedback - scratch[(_VALUE + 12) * LANES + lane] + sigma * oo
                - transfer * coupling
            )
            tile[at + N_GS * LANES + lane] = step
            tile[at + N_GL * LANES + lane] = coupling
            tile[at + N_D * LANES + lane] = diagonal
            tile[at + N_R * LANES + lane] = output_defect + transfer * step
            tile[at + N_I * LANES + lane] = 1.0 / (diagonal + beside)
            tile[at + N_TR * LANES + lane] = transfer
            tile[at + N_DIV * LANES + lane] = divisor
            tile[at + N_GG * LANES + lane] = gg
            tile[at + N_GO * LANES + lane] = go
            tile[at + N_OG * LANES + lane] = og
            tile[at + N_OO * LANES + lane] = oo
            tile[at + N_QG * LANES + lane] = gate_charge
            tile[at + N_QO * LANES + lane] = output_charge
            tile[at + N_QS * LANES + lane] = charge * scratch[(_VALUE + 5) * LANES + lane]
            tile[at + N_IG * LANES + lane] = tunnel
            tile[at + N_SG * LANES + lane] = charge * scratch[(_VALUE + 11) * LANES + lane]
            tile[at + N_SU * LANES + lane] = charge * scratch[(_VALUE + 17) * LANES + lane]
            tile[at + N_TG * LANES + lane] = tunnel_by_gate
            tile[at + N_TU * LANES + lane] = tunnel_by_output


@njit(error_model="numpy", fastmath=FAST)
def _precondition(
    tile: FloatArray, error: FloatArray, size: int, left: FloatArray, right: FloatArray,
    scratch: FloatArray, step: FloatArray,
) -> None:
    """Step += (diagonal + left·rightᵀ)⁻¹·error."""
    leak, norm = _ARG * LANES, _EXP * LANES
    for lane in range(LANES):
        scratch[leak + lane] = 0.0
        scratch[norm + lane] = 1.0
    for row in range(size):
        across, along = right[row], left[row] * right[row]
        at = row * N_NEURON + N_I * LANES
        for lane in range(LANES):
            inverse = tile[at + lane]
            scratch[leak + lane] += across * error[row, lane] * inverse
            scratch[norm + lane] += along * inverse
    for lane in range(LANES):
        scratch[leak + lane] /= scratch[norm + lane]
    for row in range(size):
        share, at = left[row], row * N_NEURON + N_I * LANES
        for lane in range(LANES):
            step[row, lane] += tile[at + lane] * (error[row, lane] - share * scratch[leak + lane])


@njit(error_model="numpy", fastmath=FAST)
def solve(
    tile: FloatArray, size: int, matrix: FloatArray, left: FloatArray, right: FloatArray,
    loaded: bool, scratch: FloatArray, step: FloatArray, error: FloatArray,
) -> None:
    """(diag + Y)·step = right side of the tile."""
    if not loaded:
        for row in range(size):
            at = row * N_NEURON
            for lane in range(LANES):
                step[row, lane] = tile[at + N_R * LANES + lane] / tile[at + N_D * LANES + lane]
        return
    for row in range(size):
        at = row * N_NEURON
        for lane in range(LANES):
            step[row, lane] = 0.0
            error[row, lane] = tile[at + N_R * LANES + lane]
    _precondition(tile, error, size, left, right, scratch, step)
    for _ in range(CORRECTIONS):
        for row in range(size):
            for lane in range(LANES):
                error[row, lane] = 0.0
        product(error, size, matrix, step)
        for row in range(size):
            at = row * N_NEURON
            for lane in range(LANES):
                error[row, lane] = (
                    tile[at + N_R * LANES + lane]
                    - tile[at + N_D * LANES + lane] * step[row, lane] - error[row, lane]
                )
        _precondition(tile, error, size, left, right, scratch, step)


@njit(error_model="numpy", fastmath=FAST)
def newton(
    tile: FloatArray, size: int, u: FloatArray, step: FloatArray, offset: FloatArray,
    drawn: FloatArray, error: FloatArray, scratch: FloatArray, bits: IntArray, powers: FloatArray,
    table: FloatArray, rows: int, columns: int, grid: FloatArray, circuit: FloatArray,
    capacitance: FloatArray, matrix: FloatArray, left: FloatArray, right: FloatArray,
    own: FloatArray, loaded: bool, tolerance: float, limit: int, largest: float, lanes: int,
) -> int:
    """Solve one stage; lanes that did not converge, as bits.

    What is known of charges and currents is that of the last linearisation, moved along it by the
    last step: as exact as the solution itself.
    """
    before = np.full(LANES, np.inf)
    moved = np.empty(LANES)
    done = np.zeros(LANES, dtype=np.bool_)
    for lane in range(lanes, LANES):
        done[lane] = True
    for _turn in range(limit):
        for row in range(size):
            for lane in range(LANES):
                drawn[row, lane] = offset[row, lane]
        if loaded:
            product(drawn, size, matrix, u)
        _linearise(
            tile, size, u, drawn, scratch, bits, powers, table, rows, columns, grid, circuit,
            capacitance, own,
        )
        solve(tile, size, matrix, left, right, loaded, scratch, step, error)
        for lane in range(LANES):
            moved[lane] = 0.0
        for row in range(size):
            at = row * N_NEURON
            for lane in range(LANES):
                gate = tile[at + N_GL * LANES + lane] * step[row, lane]
                gate += tile[at + N_GS * LANES + lane]
                tile[at + N_GS * LANES + lane] = gate
                longest = max(abs(step[row, lane]), abs(gate))
                # a NaN must not hide behind max
                moved[lane] = moved[lane] if longest <= moved[lane] else longest
        for lane in range(LANES):
            scratch[_ARG * LANES + lane] = (
                0.0 if done[lane] else largest / max(moved[lane], largest)
            )
        for row in range(size):
            at = row * N_NEURON
            for lane in range(LANES):
                factor = scratch[_ARG * LANES + lane]
                du, dg = factor * step[row, lane], factor * tile[at + N_GS * LANES + lane]
                u[row, lane] += du
                tile[at + N_GATES * LANES + lane] += dg
                tile[at + N_QG * LANES + lane] += (
                    tile[at + N_GG * LANES + lane] * dg + tile[at + N_GO * LANES + lane] * du
                )
                tile[at + N_QO * LANES + lane] += (
                    tile[at + N_OG * LANES + lane] * dg + tile[at + N_OO * LANES + lane] * du
                )
                tile[at + N_QS * LANES + lane] += (
                    tile[at + N_SG * LANES + lane] * dg + tile[at + N_SU * LANES + lane] * du
                )
                tile[at + N_IG * LANES + lane] += (
                    tile[at + N_TG * LANES + lane] * dg + tile[at + N_TU * LANES + lane] * du
                )
                tile[at + N_IS * LANES + lane] += (
                    tile[at + N_PG * LANES + lane] * dg + tile[at + N_PU * LANES + lane] * du
                )
        finished = True
        for lane in range(LANES):
            now, past = moved[lane], before[lane]
            shrinks = now < 0.5 * past <= 0.5 * largest
            remaining = now * now / (past - now) if shrinks else now
            before[lane] = now
            if remaining <= tolerance:
                done[lane] = True
            finished = finished and done[lane]
        if finished:
            return 0
    failed = 0
    for lane in range(lanes):
        if not done[lane]:
            failed |= 1 << lane
    return failed

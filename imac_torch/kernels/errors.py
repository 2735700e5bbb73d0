"""Compiled loops over a partition's neurons within a time step, besides Newton's method.

The equations are those of :mod:`imac_torch.transient.step`, :mod:`imac_torch.transient.accuracy`
and :mod:`imac_torch.transient.kinks`.
"""

from __future__ import annotations

import math
from typing import Final

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.filters import FAST, FloatArray
from imac_torch.kernels.places import (
    GATE,
    GATE_CHARGE,
    GATE_CURRENT,
    GATE_RATE,
    GATE_UNSEEN,
    LANES,
    MIDDLE_GATE,
    MIDDLE_OUTPUT,
    MIDDLE_SLOPE,
    N_BEND,
    N_D,
    N_DG1,
    N_DIV,
    N_DO1,
    N_EG,
    N_EO,
    N_G1,
    N_GATES,
    N_GG,
    N_GL,
    N_GO,
    N_GS,
    N_HG,
    N_HO,
    N_HS,
    N_IG,
    N_IS,
    N_NEURON,
    N_OG,
    N_OO,
    N_OU1,
    N_QG,
    N_QG1,
    N_QO,
    N_QO1,
    N_QS,
    N_QS1,
    N_R,
    N_RG1,
    N_RO1,
    N_SL1,
    N_SL2,
    N_TR,
    N_TWG,
    N_TWU,
    N_U1,
    N_ZC,
    OUTPUT,
    OUTPUT_CHARGE,
    OUTPUT_RATE,
    OUTPUT_UNSEEN,
    RECORDED,
    SLOPE,
    SUPPLY_CHARGE,
    SUPPLY_CURRENT,
    SUPPLY_RATE,
)

GAMMA: Final = 2.0 - math.sqrt(2.0)
"""Of TR-BDF2, as :data:`imac_torch.transient.integrator.GAMMA`."""


@njit(error_model="numpy", fastmath=FAST)
def begin_stage(
    tile: FloatArray, size: int, u: FloatArray, kept: FloatArray, first: int, neuron: int,
    old: int, now: int, combined: FloatArray, weights: FloatArray, stage: int, sigma: float,
    share: float,
) -> None:
    """Guesses and histories; ``kept`` is flat."""
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    rest = 1.0 - share
    for row in range(size):
        at, was = row * N_NEURON, (first + row) * neuron + old
        has = (first + row) * neuron + now
        for lane in range(LANES):
            output = (
                w0 * kept[was + OUTPUT * LANES + lane]
                + w1 * kept[has + MIDDLE_OUTPUT * LANES + lane]
                + w2 * kept[has + OUTPUT * LANES + lane]
            )
            gate = (
                w0 * kept[was + GATE * LANES + lane]
                + w1 * kept[has + MIDDLE_GATE * LANES + lane]
                + w2 * kept[has + GATE * LANES + lane]
            )
            u[row, lane] = output
            tile[at + N_GATES * LANES + lane] = gate
        for lane in range(LANES):
            tile[at + N_ZC * LANES + lane] = combined[first + row, lane]
        if stage == 0:
            for lane in range(LANES):
                tile[at + N_HG * LANES + lane] = (
                    sigma * kept[has + GATE_CHARGE * LANES + lane]
                    + kept[has + GATE_RATE * LANES + lane]
                )
                tile[at + N_HO * LANES + lane] = (
                    sigma * kept[has + OUTPUT_CHARGE * LANES + lane]
                    + kept[has + OUTPUT_RATE * LANES + lane]
                )
                tile[at + N_HS * LANES + lane] = (
                    sigma * kept[has + SUPPLY_CHARGE * LANES + lane]
                    + kept[has + SUPPLY_RATE * LANES + lane]
                )
        else:
            for lane in range(LANES):
                u[row, lane] += w3 * tile[at + N_U1 * LANES + lane]
                tile[at + N_GATES * LANES + lane] += w3 * tile[at + N_G1 * LANES + lane]
            for lane in range(LANES):
                tile[at + N_HG * LANES + lane] = sigma * (
                    share * tile[at + N_QG1 * LANES + lane]
                    + rest * kept[has + GATE_CHARGE * LANES + lane]
                )
                tile[at + N_HO * LANES + lane] = sigma * (
                    share * tile[at + N_QO1 * LANES + lane]
                    + rest * kept[has + OUTPUT_CHARGE * LANES + lane]
                )
                tile[at + N_HS * LANES + lane] = sigma * (
                    share * tile[at + N_QS1 * LANES + lane]
                    + rest * kept[has + SUPPLY_CHARGE * LANES + lane]
                )


@njit(error_model="numpy", fastmath=FAST)
def end_stage(
    tile: FloatArray, size: int, u: FloatArray, sums: FloatArray, sigma: float,
    circuit: FloatArray,
) -> None:
    """Rates, and what powers take; ``sums`` is flat."""
    feedback, onward, tied = circuit[1], circuit[5], circuit[6]
    for row in range(size):
        at = row * N_NEURON
        for lane in range(LANES):
            gate, output = tile[at + N_GATES * LANES + lane], u[row, lane]
            tile[at + N_HG * LANES + lane] = (
                sigma * tile[at + N_QG * LANES + lane] - tile[at + N_HG * LANES + lane]
            )
            tile[at + N_HO * LANES + lane] = (
                sigma * tile[at + N_QO * LANES + lane] - tile[at + N_HO * LANES + lane]
            )
            tile[at + N_HS * LANES + lane] = (
                sigma * tile[at + N_QS * LANES + lane] - tile[at + N_HS * LANES + lane]
            )
            tile[at + N_SL2 * LANES + lane] = (
                tile[at + N_TR * LANES + lane] + sigma * tile[at + N_OG * LANES + lane]
            )
            tile[at + N_BEND * LANES + lane] = (
                tile[at + N_IG * LANES + lane] - (output - gate) * feedback
            )
        for lane in range(LANES):
            sums[lane] += tile[at + N_IS * LANES + lane]
            sums[LANES + lane] += tile[at + N_BEND * LANES + lane]
            sums[2 * LANES + lane] += tile[at + N_HS * LANES + lane]
            sums[3 * LANES + lane] += tile[at + N_HG * LANES + lane]
            sums[4 * LANES + lane] += tile[at + N_QS * LANES + lane]
            sums[5 * LANES + lane] += tile[at + N_QG * LANES + lane]
        for lane in range(LANES):
            combined = tile[at + N_ZC * LANES + lane]
            taken = tile[at + N_BEND * LANES + lane] + tile[at + N_HG * LANES + lane]
            sums[7 * LANES + lane] += combined * (onward * taken - tied * combined)


@njit(error_model="numpy", fastmath=FAST)
def keep_middle(tile: FloatArray, size: int, u: FloatArray) -> None:
    """The first stage, while the second is solved."""
    for row in range(size):
        at = row * N_NEURON
        for lane in range(LANES):
            tile[at + N_U1 * LANES + lane] = u[row, lane]
        for lane in range(LANES):
            tile[at + N_G1 * LANES + lane] = tile[at + N_GATES * LANES + lane]
            tile[at + N_QG1 * LANES + lane] = tile[at + N_QG * LANES + lane]
            tile[at + N_QO1 * LANES + lane] = tile[at + N_QO * LANES + lane]
            tile[at + N_QS1 * LANES + lane] = tile[at + N_QS * LANES + lane]
            tile[at + N_RG1 * LANES + lane] = tile[at + N_HG * LANES + lane]
            tile[at + N_RO1 * LANES + lane] = tile[at + N_HO * LANES + lane]
            tile[at + N_SL1 * LANES + lane] = tile[at + N_SL2 * LANES + lane]


@njit(error_model="numpy", fastmath=FAST)
def local_errors(
    tile: FloatArray, size: int, kept: FloatArray, first: int, neuron: int, now: int,
    e0: float, e1: float, e2: float, unseen: float,
) -> None:
    """Of both charges, from the rates at the three points and what these do not show."""
    for row in range(size):
        at, has = row * N_NEURON, (first + row) * neuron + now
        for lane in range(LANES):
            tile[at + N_EG * LANES + lane] = (
                e0 * kept[has + GATE_RATE * LANES + lane] + e1 * tile[at + N_RG1 * LANES + lane]
                + e2 * tile[at + N_HG * LANES + lane]
                + unseen * kept[has + GATE_UNSEEN * LANES + lane]
            )
            tile[at + N_EO * LANES + lane] = (
                e0 * kept[has + OUTPUT_RATE * LANES + lane] + e1 * tile[at + N_RO1 * LANES + lane]
                + e2 * tile[at + N_HO * LANES + lane]
                + unseen * kept[has + OUTPUT_UNSEEN * LANES + lane]
            )


@njit(error_model="numpy", fastmath=FAST)
def pass_on(
    tile: FloatArray, size: int, turn: int, combined: FloatArray, first: int, resistance: float,
    sigma: float, drawn: FloatArray, at_line: int, filtered: bool,
) -> None:
    """Right sides of the errors' linear systems."""
    of_gate = (N_EG if turn == 0 else N_DG1) * LANES
    of_output = (N_EO if turn == 0 else N_DO1) * LANES
    for row in range(size):
        at = row * N_NEURON
        for lane in range(LANES):
            defect = combined[first + row, lane] + resistance * sigma * tile[at + of_gate + lane]
            tile[at + N_GS * LANES + lane] = defect / tile[at + N_DIV * LANES + lane]
        for lane in range(LANES):
            tile[at + N_R * LANES + lane] = (
                sigma * tile[at + of_output + lane]
                + tile[at + N_TR * LANES + lane] * tile[at + N_GS * LANES + lane]
            )
        if filtered:
            for lane in range(LANES):
                tile[at + N_R * LANES + lane] -= drawn[at_line + row, lane]


@njit(error_model="numpy", fastmath=FAST)
def changed(
    tile: FloatArray, size: int, turn: int, move: FloatArray, worst: FloatArray, steepness: float
) -> None:
    """Voltages and charges by the errors; ``worst`` (LANES,) V of the first turn."""
    gate_at = (N_DG1 if turn == 0 else N_TWG) * LANES
    output_at = (N_DO1 if turn == 0 else N_TWU) * LANES
    for row in range(size):
        at = row * N_NEURON
        for lane in range(LANES):
            du = move[row, lane]
            dg = tile[at + N_GS * LANES + lane] + tile[at + N_GL * LANES + lane] * du
            tile[at + N_GS * LANES + lane] = dg
            tile[at + gate_at + lane] = (
                tile[at + N_GG * LANES + lane] * dg + tile[at + N_GO * LANES + lane] * du
            )
            tile[at + output_at + lane] = (
                tile[at + N_OG * LANES + lane] * dg + tile[at + N_OO * LANES + lane] * du
            )
        if turn == 0:
            for lane in range(LANES):
                du = move[row, lane]
                tile[at + N_OU1 * LANES + lane] = du
                nodes = max(abs(du), steepness * abs(tile[at + N_GS * LANES + lane]))
                worst[lane] = worst[lane] if nodes <= worst[lane] else nodes


@njit(error_model="numpy", fastmath=FAST)
def finish(
    tile: FloatArray, size: int, u: FloatArray, move: FloatArray, kept: FloatArray, first: int,
    neuron: int, now: int, new: int, sigma: float,
) -> None:
    """The state to go on from."""
    for row in range(size):
        at, gets = row * N_NEURON, (first + row) * neuron + new
        for lane in range(LANES):
            once, twice = tile[at + N_DG1 * LANES + lane], tile[at + N_TWG * LANES + lane]
            kept[gets + GATE_CHARGE * LANES + lane] = tile[at + N_QG * LANES + lane] + twice
            kept[gets + GATE_RATE * LANES + lane] = (
                tile[at + N_HG * LANES + lane] + sigma * (twice - once)
            )
            kept[gets + GATE_UNSEEN * LANES + lane] = (
                tile[at + N_EG * LANES + lane] - 2.0 * once + twice
            )
            once, twice = tile[at + N_DO1 * LANES + lane], tile[at + N_TWU * LANES + lane]
            kept[gets + OUTPUT_CHARGE * LANES + lane] = tile[at + N_QO * LANES + lane] + twice
            kept[gets + OUTPUT_RATE * LANES + lane] = (
                tile[at + N_HO * LANES + lane] + sigma * (twice - once)
            )
            kept[gets + OUTPUT_UNSEEN * LANES + lane] = (
                tile[at + N_EO * LANES + lane] - 2.0 * once + twice
            )
            kept[gets + SUPPLY_CHARGE * LANES + lane] = tile[at + N_QS * LANES + lane]
            kept[gets + SUPPLY_RATE * LANES + lane] = tile[at + N_HS * LANES + lane]
            kept[gets + GATE_CURRENT * LANES + lane] = tile[at + N_IG * LANES + lane]
            kept[gets + SUPPLY_CURRENT * LANES + lane] = tile[at + N_IS * LANES + lane]
            kept[gets + SLOPE * LANES + lane] = tile[at + N_SL2 * LANES + lane]
            kept[gets + MIDDLE_GATE * LANES + lane] = tile[at + N_G1 * LANES + lane]
            kept[gets + MIDDLE_SLOPE * LANES + lane] = tile[at + N_SL1 * LANES + lane]
            kept[gets + GATE * LANES + lane] = (
                tile[at + N_GATES * LANES + lane] + tile[at + N_GS * LANES + lane]
            )
        for lane in range(LANES):
            du = move[row, lane]
            kept[gets + OUTPUT * LANES + lane] = u[row, lane] + du
            kept[gets + RECORDED * LANES + lane] = (
                u[row, lane] + 0.5 * (tile[at + N_OU1 * LANES + lane] + du)
            )
            kept[gets + MIDDLE_OUTPUT * LANES + lane] = (
                tile[at + N_U1 * LANES + lane] + (1.0 - GAMMA) * du
            )


@njit(error_model="numpy", fastmath=FAST)
def judge(
    tile: FloatArray, size: int, kept: FloatArray, first: int, neuron: int, now: int, new: int,
    corner: int, step: float, span: float, length: float, ratio: float, grid: FloatArray,
    local: FloatArray,
) -> None:
    """Errors between points, places in the table, bends; ``local`` is flat."""
    one = span * step * step * (step if corner == 0 else 1.0)
    first_part, last_part = 1.0 / (GAMMA * step), 1.0 / ((1.0 - GAMMA) * step)
    back = 0.0 if corner else 1.0 / length
    beyond = 0.0 if corner else 1.0 / (GAMMA * step + length)
    whole = 1.0 if corner else 1.0 / (step + length)
    for row in range(size):
        at = row * N_NEURON
        has, gets = (first + row) * neuron + now, (first + row) * neuron + new
        for lane in range(LANES):
            start = kept[has + RECORDED * LANES + lane]
            middle = kept[gets + MIDDLE_OUTPUT * LANES + lane]
            end = kept[gets + RECORDED * LANES + lane]
            slope = (middle - start) * first_part
            curve = ((end - middle) * last_part - slope) / step
            past = (start - kept[has + MIDDLE_OUTPUT * LANES + lane]) * back
            bend = (slope - past) * beyond
            off = one * abs((curve - bend) * whole)
            local[LANES + lane] = local[LANES + lane] if off <= local[LANES + lane] else off
        for lane in range(LANES):
            gate = kept[gets + GATE * LANES + lane]
            output = kept[gets + OUTPUT * LANES + lane]
            outside = max(
                max(grid[0] - gate, gate - grid[1]), max(grid[3] - output, output - grid[4])
            )
            local[7 * LANES + lane] = max(local[7 * LANES + lane], outside)
        # Corners of the curve, see :mod:`imac_torch.transient.kinks`.
        for lane in range(LANES):
            s2 = abs(tile[at + N_SL1 * LANES + lane])
            s3 = abs(tile[at + N_SL2 * LANES + lane])
            s1 = s2 if corner == 2 else abs(kept[has + SLOPE * LANES + lane])
            s0 = s1 if corner != 0 else abs(kept[has + MIDDLE_SLOPE * LANES + lane])
            steepest = max(max(s0, s1), max(s2, s3))
            amplified = steepest / abs(
                tile[at + N_DIV * LANES + lane] * tile[at + N_D * LANES + lane]
            )
            local[5 * LANES + lane] = max(local[5 * LANES + lane], amplified)
            tile[at + N_BEND * LANES + lane] = min(
                min(s0, s1) - ratio * max(s0, s1),
                min(min(s1, s2) - ratio * max(s1, s2), min(s2, s3) - ratio * max(s2, s3)),
            )


@njit(error_model="numpy")
def kinks(
    tile: FloatArray, size: int, kept: FloatArray, first: int, neuron: int, now: int, corner: int,
    sigma: float, ratio: float, missed: float, held: float, local: FloatArray,
) -> None:
    """Curves that bend between points: how far waveforms may be off; ``local`` is flat."""
    intervals = 3 - corner
    for row in range(size):
        at, has = row * N_NEURON, (first + row) * neuron + now
        least_ratio = 0.0
        for lane in range(LANES):
            least_ratio = min(least_ratio, tile[at + N_BEND * LANES + lane])
        if not least_ratio < 0.0:
            continue
        for lane in range(LANES):
            if not tile[at + N_BEND * LANES + lane] < 0.0:
                continue
            slopes = (
                kept[has + MIDDLE_SLOPE * LANES + lane], kept[has + SLOPE * LANES + lane],
                tile[at + N_SL1 * LANES + lane], tile[at + N_SL2 * LANES + lane],
            )  # fmt: skip
            gates = (
                kept[has + MIDDLE_GATE * LANES + lane], kept[has + GATE * LANES + lane],
                tile[at + N_G1 * LANES + lane], tile[at + N_GATES * LANES + lane],
            )  # fmt: skip
            worst = 0.0
            for place in range(intervals):
                k = corner + place
                one, two = abs(slopes[k]), abs(slopes[k + 1])
                if min(one, two) < ratio * max(one, two):
                    # Beside a corner of an earlier interval, which is done, only what comes counts.
                    least = 1 if place < intervals - 2 else 0
                    longest = 0.0
                    for other in range(max(place - 1, least), min(place + 2, intervals)):
                        there = corner + other
                        longest = max(longest, abs(gates[there + 1] - gates[there]))
                    worst = max(worst, abs(slopes[k + 1] - slopes[k]) * longest)
                    local[3 * LANES + lane] = 1.0
            diagonal = tile[at + N_D * LANES + lane]
            part = sigma * tile[at + N_OO * LANES + lane] / diagonal
            found = (missed + held * part * part) * worst / diagonal
            local[2 * LANES + lane] = max(local[2 * LANES + lane], found)

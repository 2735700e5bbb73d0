"""A time step of one layer's neurons and of the lines behind them, compiled.

The equations are those of :mod:`imac_torch.transient.step` and :mod:`imac_torch.transient.accuracy`
for tabulated neurons and filtered lines. Nothing flows back through read-outs, and neurons that
load each other are those of one partition of the next layer: so all of a step (both stages, the
errors of both and what is taken back of them) is done for a tile of images of one partition before
the next, and stays in the caches meanwhile.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imac_torch.kernels.compiled import njit
from imac_torch.kernels.errors import (
    begin_stage,
    changed,
    end_stage,
    finish,
    judge,
    keep_middle,
    kinks,
    local_errors,
    pass_on,
)
from imac_torch.kernels.fetch import fetch
from imac_torch.kernels.filters import (
    FAST,
    FloatArray,
    add,
    closed,
    combine,
    delivered,
    filtered,
    largest_of,
    pass_filters,
    product,
    spread,
    weighed,
)
from imac_torch.kernels.places import (
    COMBINED,
    END,
    ERROR,
    FAILED,
    FIRST_SUM,
    INSIDE,
    KEPT,
    LANES,
    LARGEST,
    LEFT,
    LEFT_OUT,
    MIDDLE,
    N_NEURON,
    RATES,
    REACH,
    SEEN,
    SUMS,
    UNSEEN,
    VALUES,
)
from imac_torch.kernels.stages import SCRATCH, newton, solve

IntArray = NDArray[np.int64]


@njit(nogil=True, error_model="numpy", fastmath=FAST)
def step_layer(
    tile_first: int,
    tile_last: int,
    batch: int,
    kept: FloatArray,
    passed: FloatArray,
    following: FloatArray,
    lines: FloatArray,
    carried: FloatArray,
    results: FloatArray,
    sets: IntArray,
    guesses: FloatArray,
    numbers: FloatArray,
    table: FloatArray,
    shape: tuple[int, int],
    grid: FloatArray,
    circuit: FloatArray,
    capacitance: FloatArray,
    first: IntArray,
    starts: IntArray,
    admittance: FloatArray,
    left: FloatArray,
    across: FloatArray,
    own: FloatArray,
    bias_currents: FloatArray,
    loaded: bool,
    width: int,
    inverse: FloatArray,
    through: FloatArray,
    onward: FloatArray,
    transfer: FloatArray,
    at_rest: FloatArray,
    missed: FloatArray,
    bias_row: FloatArray,
    bias_filtered: FloatArray,
    forms: FloatArray,
    ends_direct: FloatArray,
    ends_filtered: FloatArray,
) -> None:
    """One step of tiles of images.

    Args:
        tile_first: First tile of images.
        tile_last: Tile after the last.
        batch: Number of images; the last tile may not be full.
        kept: (tiles, M, 3·KEPT, LANES), see :mod:`imac_torch.kernels.places`.
        passed: (tiles, PASSED, M, LANES) of this layer.
        following: (tiles, PASSED, M', LANES) of the next layer, written; or of 0 neurons.
        lines: (tiles, parts, HELD, (rows + 4)·LANES) of the next layer's filters; what is behind
            them stays 0.
        carried: (tiles, CARRIED, LANES), from layer to layer.
        results: (tiles, RESULTS, LANES), written.
        sets: (5,) what is kept of the step before, of the start, where the end goes; the lines'
            present half; 1 behind a corner, 2 in the first step of all, else 0.
        guesses: (2, 4), of both stages: weights of the start of the step before, its stage, the
            start and the stage of this step.
        numbers: (20,) step s; σ 1/s; vdd V; tolerance V, limit and longest step V of Newton's
            method; the stage's part in a BDF2 history; three weights of rates in local errors, and
            of what these do not show; steepness; the error of a parabola; s from the stage of the
            step before; what is left of errors taken back, usually and behind a corner; the largest
            transfer from the layer before; three numbers of :mod:`imac_torch.transient.kinks`.
        table: Coefficients, flat, and two numbers behind the last.
        shape: Of the table.
        grid: As of :func:`imac_torch.kernels.transient.solve_stage`.
        circuit: Likewise.
        capacitance: (M,) F from outputs to ground.
        first: (parts + 1,) neuron ranges of the partitions.
        starts: (parts,) lines that their first neurons drive.
        admittance: (parts, strips, K, 4) S, of lines by lines.
        left: (parts, K) and
        across: (parts, K): its rank-one part.
        own: (parts, K) S, its diagonal less that.
        bias_currents: (parts, K) S, into lines by the bias line's voltage.
        loaded: Whether there is a next layer.
        width: W, lines of a partition.
        inverse: (K+1,) s, 1/(σ + p) of the filters; empty: there are none.
        through: (K+1,) p/(σ + p).
        onward: (parts, strips, W + M', 4), what filters draw (S) and pass on.
        transfer: (parts, strips, M', 4).
        at_rest: (parts, strips, M', 4), the same of the DC solution.
        missed: (K+1,), see :class:`imac_torch.transient.dynamics.SeriesModel`.
        bias_row: (W,) S and
        bias_filtered: (K·W,) S: what the bias line draws, by lines and by filters of its partition.
        forms: (M'·L, 3) W/V², what read-outs of the next layer deliver by the square of their I+
            end, by its product with another voltage, and by the square of that; empty: nobody asks.
        ends_direct: (parts, strips, rows, 4), by lines: M' I+ ends, and the others are what they
            pass on to the next layer; or M'·L I+ ends and M'·L I- ends, which are the others.
        ends_filtered: (parts, strips, rows, 4), by filters.
    """
    step, sigma, vdd, tolerance, limit, largest = (
        numbers[0], numbers[1], numbers[2], numbers[3], int(numbers[4]), numbers[5]
    )
    share, e0, e1, e2, unseen = numbers[6], numbers[7], numbers[8], numbers[9], numbers[10]
    steepness, span, length = numbers[11], numbers[12], numbers[13]
    left_factor, left_behind, passes = numbers[14], numbers[15], numbers[16]
    missed_kink, held_kink, ratio = numbers[17], numbers[18], numbers[19]
    resistance = circuit[0]
    neuron = 3 * KEPT * LANES
    old, now, new = (
        sets[0] * KEPT * LANES, sets[1] * KEPT * LANES, sets[2] * KEPT * LANES
    )
    half, corner = sets[3], sets[4]
    parts = len(first) - 1
    most = 0
    for part in range(parts):
        most = max(most, first[part + 1] - first[part])
    padded = (max(most, width) + 7) // 4 * 4
    filters = len(inverse)
    rows = filters * width
    count = rows * LANES
    states = (filters - 1) * width if filters else 0
    passing = following.shape[2]
    reach = width + passing if loaded else 0
    scratch = np.zeros(SCRATCH * LANES)
    bits = np.zeros(LANES, dtype=np.int64)
    powers = bits.view(np.float64)
    tile = np.zeros(most * N_NEURON)
    u, move = np.zeros((padded, LANES)), np.zeros((padded, LANES))
    volts, offset = np.zeros((padded, LANES)), np.zeros((padded, LANES))
    drawn, wrong = np.zeros((padded, LANES)), np.zeros((padded, LANES))
    held, rate = np.zeros((rows + 4, LANES)), np.zeros(count)
    error, once = np.zeros(count), np.zeros(count)
    found = np.zeros((reach + 4, LANES))
    ends = np.zeros((ends_direct.shape[2], LANES))
    flat, levels = held.reshape(-1), volts.reshape(-1)
    local = np.empty(8 * LANES)
    for t in range(tile_first, tile_last):
        lanes = min(LANES, batch - t * LANES)
        state, mine, out, carry = kept[t].reshape(-1), passed[t], results[t], carried[t]
        sums = out.reshape(-1)
        out[:] = 0.0
        local[:] = 0.0
        for lane in range(LANES):
            local[3 * LANES + lane] = carry[SEEN, lane]
            local[4 * LANES + lane] = carry[LARGEST, lane]
            carry[LARGEST, lane] = 0.0
        follow = following[t]
        if loaded:
            follow[:] = 0.0
        failed = 0
        for part in range(parts):
            begin, size, at = first[part], first[part + 1] - first[part], starts[part]
            matrix, a, b, beside = admittance[part], left[part], across[part], own[part]
            caps = capacitance[begin : begin + size]
            bias = vdd if loaded and part == parts - 1 else 0.0
            here = lines[t, part]
            u[:] = 0.0
            move[:] = 0.0
            for row in range(begin, begin + size):
                fetch(state, row * neuron + now, row * neuron + now + KEPT * LANES)
            for stage in range(2):
                # What lines draw and pass on by their past.
                for row in range(size):
                    current = vdd * bias_currents[part, row]
                    for lane in range(LANES):
                        offset[row, lane] = current
                found[:] = 0.0
                if rows:
                    if stage == 0:
                        filtered(
                            flat, here[VALUES + half], here[RATES + half], sigma, 1.0, inverse,
                            width,
                        )
                    else:
                        filtered(
                            flat, here[MIDDLE], here[VALUES + half], sigma * share,
                            sigma * (1.0 - share), inverse, width,
                        )
                    product(found, reach, onward[part], held)
                    for row in range(size):
                        for lane in range(LANES):
                            offset[row, lane] += found[at + row, lane]
                begin_stage(
                    tile, size, u, state, begin, neuron, old, now, mine[COMBINED + stage],
                    guesses[stage], stage, sigma, share,
                )
                failed |= newton(
                    tile, size, u, move, offset, drawn, wrong, scratch, bits, powers, table,
                    shape[0], shape[1], grid, circuit, caps, matrix, a, b, beside, loaded,
                    tolerance, limit, largest, lanes,
                )
                base = FIRST_SUM + SUMS * stage
                end_stage(tile, size, u, sums[base * LANES :], sigma, circuit)
                if stage == 0:
                    keep_middle(tile, size, u)
                if not loaded:
                    continue
                spread(volts, u, at, size, bias)
                outputs = found[width:]
                product(outputs, passing, transfer[part], volts)
                add(
                    follow[COMBINED + stage].reshape(-1), outputs.reshape(-1), 1.0,
                    passing * LANES,
                )
                if bias != 0.0:
                    weighed(out[base + 6], bias_row, levels, 1.0)
                if rows:
                    slot = MIDDLE + stage
                    closed(
                        here[slot], rate if stage == 0 else here[RATES + 1 - half], flat, levels,
                        through, inverse, sigma, width,
                    )
                    if bias != 0.0:
                        weighed(out[base + 6], bias_filtered, here[slot], -1.0)
                if len(forms):
                    asked = ends_direct.shape[2]
                    ends[:] = 0.0
                    product(ends, asked, ends_direct[part], volts)
                    if rows:
                        behind = here[MIDDLE + stage].reshape(-1, LANES)
                        product(ends, asked, ends_filtered[part], behind)
                    if asked > passing:
                        delivered(out[base + 7], ends, ends, len(forms), forms)
                    else:
                        delivered(out[base + 7], ends, outputs, 0, forms)
            if failed != 0:
                break
            for row in range(begin, begin + size):
                fetch(state, row * neuron + new, row * neuron + new + KEPT * LANES)
            # Errors, passed once and twice through the end's linear systems.
            local_errors(tile, size, state, begin, neuron, now, e0, e1, e2, unseen)
            if rows:
                combine(
                    error, here[RATES + half], rate, here[RATES + 1 - half], e0, e1, e2, count
                )
                if unseen != 0.0:
                    add(error, here[UNSEEN + half], unseen, count)
            for turn in range(2):
                if rows:
                    source = error if turn == 0 else once
                    filtered(flat, source, source, sigma, 0.0, inverse, width)
                    found[:] = 0.0
                    product(found, reach, onward[part], held)
                    add(
                        follow[COMBINED + 2 + turn].reshape(-1), found[width:].reshape(-1), 1.0,
                        passing * LANES,
                    )
                pass_on(
                    tile, size, turn, mine[COMBINED + 2 + turn], begin, resistance, sigma, found,
                    at, rows > 0,
                )
                solve(tile, size, matrix, a, b, loaded, scratch, move, wrong)
                changed(tile, size, turn, move, local, steepness)
                if not loaded:
                    continue
                spread(volts, move, at, size, 0.0)
                product(follow[COMBINED + 2 + turn], passing, transfer[part], volts)
                if rows:
                    if turn == 0:
                        pass_filters(once, flat, levels, through, width)
                        largest_of(carry[LARGEST], once, states)
                    else:
                        pass_filters(flat, flat, levels, through, width)
                        half_on = 1 - half
                        combine(
                            here[VALUES + half_on], here[END], flat, flat, 1.0, 1.0, 0.0, count
                        )
                        add(here[RATES + half_on], flat, sigma, count)
                        add(here[RATES + half_on], once, -sigma, count)
                        combine(
                            here[UNSEEN + half_on], error, once, flat, 1.0, -2.0, 1.0, count
                        )
            finish(tile, size, u, move, state, begin, neuron, now, new, sigma)
            judge(
                tile, size, state, begin, neuron, now, new, corner, step, span, length, ratio,
                grid, local,
            )
            kinks(
                tile, size, state, begin, neuron, now, corner, sigma, ratio, missed_kink,
                held_kink, local,
            )
            if rows:
                # What the filters miss of the state to go on from.
                for row in range(size):
                    for lane in range(LANES):
                        u[row, lane] += move[row, lane]
                spread(volts, u, at, size, bias)
                whole = missed.sum()
                for place in range(width * LANES):
                    levels[place] *= whole
                for k in range(filters):
                    add(
                        levels, here[VALUES + 1 - half][k * width * LANES :], -missed[k],
                        width * LANES,
                    )
                product(follow[LEFT_OUT], passing, at_rest[part], volts)
        for lane in range(LANES):
            out[FAILED, lane] = 1.0 if (failed >> lane) & 1 else 0.0
        if failed != 0:
            continue
        for lane in range(LANES):
            charges = max(local[lane], local[4 * LANES + lane])
            seen = local[3 * LANES + lane]
            factor = left_behind if corner != 0 or seen != 0.0 else left_factor
            kink = max(
                local[2 * LANES + lane], carry[REACH, lane] * passes * local[5 * LANES + lane]
            )
            worst = max(factor * charges, kink)
            between = local[LANES + lane]
            out[ERROR, lane] = worst if between <= worst else between
            out[INSIDE, lane] = 0.0 if local[7 * LANES + lane] > 0.0 else 1.0
            carry[REACH, lane], carry[SEEN, lane] = kink, seen
        if rows:
            largest_of(out[LEFT], follow[LEFT_OUT].reshape(-1), passing)
